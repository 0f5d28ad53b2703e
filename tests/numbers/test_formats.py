"""Every number format: codes, nearest values, text, channels, bad input."""

import functools
from fractions import Fraction

import numpy as np
import pytest

from lpcaffe.errors import FormatError
from lpcaffe.numbers import Affine, ChannelQFormat, Codebook, Minifloat, PowerOfTwo, QFormat, parse_format
from lpcaffe.numbers.rounding import SCHEMES, round_fp

# Each kind with at most 10 bits, its extremes among them.
SCALAR = [
    *("Q1.0", "Q2.6", "Q-1.3", "Q12.-2"),
    *("affine(1,0.5,0)", "affine(4,0.01,7)", "affine(10,3e-05,-2000.25)", "affine(8,0.1,0,signed,ties=away)"),
    *("affine(3,2,1,signed,ties=down)", "affine(5,0.75,-3,ties=up)", "affine(4,1,2.5,ties=away)"),
    *("minifloat(1,1)", "minifloat(4,3)", "minifloat(7,1)", "minifloat(1,8)"),
    *("minifloat(1,1)/ristretto", "minifloat(4,3)/ristretto", "minifloat(5,4)/ristretto"),
    *("e4m3fn", "e5m2", "e3m2fn", "e2m3fn", "e2m1fn"),
    *("pow2(-8,-1)", "pow2(3,3)", "pow2(-126,127)", "pow2z(-8,-1)", "pow2z(0,0)", "pow2z(-126,127)"),
    *("pow2(-8,-1)/ristretto", "pow2(0,5)/ristretto", "pow2z(0,6)/labelfree", "pow2z(-2,-2)/labelfree"),
    *("pow2(-2,2,scale=0.1)", "pow2z(-2,2,scale=3)", "pow2z(-1,4,scale=0.3)/labelfree"),
    *("codebook(0)", "codebook(-0.5,0,0.5)", "codebook(-3,-0.1,1e-20,0.7,2.5)", "codebook(-1,1,4,scale=0.3)"),
    "codebook(-0.75,-0.25,0.5,scale=4)",
]
VECTOR = [
    "q8[7,8,-2]",
    "q1[0,3,5]",
    "affine(4,[0.01,0.02,5],[7,8,-3.25])",
    "affine([0,2,8],[0.01,0.02,5],0,ties=away)",
    "affine(3,[0.25,0.5,1],1,signed)",
    "pow2(-2,2,scale=[0.1,3,1])",
    "pow2z(-2,2,scale=[0.1,3,1])/labelfree",
    "codebook(-1,0.25,4,scale=[0.3,2,1])",
]


def levels(fmt):
    """All codes and, exactly, their values; ascending."""
    if isinstance(fmt, QFormat):
        codes = range(-fmt.code_max, fmt.code_max + 1)
    elif isinstance(fmt, Affine):
        codes = range(int(fmt.code_min), int(fmt.code_max) + 1)
    elif isinstance(fmt, Minifloat):
        codes = range((1 << fmt.width) + 1)
    elif isinstance(fmt, PowerOfTwo):
        each = range(1, fmt.hi - fmt.lo + 2) if fmt.zero else range(fmt.hi - fmt.lo + 1)
        codes = [0] * fmt.zero + [sign << (fmt.width - 1) | code for sign in (0, 1) for code in each]
    elif isinstance(fmt, Codebook):
        codes = range(len(fmt.values))
    else:
        specials = {"e4m3fn": (0x7F, 0xFF), "e5m2": (0x7C, 0x7D, 0x7E, 0x7F, 0xFC, 0xFD, 0xFE, 0xFF)}.get(str(fmt), ())
        codes = [code for code in range(1 << fmt.width) if code not in (1 << (fmt.width - 1), *specials)]
    codes = np.array(codes)
    values = fmt.decode(codes)
    order = np.argsort(values)
    return codes[order], values[order]


def goes_up(fmt, middle, below, above):
    """Whether the exact middle of two values, whose codes are `below` and `above`, becomes the upper one."""
    if isinstance(fmt, Affine):
        return {"even": above % 2 == 0, "away": below >= 0, "down": False, "up": True}[fmt.ties]
    if str(fmt).endswith("fn") or str(fmt) == "e5m2":
        return above % 2 == 0
    return middle >= 0


def nearest(fmt, codes, values, x):
    """The value nearest to x, in rational arithmetic."""
    place = int(np.searchsorted(values, x))
    candidates = sorted(
        range(max(0, place - 1), min(len(values), place + 1)), key=lambda i: (distance(values[i], x), i)
    )
    first = candidates[0]
    if len(candidates) == 2 and distance(values[candidates[0]], x) == distance(values[candidates[1]], x):
        low, high = sorted(candidates)
        middle = (Fraction(values[low]) + Fraction(values[high])) / 2
        first = high if goes_up(fmt, middle, int(codes[low]), int(codes[high])) else low
    return values[first]


def distance(value, x):
    return abs(Fraction(float(value)) - Fraction(float(x)))


def probes(values, dtype):
    """Values, what is half way between them and beyond them, the neighbours of all that, and random numbers."""
    rng = np.random.default_rng(7)
    middles = (values[:-1] + values[1:]) / 2
    some = rng.permutation(np.concatenate([values, middles]))[:150]
    top = max(abs(values[0]), abs(values[-1]), 1e-6)
    ends = np.array([0.0, -0.0, values[0], values[-1], 1.25 * values[0], 1.25 * values[-1], 1e-30, -1e-30])
    with np.errstate(over="ignore"):
        x = np.concatenate([some, ends, rng.uniform(-1.5, 1.5, 60) * top, rng.normal(0, 0.1, 60) * top]).astype(dtype)
        x = np.concatenate([x, np.nextafter(x, dtype(np.inf)), np.nextafter(x, -dtype(np.inf))])
    return x[np.isfinite(x)]


@functools.cache
def made(text):
    return parse_format(text)


@pytest.mark.parametrize("text", SCALAR)
def test_decode_and_encode_are_inverse_on_all_codes(text):
    fmt = made(text)
    codes, values = levels(fmt)
    assert len(set(values.tolist())) == len(codes)
    assert fmt.encode(values).tolist() == codes.tolist() == fmt.codes(values).tolist()
    assert (fmt.min, fmt.max) == (values[0], values[-1]) or text.endswith("ristretto")
    assert fmt.holds(values).all()
    assert np.array_equal(fmt.quantize(values), values)
    if not isinstance(fmt, Minifloat):
        assert len(codes) <= 1 << fmt.width


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("text", [text for text in SCALAR if "/" not in text])
def test_quantize_gives_the_nearest_value(text, dtype):
    """Exactly, unless float32 data make x / scale + zero round: then near a tie either neighbour."""
    fmt = made(text)
    codes, values = levels(fmt)
    x = probes(values, dtype)
    expected = np.array([nearest(fmt, codes, values, one) for one in x])
    found = fmt.quantize(x)
    assert found.dtype == dtype
    if dtype is np.float64 or not inexact(fmt):
        assert found.tolist() == expected.astype(dtype).tolist()
    else:
        steps = np.abs(x / dtype(fmt.scale)) + abs(getattr(fmt, "zero", 0)) + 1
        allowed = 2 * steps * float(np.finfo(dtype).eps) * fmt.scale
        error = [distance(a, b) - distance(c, b) for a, b, c in zip(found, x, expected, strict=True)]
        assert (np.array(error, float) <= allowed).all()
        assert np.mean(found == expected.astype(dtype)) > 0.5


def inexact(fmt):
    """Whether x / scale + zero may round, for float32 data."""
    return np.frexp(getattr(fmt, "scale", 1.0))[0] != 0.5 or (isinstance(fmt, Affine) and fmt.zero != 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("text", SCALAR)
def test_results_are_on_the_grid_and_special_numbers_are_cared_for(text, dtype):
    fmt = made(text)
    _, values = levels(fmt)
    x = probes(values, dtype).reshape(-1, 3)
    found = fmt.quantize(x)
    assert found.shape == x.shape
    assert fmt.holds(found).all()
    assert np.array_equal(fmt.decode(fmt.encode(x), dtype), found)
    assert not np.signbit(found[found == 0]).any()
    ends = fmt.quantize(np.array([np.inf, -np.inf, np.nan], dtype))
    assert ends[:2].tolist() == [dtype(values[-1]), dtype(values[0])]
    assert np.isnan(ends[2])
    with pytest.raises(FormatError, match="nan at index 1 is not a value of"):
        fmt.encode(np.array([0, np.nan], dtype))
    assert not fmt.holds(dtype(np.nan))
    assert not fmt.saturates(dtype(np.nan))


def test_saturation_begins_half_a_step_beyond_the_ends():
    for text, top, bottom in [
        ("Q2.2", 1.875, -1.875),
        ("q4[2]", 1.875, -1.875),
        ("affine(4,0.5,4)", 5.75, -2.25),
        ("minifloat(4,3)", 496, -496),
        ("minifloat(4,3)/ristretto", 512, -512),
        ("e4m3fn", 464, -464),
        ("pow2(0,2)", 5, -5),
        ("pow2z(0,2,scale=2)", 10, -10),
        ("codebook(-1,0,4)", 6, -1.5),
    ]:
        x = np.array([top, np.nextafter(top, 0), np.nextafter(bottom, 0), bottom])
        assert made(text).saturates(x).tolist() == [True, False, False, True], text
    assert made("affine(4,[0.5,1],4)").saturates([[5.75], [5.5]]).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("text", SCALAR + VECTOR)
def test_text_and_plain_values_are_read_back(text):
    fmt = made(text)
    assert str(fmt) == text
    assert parse_format(text) == fmt == parse_format(fmt.to_plain())
    assert hash(parse_format(text)) == hash(fmt)
    assert fmt.channels == (3 if text in VECTOR else None)


def test_what_a_plan_holds():
    for text, plain in [
        ("Q2.14", "Q2.14"),
        ("minifloat(4,3)/ristretto", "minifloat(4,3)/ristretto"),
        ("pow2z(-8,-1)", "pow2z(-8,-1)"),
        ("q8[7,8,7]", {"bits": 8, "ad": [7, 8, 7]}),
        ("affine(4,0.01,7)", {"bits": 4, "scale": 0.01, "zero": 7}),
        ("affine(4,0.1,0.3,signed,ties=up)", {"bits": 4, "scale": 0.1, "zero": 0.3, "signed": True, "ties": "up"}),
        ("codebook(-0.5,0,0.5)", {"codebook": [-0.5, 0, 0.5]}),
        ("codebook(1,2,scale=[0.1,0.2])", {"codebook": [1, 2], "scale": [0.1, 0.2]}),
        ("pow2(-8,-1,scale=0.1)/ristretto", {"pow2": [-8, -1], "scale": 0.1, "rule": "ristretto"}),
    ]:
        assert parse_format(text).to_plain() == plain
        assert parse_format(plain) == parse_format(text)


def test_real_parameters_are_float32_numbers():
    fmt = Affine(4, 0.01, np.float64(0.3))
    assert fmt.scale == float(np.float32(0.01))
    assert fmt == Affine(np.int8(4), np.float32(0.01), 0.3)
    assert parse_format("affine(4,0.010000000001,0.3)") == fmt
    rng = np.random.default_rng(3)
    scales = rng.integers(1, 0x7F000000, 300, dtype=np.uint32).view(np.float32)
    fmt = Codebook([0, 1], scales)
    assert np.array_equal(np.float32(parse_format(str(fmt)).scale), scales)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("text", VECTOR)
def test_channels_round_as_their_own_formats(text, dtype):
    fmt = made(text)
    x = (np.random.default_rng(5).standard_normal((3, 4, 2)) * 3).astype(dtype)
    alone = [single(fmt, c) for c in range(3)]
    expected = np.stack([alone[c].quantize(x[c]) for c in range(3)])
    picked = fmt.select(np.arange(3).reshape(-1, 1, 1))
    assert np.array_equal(picked.quantize(x), expected)
    assert np.array_equal(picked.decode(picked.encode(x), dtype), expected)
    assert np.array_equal(picked.saturates(x), np.stack([alone[c].saturates(x[c]) for c in range(3)]))
    assert picked.holds(expected).all()
    assert np.array_equal(fmt.max, np.hstack([one.max for one in alone]))
    assert np.array_equal(fmt.min, np.hstack([one.min for one in alone]))
    last = np.moveaxis(x, 0, -1)
    assert np.array_equal(fmt.quantize(last), np.moveaxis(expected, 0, -1))
    flat = np.repeat(np.arange(3), 8)
    assert np.array_equal(fmt.select(flat[5:17]).quantize(x.reshape(-1)[5:17]), expected.reshape(-1)[5:17])


def single(fmt, channel):
    """The format of one channel, made from the plain values."""
    if isinstance(fmt, ChannelQFormat):
        return fmt.channel(channel)
    plain = fmt.to_plain()
    vectors = {key: [plain[key][channel]] for key in fmt.VECTORS if isinstance(plain.get(key), list)}
    return parse_format(plain | vectors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_qmf_by_channel_is_round_fp_bit_for_bit(scheme, dtype):
    fmt = ChannelQFormat(8, [7, -3, 40])
    rng = np.random.default_rng(11)
    x = (rng.standard_normal((3, 5, 4)) * np.float64([[[1]], [[300]], [[2.0**-34]]])).astype(dtype)
    x[:, 0] = [np.nan, np.inf, -np.inf, -0.0]
    x[:, 1] = [np.finfo(dtype).smallest_subnormal, -np.finfo(dtype).smallest_subnormal, 1e38, -1e38]
    draw = {"seed": 3, "stream": 9}
    expected = np.stack([round_fp(x[c], 8 - ad, ad, scheme, index=100 + 20 * c, **draw) for c, ad in enumerate(fmt.ad)])
    found = fmt.select(np.arange(3).reshape(-1, 1, 1)).quantize(x, scheme, index=100, **draw)
    assert found.tobytes() == expected.tobytes()
    flat, channel = x.reshape(-1), np.repeat(np.arange(3), 20)
    piece = fmt.select(channel[17:43]).quantize(flat[17:43], scheme, index=117, **draw)
    assert piece.tobytes() == expected.reshape(-1)[17:43].tobytes()


def test_a_qmf_quantizes_as_round_fp():
    x = np.float32([[0.3, -5, 0.124], [np.inf, -0.0, 1.1]])
    for scheme in sorted(SCHEMES):
        expected = round_fp(x, 2, 3, scheme, seed=1, stream=2, index=3)
        assert np.array_equal(QFormat(2, 3).quantize(x, scheme, seed=1, stream=2, index=3), expected)
    for text in ("affine(4,0.01,7)", "minifloat(4,3)", "e5m2", "pow2(0,1)", "codebook(1)"):
        with pytest.raises(FormatError, match="round deterministically, got 'floor'"):
            made(text).quantize(x, "floor")


def test_rules_of_other_programs():
    ristretto = made("minifloat(4,3)/ristretto")
    x = [480, 495.9, 496, 511.99, 512, 1e9, 2**-7, 2**-7.001, -500, -(2.0**-7)]
    assert ristretto.quantize(x).tolist() == [480, 480, 512, 512, 480, 480, 2**-7, 0, -512, -(2.0**-7)]
    assert ristretto.encode(x)[[2, 7, 8]].tolist() == [257, 256, 258]
    assert ristretto.codes([512.0, -512.0]).tolist() == [257, 258]
    powers = made("pow2(-2,1)/ristretto").quantize([0, -0.0, 1.414, 1.415, -1.414, -1.415, 0.1, 9])
    assert powers.tolist() == [0.25, 0.25, 1, 2, -1, -2, 0.25, 2]
    labelfree = made("pow2z(0,6)/labelfree").quantize([0.5, 0.75, 0.76, 1.5, 1.51, -3, -3.1, 96, 97, -0.75])
    assert labelfree.tolist() == [0, 0, 1, 1, 2, -2, -4, 64, 64, 0]
    plain = made("pow2z(0,6)").quantize([0.49, 0.5, 1.49, 1.5, -0.5, -1.5])
    assert plain.tolist() == [0, 1, 1, 2, -1, -2]


@pytest.mark.parametrize("text", ["affine(24,1e-03,0)", "minifloat(8,3)", "q26[3]", "Q2.30"])
def test_float32_data_need_a_format_that_float32_holds(text):
    fmt = made(text)
    with pytest.raises(FormatError, match="float32"):
        fmt.quantize(np.float32([1]))
    assert fmt.quantize(np.float64([1])).shape == (1,)


def test_codes_that_do_not_exist_are_refused():
    for text, code in [
        *(("Q1.3", 8), ("q4[3,2]", -8), ("affine(4,1,0)", 16), ("affine(4,1,0,signed)", -9), ("minifloat(2,1)", 17)),
        *(("minifloat(2,1)/ristretto", 19), ("e4m3fn", 127), ("e2m1fn", 16), ("pow2(0,2)", 3), ("pow2z(0,2)", 4)),
        ("codebook(1,2,3)", 3),
    ]:
        with pytest.raises(FormatError, match=f"^{code} at index 1 is not a code of"):
            made(text).decode([0, code])
    with pytest.raises(FormatError, match="expected integer codes, got float64"):
        made("e4m3fn").decode([1.0])
    with pytest.raises(FormatError, match=r"0\.3 at index 1 is not a value of codebook"):
        made("codebook(1,2)").codes([1, 0.3])


def test_select_takes_indices_of_channels():
    fmt = made("affine(4,[0.5,1],0)")
    for wrong in ([2], [-1], [0.5], [True]):
        with pytest.raises(FormatError, match="expected indices of 2 channels"):
            fmt.select(wrong)
    assert made("e4m3fn").select([5]) is made("e4m3fn")
    assert fmt.select([[1], [0]]).quantize(np.float32([[1.2, 0.4]])).tolist() == [[1, 0], [1, 0.5]]


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"bits": value, "scale": [value, value]}
    return value


@pytest.mark.parametrize(
    "given",
    [
        *("", "Q", "e4m3", "foo(1)", "minifloat(0,3)", "minifloat(4,0)", "minifloat(4)", "minifloat(4,3)/labelfree"),
        *("minifloat(4.5,3)", "minifloat(9,3)", "e4m3fn/ristretto", "pow2(1,0)", "pow2(0.5,1)", "pow2(-127,0)"),
        *("pow2(0,1)/labelfree", "pow2z(0,1)/ristretto", "pow2(0,1,scale=0)", "pow2(0,127,scale=4)", "pow2(0,1,2)"),
        *("codebook()", "codebook(1,1)", "codebook(1,0)", "codebook(nan)", "codebook(0,1e39)", "codebook(1,,2)"),
        *("codebook(1,1.00000001)", "codebook(1,[2])", "codebook(1,2,scale=[])", "codebook(1,2", "codebook(1,2,)"),
        *("affine(0,1,0)", "affine(33,1,0)", "affine(4,0,0)", "affine(4,-1,0)", "affine(4,1e-60,0)", "affine(4,nan,0)"),
        *("affine(4,[1,2],[1,2,3])", "affine(4,1,0,ties=odd)", "affine(4,1,0,signed=5)", "affine(4,1,0,foo)"),
        *("affine(4,1,0,signed,signed)", "affine(4)", "affine(4.5,1,0)", "affine(4,3e38,0)", "affine([4,-1],1,0)"),
        *("q8[]", "q8[1.5]", "q8[7", "q0[7]", "q60[7]", "q8[2000]", "a" * 60000, f"codebook({' ' * 60000}x)"),
        *(f"codebook({'[' * 60000})", f"q8[{',' * 60000}]", f"codebook({')' * 60000}x", f"affine(4,1{'0' * 5000},0)"),
        *(None, 3, [1], {}, {"bits": 8}, {"bits": 8, "ad": 7}, {"bits": 8, "ad": [7], "scale": 1}, {1: 2}, nested(50)),
        *({"bits": True, "ad": [7]}, {"bits": 8, "ad": [True]}, {"bits": 8, "ad": []}, {"bits": 10**400, "scale": 1}),
        *({"bits": 4, "scale": bad} for bad in ("0.1", True, None, float("nan"), float("inf"), -1, 0, 10**400, {}, [])),
        *({"bits": 4, "scale": 1, "zero": bad} for bad in ("7", None, float("nan"), [1, "2"], nested(50))),
        *({"bits": 4, "scale": 1, "signed": 1}, {"bits": 4, "scale": 1, "ties": ["even"]}, {"bits": 4.0, "scale": 1}),
        *({"codebook": bad} for bad in ([], 3, "abc", [2, 1], [0, float("nan")], {}, [None], nested(50))),
        *({"codebook": [1, 2], "scale": 0}, {"codebook": [1, 2], "ties": "up"}, {"pow2": [1]}, {"pow2": "x"}),
        *({"pow2": [2, 1]}, {"pow2": [0, 1], "rule": []}, {"pow2z": [0, 1], "rule": "ristretto"}),
    ],
    ids=lambda given: str(given)[:30] if isinstance(given, str) else None,
)
def test_bad_input_is_one_line_with_what_was_expected_and_got(given):
    with pytest.raises(FormatError, match=r"\A[^\n]*expected[^\n]*got[^\n]*\Z") as caught:
        parse_format(given)
    assert len(str(caught.value)) < 300
