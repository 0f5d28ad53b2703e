"""prototxt text: what is read, what is refused and where, what is kept, what is written."""

import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcaffe.errors import FileError, LpcaffeWarning
from lpcaffe.formats.prototxt import MAX_BYTES, dump, known_field_in_other, parse, read, unknown_fields
from lpcaffe.formats.schema import BlobProto, Datum, LayerParameter, NetParameter, message_class
from lpcaffe.formats.text_parser import MAX_DEPTH

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ROOT / "tests" / "hostile" / "prototxt"


# ---------------------------------------------------------------------------------------------------- what is read

ACCEPTED = {
    "comments": '# one\nname: "a" # two "\n#three',
    "colon before a block": 'layer: { name: "a" }',
    "angle brackets": 'layer < name: "a" relu_param <negative_slope: 0.5> >',
    "separators after fields": 'name: "a"; input: "b", layer { name: "c", type: "d"; };',
    "single quotes": "name: 'it\"s'",
    "double quotes": 'name: "it\'s"',
    "adjacent strings": "name: 'a\"' \"b'\" # between\n 'c\\n'",
    "list of numbers": "input_dim: [1, 3,\n224 , 227]",
    "list and single entries": "input_dim: 7 input_dim: [1, 3] input_dim: 9",
    "empty list": 'input_dim: [] name: "a"',
    "list of strings": "input: ['a', \"b\" 'c']",
    "list of blocks": 'layer [{ name: "a" }, < name: "b" >]',
    "list of blocks after a colon": 'layer: [{ name: "a" }]',
    "list of floats": "layer { loss_weight: [1, -.5, 2.5e-3] }",
    "hexadecimal": "input_dim: 0x1F input_dim: -0X10",
    "octal": "input_dim: 017 input_dim: -010 input_dim: 0",
    "limits": "input_dim: [2147483647, -2147483648] layer { convolution_param { num_output: 4294967295 } }",
    "limits of 64 bits": "input_shape { dim: [9223372036854775807, -9223372036854775808] }",
    "floats": "layer { loss_weight: [1., .5, 1e5, 1E-5, 1e+5, 2.5f, 3F, 16777217, 1e-45, 3.4e38, 1e39, -0.0] }",
    "infinities": "layer { loss_weight: [inf, -inf, INF, Infinity, -infinity] }",
    "truth values": "layer { propagate_down: [true, false, True, False, t, f, 1, 0] }",
    "enum by name and number": "layer { pooling_param { pool: AVE } } layer { pooling_param { pool: 2 } }",
    "escapes": r"""name: "\n\t\r\a\b\f\v\\\'\"\0\12\177\x41\x0a\u00e9\U0001F600" """,
    "escaped UTF-8": r'name: "caf\303\251"',
    "UTF-8": 'name: "caf\u00e9 \u6570\u636e"',
    "CRLF": 'name: "a"\r\nlayer {\r\n  name: "b"\r\n}\r\n',
    "form feed and vertical tab": 'name:\f"a"\v',
    "no spaces": 'name:"a"layer{name:"b"type:"c"}',
    "empty blocks": "layer { } layer { relu_param { } }",
    "nothing": " \n# nothing\n",
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted_text_means_what_protobuf_says(text):
    message = parse(text)
    assert message == text_format.Parse(text, NetParameter())
    assert unknown_fields(message) == []


def test_what_protobuf_reads_in_c_but_not_in_python():
    message = parse(r'name: "\?" input_dim: - # why not' + "\n 5 layer { loss_weight: [- .5, - inf] }")
    assert message == NetParameter(name="?", input_dim=[-5], layer=[LayerParameter(loss_weight=[-0.5, -np.inf])])


def test_a_nan_is_read_and_printed():
    layer = parse("layer { loss_weight: [nan, -NaN] }").layer[0]
    assert np.isnan(layer.loss_weight).all()
    assert dump(parse(dump(layer), LayerParameter)) == "loss_weight: nan\nloss_weight: nan\n"


def test_a_byte_order_mark_is_skipped_and_not_counted():
    assert parse('\ufeffname: "a"').name == "a"
    with pytest.raises(FileError) as caught:
        parse("\ufeffname: a")
    assert (caught.value.line, caught.value.column) == (1, 7)


def test_bytes_hold_any_byte():
    every = bytes(range(256))
    assert parse(dump(Datum(data=every)), Datum).data == every
    assert parse(r'data: "\377\x80" "A"', Datum).data == b"\xff\x80A"


def test_any_message_class_is_read():
    solver = parse('net: "train.prototxt" base_lr: 0.01 solver_mode: CPU', message_class("SolverParameter"))
    assert (solver.net, solver.solver_mode) == ("train.prototxt", 0)


# ---------------------------------------------------------------------------------------------------- what is refused

EXPECTED = (HOSTILE / "expected.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("line", EXPECTED, ids=[line.split(".prototxt")[0] for line in EXPECTED])
def test_a_hostile_file_is_one_line_with_the_place(line, monkeypatch):
    monkeypatch.chdir(HOSTILE)
    with pytest.raises(FileError) as caught:
        read(line.split(":")[0])
    assert str(caught.value) == line


def test_every_hostile_file_has_its_error():
    assert [line.split(":")[0] for line in EXPECTED] == sorted(path.name for path in HOSTILE.glob("*.prototxt"))


# Caffe's parser, protobuf's in C++, refuses most of these; the one in Python takes them.
LENIENT = (
    "comments_only empty escape_too_large escape_unknown float_underscore integer_plus no_break_space required_missing"
)


@pytest.mark.parametrize("name", sorted({path.stem for path in HOSTILE.glob("*.prototxt")} - set(LENIENT.split())))
def test_protobuf_refuses_what_is_refused(name):
    with pytest.raises((text_format.ParseError, ValueError)):
        text_format.Parse((HOSTILE / f"{name}.prototxt").read_bytes().decode(), NetParameter())


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n# done"])
@pytest.mark.parametrize("before", ["", "\n", "# caf\u00e9 \n\t ", '"a"\n'])
def test_the_place_of_an_error_is_exact(before, end):
    text = ("name: " if '"' in before else "") + before + "zork } " + end
    with pytest.raises(FileError) as caught:
        parse(text)
    lines = text.split("\n")
    assert lines[caught.value.line - 1][caught.value.column - 1 :].startswith("}")


def test_the_end_of_the_text_is_a_place():
    for text, line, column in (("layer {", 1, 8), ("layer {\n", 2, 1), ("layer {\n  # x", 2, 6), ("layer", 1, 6)):
        with pytest.raises(FileError) as caught:
            parse(text)
        assert (caught.value.line, caught.value.column) == (line, column)


def test_a_text_cut_short_anywhere_is_refused():
    whole = "layer { name: \"a\" type: 'b' relu_param < negative_slope: 0.5 > }"
    assert len(parse(whole).layer) == 1
    for length in range(1, len(whole)):
        with pytest.raises(FileError):
            parse(whole[:length])


def test_missing_files_and_directories_are_one_line(tmp_path):
    for path, problem in ((tmp_path / "no.prototxt", "cannot be read: no such file"), (tmp_path, "got a directory")):
        with pytest.raises(FileError, match=problem) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileError, match="cannot be read: embedded null byte"):
        read("nul\0byte")


@pytest.mark.parametrize("blocks", ["{}", "{ }", "<>"])
def test_nesting_is_limited_where_protobuf_limits_it(blocks):
    opened, closed = f"a {blocks[0]} ", blocks[-1]
    depth = (MAX_DEPTH - 1) // 2  # an unknown block counts as two messages, the network as one
    deepest = parse(opened * depth + closed * depth)
    copied = NetParameter()
    copied.MergeFrom(deepest)
    assert copied == deepest == parse(dump(deepest))
    with pytest.raises(FileError, match="messages inside one another"):
        parse(opened * (depth + 1) + closed * (depth + 1))


WORDS = ["layer", "pool", "name", "zork", "other", "layers", "MAX", "'a'", '"b"', "-", "1", "-2.5", "0x1", "1e", "inf"]
PIECES = [*WORDS, *"{}<>[]:,;#\\\"'\n\r\0\u00e9\udce9"]


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from(["", " "]))
@settings(max_examples=200)
def test_any_text_is_a_message_or_one_line(pieces, space):
    text = space.join(pieces)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)  # of both generations in one text
        try:
            message = parse(text, path="net.prototxt")
        except FileError as error:
            line = str(error)
        else:
            assert parse(dump(message)) == message
            return
    assert line.isprintable()
    assert line.startswith("net.prototxt:")


HUGE = 150_000  # times 13 characters is just below MAX_BYTES
HOSTILE_SIZES = {
    "one line of fields": "input_dim: 1 " * HUGE,
    "one list": "input_dim: [" + "1, " * HUGE + "1]",
    "unknown fields": 'zork: "a" ' * HUGE,
    "unclosed strings": 'name: "a\n' * HUGE,
    "quotes": "name: " + "'\"" * HUGE,
    "escaped quotes": 'name: "' + '\\"' * HUGE,
    "escaped quotes in a string": 'name: "' + '\\"' * HUGE + '"',
    "adjacent strings": "name: " + "'a' " * HUGE,
    "backslashes": "\\" * HUGE,
    "opening brackets": "layer {" * HUGE,
    "unknown opening brackets": "a <" * HUGE,
    "lists": "[" * HUGE,
    "comment signs": "#" * HUGE,
    "comments": "#\n" * HUGE,
    "spaces": " " * HUGE,
    "minus signs": "input_dim: " + "-" * HUGE,
    "digits": "input_dim: " + "1" * HUGE,
    "hexadecimal digits": "input_dim: 0x" + "f" * HUGE,
    "leading zeros": "input_dim: " + "0" * HUGE,
    "digits of a float": "layer { loss_weight: " + "1" * HUGE + " }",
    "exponent": "layer { loss_weight: 1e" + "9" * HUGE + " }",
    "points": "layer { loss_weight: " + "1." * HUGE + " }",
    "letters": "a" * HUGE,
    "a long name": "a" * HUGE + ": 1",
}


def calls(text: str) -> int:
    """How many calls of Python or of C the parser makes."""
    seen = []
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    try:
        with suppress(FileError):
            parse(text)
    finally:
        sys.setprofile(None)
    return sum(event in ("call", "c_call") for event in seen)


@pytest.mark.parametrize("text", HOSTILE_SIZES.values(), ids=HOSTILE_SIZES.keys())
def test_hostile_text_takes_no_more_than_its_length(text):
    """The calls that a short piece takes grow with its length; the whole, quadratic, would take minutes."""
    assert calls(text[:8000]) <= 2.5 * calls(text[:4000]) + 100
    earlier = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(60)
    try:
        with suppress(FileError):
            parse(text)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


@pytest.mark.parametrize("text", ["{0}", "{0}: 1 {0}", "input_dim: {0}", "name: '{0}\\z'", "zork: 1{0}", "name: {0}"])
def test_an_error_stays_short_however_long_the_token(text):
    with pytest.raises(FileError) as caught:
        parse(text.format("a" * HUGE))
    assert len(str(caught.value)) < 200


# ---------------------------------------------------------------------------------------------------- what is kept

FORK = """
name: "fork"
default_forward_type: FLOAT16
layer {
  name: "roi"
  type: "Correlation"
  correlation_param { scale: 0.0625 pad: 20 nested < a: -1 a: [2, 0x3] b: 'it' "s" > }
  transform_param { scale_factors: [0.5, 1.0f] }
  flag: - inf
}
layer { name: "p" pooling_param { pool: AVG stride: 2 } loss_param { normalization: 7 } }
layer { name: "q" transform_param { scale_factors: 2 } }
"""


def test_what_no_known_caffe_has_is_kept_word_for_word():
    message = parse(FORK)
    printed = dump(message)
    assert parse(printed) == message
    for kept in (
        "default_forward_type: FLOAT16\n",
        "b: 'it' \"s\"\n",
        "a: 0x3\n",
        "scale_factors: 1.0f\n",
        "pool: AVG\n",
    ):
        assert kept in printed
    assert "flag: -inf\n" in printed
    assert "normalization: 7\n" in printed


def test_what_is_kept_is_copied_and_compared():
    message, copy = parse(FORK), NetParameter()
    copy.CopyFrom(message)
    assert copy == message
    copy.layer[0].other[0].block.other[1].value = "22"
    assert copy != message


def test_unknown_fields_are_named_once_in_order():
    assert unknown_fields(parse(FORK)) == [
        "layer.transform_param.scale_factors",
        "layer.correlation_param",
        "layer.flag",
        "layer.loss_param.normalization=7",
        "layer.pooling_param.pool=AVG",
        "default_forward_type",
    ]
    assert unknown_fields(parse('layer { name: "a" convolution_param { pad: 1 } }')) == []


def test_an_enum_value_nobody_knows_is_told_from_a_field_nobody_knows():
    roi, pool, last = parse(FORK).layer
    assert known_field_in_other(roi) is None
    assert known_field_in_other(pool) == "loss_param.normalization=7"
    assert known_field_in_other(last) is None
    assert pool.pooling_param.stride == 2
    assert not pool.pooling_param.HasField("pool")


def test_a_known_field_with_an_unknown_value_is_still_given_once():
    with pytest.raises(FileError, match='expected "pool" once'):
        parse("layer { pooling_param { pool: AVG pool: MAX } }")


def test_a_field_of_a_file_called_other_is_a_field_like_any():
    message = parse('other: 3 other { name: "x" }')
    assert unknown_fields(message) == ["other"]
    assert known_field_in_other(message) is None
    assert parse(dump(message)) == message


def test_reading_warns_once_and_names_everything(tmp_path):
    path = tmp_path / "deploy.prototxt"
    path.write_text(FORK, encoding="utf-8")
    with pytest.warns(LpcaffeWarning) as caught:
        message = read(path)
    assert message == parse(FORK)
    assert [str(warning.message) for warning in caught] == [
        f"{path}: kept 6 fields or values that no known Caffe has: {', '.join(unknown_fields(message))}"
    ]


def test_reading_both_generations_warns_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "deploy.prototxt"
    path.write_text("layers { type: RELU } layer { }", encoding="utf-8")
    with pytest.warns(LpcaffeWarning, match='deploy.prototxt: mixes "layers" and "layer"'):
        assert read(path) == parse('layer { type: "ReLU" } layer { }')


def test_reading_a_known_network_warns_of_nothing(tmp_path):
    path = tmp_path / "deploy.prototxt"
    path.write_bytes("\ufeffname: 'a'\r\n".encode() + b"# \xb7\xa8\r\nlayer { name: 'b' }")
    assert read(path) == parse("name: 'a' layer { name: 'b' }")
    assert read(str(path), NetParameter) == read(path)


# ---------------------------------------------------------------------------------------------------- what is written


def test_name_comes_first_then_numbers_then_unknown_fields_and_layers_last():
    v1 = parse('zork: 1 layers { zork: 2 bottom: "x" name: "y" } input: "x" name: "n"')
    assert dump(v1) == ('name: "n"\ninput: "x"\nzork: 1\nlayers {\n  name: "y"\n  bottom: "x"\n  zork: 2\n}\n')
    v2 = parse('layer { a { b: 1 } swish_param { beta: 2 } top: "t" } zork: 1 force_backward: true')
    assert dump(v2) == (
        'force_backward: true\nzork: 1\nlayer {\n  top: "t"\n  swish_param {\n    beta: 2\n  }\n'
        "  a {\n    b: 1\n  }\n}\n"
    )


SHORTEST = {
    "1": 1,
    "0.1": 0.1,
    "1e-05": 1e-5,
    "0.00048828125": 2**-11,
    "16777216": 2**24,
    "-0": -0.0,
    "1e+20": 1e20,
    "3.4028235e+38": 2**128 - 2**104,
    "1.1754944e-38": 2**-126,
    "1e-45": 2**-149,
    "-inf": float("-inf"),
}


@pytest.mark.parametrize("text", SHORTEST)
def test_floats_have_the_fewest_digits(text):
    assert dump(LayerParameter(loss_weight=[SHORTEST[text]])) == f"loss_weight: {text}\n"


@given(st.lists(st.floats(width=32, allow_nan=False)))
@settings(max_examples=100)
def test_every_float32_survives_text(numbers):
    values = np.array(numbers, np.float32)
    blob = parse(dump(BlobProto(data=values)), BlobProto)
    assert np.array_equal(np.array(blob.data, np.float32).view(np.uint32), values.view(np.uint32))
    assert text_format.Parse(dump(blob), BlobProto()) == blob


@given(st.lists(st.floats(allow_nan=False)))
@settings(max_examples=50)
def test_every_double_survives_text(numbers):
    blob = parse(dump(BlobProto(double_data=numbers)), BlobProto)
    assert np.array_equal(np.array(blob.double_data).view(np.uint64), np.array(numbers, np.float64).view(np.uint64))


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=100)
def test_every_string_survives_text(name):
    message = NetParameter(name=name)
    assert parse(dump(message)) == message
    assert text_format.Parse(dump(message), NetParameter()) == message
    assert parse(text_format.MessageToString(message)) == message


@given(st.binary())
@settings(max_examples=100)
def test_all_bytes_survive_text(data):
    message = Datum(data=data)
    assert parse(dump(message), Datum) == message == text_format.Parse(dump(message), Datum())


def test_text_that_would_not_be_read_again_is_not_written():
    comma = "layer { top: [" + ",".join(["'0'"] * 500_000) + "] }"
    assert len(comma) <= MAX_BYTES
    with pytest.raises(FileError, match=r"expected a network of at most 2097152 bytes of text, got \d{7}"):
        dump(parse(comma))
