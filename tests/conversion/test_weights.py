"""The caffemodel of a plan: even blobs as they were, odd ones round_fp of them, and no file when something is wrong."""

import dataclasses
import hashlib
import math
import resource
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.conversion import stage_quantized
from lpcaffe.dialects import dialect_named
from lpcaffe.errors import FileError, WeightsError
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.io.outputs import outputs
from lpcaffe.net import ArrayBlob
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.apply import apply_plan
from lpcaffe.quant.error_stats import ErrorStats
from lpcaffe.quant.plan import BitPlan, LayerPlan

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }\n'
SMALL = f"""name: "small"
{INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         convolution_param {{ num_output: 5 kernel_h: 3 kernel_w: 2 }} }}
layer {{ name: "prelu" type: "PReLU" bottom: "conv" top: "conv" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
         inner_product_param {{ num_output: 7 bias_term: false }} }}
layer {{ name: "last" type: "InnerProduct" bottom: "ip" top: "last" inner_product_param {{ num_output: 4 }} }}
"""
NORMED = f"""name: "normed"
{INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         convolution_param {{ num_output: 5 kernel_size: 3 bias_term: false }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }}
layer {{ name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param {{ bias_term: true }} }}
"""
Q = QFormat(1, 4)
# Ties, both ends of the range and half a step beyond, -0.0, what rounds to -0, subnormals, 0.49999997 steps.
TRAPS = [0.03125, -0.03125, 0.09375, -0.09375, 0.9375, -0.9375, 0.96875, -0.96875, 7.0, -7.0, -0.0, 0.0, -0.01, 1e-45]
TRAPS += [-1e-45, 0.49999997 / 16, -0.49999997 / 16, 0.5, -1.0, float(np.nextafter(np.float32(0.03125), np.float32(0)))]


def traps(weights):
    """Overwrite the first values of every blob with the values that are easy to round wrongly."""
    for own in weights.values():
        for blob in own:
            count = min(blob.size, len(TRAPS))
            blob.reshape(-1)[:count] = TRAPS[:count]


def plan(**options) -> BitPlan:
    layers = {"conv": LayerPlan("Convolution", Q), "ip": LayerPlan("InnerProduct", QFormat(3, 2))}
    return BitPlan(layers, policy=lp.Policy(**{"fold_bn": False} | options))


def rounded(value: float, fmt: QFormat, draw: float | None = None) -> float:
    """round_fp by exact fractions: ties away from zero, or up when the draw is below the fraction."""
    steps = abs(Fraction(value)) * 2**fmt.ad
    low = math.floor(steps)
    up = steps - low >= Fraction(1, 2) if draw is None else Fraction(draw) < steps - low
    code = min(low + up, 2 ** (fmt.bd + fmt.ad - 1) - 1)
    return float(np.sign(value) * Fraction(code, 2**fmt.ad)) if code else 0.0


def bits(values) -> list[int]:
    return np.asarray(values, np.float32).ravel().view(np.uint32).tolist()


def written(net, plan: BitPlan, path) -> tuple[str, dict[tuple[str, str], ErrorStats]]:
    """What `write_weights` writes, and what rounding did, by layer and role."""
    quantized = apply_plan(net, plan)
    low = dialect_named(plan.policy.dialect).network(quantized)
    with outputs([path], force=True) as out:
        digest, _ = stage_quantized(out, quantized, low, path)
    return digest, {site.key: error for site, error in quantized.errors.items()}


def stored(path) -> dict[str, list[np.ndarray]]:
    return {layer.name: [blob.array() for blob in layer.blobs] for layer in open_caffemodel(path).layers}


def test_odd_blobs_are_the_rounded_even_ones_to_the_bit(make_net, tmp_path):
    net = make_net(SMALL, traps)
    lp.write_weights(net, plan(), tmp_path / "lp.caffemodel")
    found, source = stored(tmp_path / "lp.caffemodel"), stored(tmp_path / "net.caffemodel")
    assert [len(found[name]) for name in ("conv", "ip", "last", "prelu", "data")] == [4, 2, 2, 1, 0]
    for name, fmt in (("conv", Q), ("ip", QFormat(3, 2))):
        for index, blob in enumerate(source[name]):
            even, odd = found[name][2 * index : 2 * index + 2]
            assert even.shape == odd.shape == blob.shape
            assert bits(even) == bits(blob)
            assert bits(odd) == bits([rounded(float(value), fmt) for value in blob.ravel()])
    negative_zero = 0x80000000
    assert negative_zero in bits(found["conv"][0])
    assert negative_zero not in bits(found["conv"][1])


def test_layers_without_a_line_and_lines_without_weights_are_copied(make_net, tmp_path):
    net = make_net(SMALL, traps)
    half = BitPlan({"conv": LayerPlan("Convolution", None, Q)})
    lp.write_weights(net, half, tmp_path / "lp.caffemodel")
    found, source = stored(tmp_path / "lp.caffemodel"), stored(tmp_path / "net.caffemodel")
    for name in ("conv", "prelu", "ip", "last"):
        assert [bits(blob) for blob in found[name]] == [bits(blob) for blob in source[name]]


def test_the_file_holds_the_rewritten_network_and_its_sum_is_returned(make_net, tmp_path):
    net = make_net(SMALL)
    digest, errors = written(net, plan(), tmp_path / "lp.caffemodel")
    assert digest == hashlib.sha256((tmp_path / "lp.caffemodel").read_bytes()).hexdigest()
    layers = open_caffemodel(tmp_path / "lp.caffemodel").net.layer
    assert [layer.type for layer in layers] == [
        *("Input", "LPConvolution", "PReLU", "LPInnerProduct", "InnerProduct"),
    ]
    assert layers[1].lpfp_param == lp.rewrite(net, plan()).by_name["conv"].message.lpfp_param
    assert set(errors) == {("conv", "weights"), ("conv", "bias"), ("ip", "weights")}
    assert (errors["conv", "weights"].count, errors["conv", "bias"].count) == (90, 5)


def test_the_errors_are_those_of_the_blobs(make_net, tmp_path):
    net = make_net(SMALL, traps)
    _, errors = written(net, plan(), tmp_path / "lp.caffemodel")
    even, odd = stored(tmp_path / "lp.caffemodel")["conv"][:2]
    found = errors["conv", "weights"]
    assert found.max_abs_error == np.abs(even.astype(np.float64) - odd).max()
    assert found.saturated == np.count_nonzero(np.abs(even) >= 0.96875)
    assert found.zeros_before == np.count_nonzero(even == 0)
    assert found.zeros_after == np.count_nonzero(odd == 0)


def philox(seed: int, stream: int, index: int) -> float:
    """Philox4x32-10 (Salmon et al., SC 2011), word `index % 4` of block `index // 4`, as 24 bits of a float."""
    counter = [*struct.unpack("<2I", struct.pack("<Q", index // 4)), *struct.unpack("<2I", struct.pack("<Q", stream))]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [p1 >> 32 ^ counter[1] ^ key[0], p1 & 0xFFFFFFFF, p0 >> 32 ^ counter[3] ^ key[1], p0 & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return (counter[index % 4] >> 8) * 2.0**-24


def test_the_oracle_of_random_numbers_gives_the_published_words():
    assert philox(7, 0, 5) == (0xCB97BC13 >> 8) * 2.0**-24
    assert philox(0x0123456789ABCDEF, 0x100000002, 2**34 + 1) == (0x5DCAF180 >> 8) * 2.0**-24


@pytest.mark.parametrize("dialect", ["adaption", "plain"])
def test_stochastic_rounding_draws_from_the_streams_of_weights_and_bias(make_net, tmp_path, dialect):
    net = make_net(SMALL, traps)
    seed = 0x0123456789ABCDEF
    options = {"rounding": "stochastic", "seed": seed, "dialect": dialect, "round_bias": True}
    lp.write_weights(net, plan(**options), tmp_path / "lp.caffemodel")
    found, source = stored(tmp_path / "lp.caffemodel")["conv"], stored(tmp_path / "net.caffemodel")["conv"]
    odd = found[1::2] if dialect == "adaption" else found
    for name, blob, got in zip(("conv/0", "conv/2"), source, odd, strict=True):
        stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        expected = [rounded(float(v), Q, philox(seed, stream, i)) for i, v in enumerate(blob.ravel())]
        assert bits(got) == bits(expected)


def test_where_blobs_are_cut_changes_no_bit(make_net, tmp_path):
    class Cut(ArrayBlob):
        """Pieces of 7 values."""

        def chunks(self, max_elements):
            return super().chunks(7)

    net = make_net(SMALL, traps)
    cut = {name: [Cut(np.array(blob.array())) for blob in blobs] for name, blobs in net.weights.items()}
    for rounding in ("deterministic", "stochastic"):
        own, found = plan(rounding=rounding, seed=5), {}
        for name, weights in (("whole", net.weights), ("cut", cut)):
            path = tmp_path / f"{rounding}_{name}"
            _, errors = written(net.replace(net.message, weights), own, path)
            found[name] = path.read_bytes(), errors["conv", "weights"].count
        assert found["whole"] == found["cut"]


def test_plain_files_hold_rounded_weights_once(make_net, tmp_path):
    net = make_net(SMALL, traps)
    source = stored(tmp_path / "net.caffemodel")
    for round_bias in (False, True):
        path = tmp_path / f"{round_bias}.caffemodel"
        lp.write_weights(net, plan(dialect="plain", round_bias=round_bias), path)
        found = stored(path)
        assert [len(found[name]) for name in ("conv", "ip", "last")] == [2, 1, 2]
        assert bits(found["conv"][0]) == bits([rounded(float(v), Q) for v in source["conv"][0].ravel()])
        bias = [rounded(float(v), Q) if round_bias else v for v in source["conv"][1]]
        assert bits(found["conv"][1]) == bits(bias)
        assert bits(found["last"][0]) == bits(source["last"][0])
        assert open_caffemodel(path).net.layer[1].type == "Convolution"


def test_a_bias_that_stays_as_it_is_is_measured_as_if_it_were_rounded(make_net, tmp_path):
    net = make_net(SMALL, traps)
    errors = {
        name: written(net, plan(**options), tmp_path / name)[1]
        for name, options in (
            ("kept", {"dialect": "plain"}),
            ("rounded", {"dialect": "plain", "round_bias": True}),
            ("adaption", {}),
        )
    }
    assert errors["kept"] == errors["rounded"] == errors["adaption"]
    assert errors["kept"]["conv", "bias"].count == 5
    assert errors["kept"]["conv", "bias"].noise > 0


def test_the_weights_of_a_training_network_are_written(make_net, tmp_path):
    """For fine-tuning: `rewrite` makes its prototxt."""
    net = make_net(SMALL, traps)
    trained = SMALL.replace(INPUT, INPUT.replace("Input", "DummyData").replace("input_param", "dummy_data_param"))
    trained += 'layer { name: "loss" type: "EuclideanLoss" bottom: "last" bottom: "last" top: "loss" }\n'
    (tmp_path / "train.prototxt").write_text(trained)
    training = lp.load(tmp_path / "train.prototxt", tmp_path / "net.caffemodel")
    lp.conversion.write_weights(net, plan(), tmp_path / "deployed")
    lp.conversion.write_weights(training, plan(), tmp_path / "trained")
    assert lp.diff(tmp_path / "deployed", tmp_path / "trained").same


def test_folded_weights_are_the_even_blobs(make_net, tmp_path):
    net = make_net(NORMED)
    own = BitPlan({"conv": LayerPlan("Convolution", QFormat(3, 9))}, policy=lp.Policy(fold_bn=True))
    lp.write_weights(net, own, tmp_path / "lp.caffemodel")
    found, source = stored(tmp_path / "lp.caffemodel"), stored(tmp_path / "net.caffemodel")
    assert set(found) == {"data", "conv"}
    mean, variance, factor = (blob.astype(np.float64) for blob in source["bn"])
    gamma, beta = (blob.astype(np.float64) for blob in source["scale"])
    gain = gamma / np.sqrt(variance / factor + 1e-5)
    weights = source["conv"][0] * gain[:, None, None, None]
    np.testing.assert_allclose(found["conv"][0], weights, rtol=2e-7)
    np.testing.assert_allclose(found["conv"][2], beta - gain * mean / factor, rtol=2e-6)
    for index in (0, 2):
        expected = [rounded(float(v), QFormat(3, 9)) for v in found["conv"][index].ravel()]
        assert bits(found["conv"][index + 1]) == bits(expected)


def test_writing_twice_gives_identical_bytes(make_net, tmp_path):
    net = make_net(SMALL)
    for name in ("a", "b"):
        lp.write_weights(net, plan(rounding="stochastic", seed=3), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    lp.write_weights(net, plan(rounding="stochastic", seed=4), tmp_path / "c")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_legacy_dims_are_written_as_the_layers_own_shapes(make_net, tmp_path):
    net = make_net(SMALL)
    weights = {name: list(blobs) for name, blobs in net.weights.items()}
    weights["last"] = [
        dataclasses.replace(blob, shape=(1,) * (4 - len(blob.shape)) + tuple(blob.shape), legacy=True)
        for blob in weights["last"]
    ]
    assert weights["last"][0].shape == (1, 1, 4, 7)
    own = BitPlan({"last": LayerPlan("InnerProduct", Q)})
    lp.write_weights(net.replace(net.message, weights), own, tmp_path / "lp.caffemodel")
    assert [blob.shape for blob in stored(tmp_path / "lp.caffemodel")["last"]] == [(4, 7), (4, 7), (4,), (4,)]


def left_over(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("net."))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("layer", "blob", "at"), [("conv", 0, (4, 2, 1, 1)), ("conv", 1, (3,)), ("ip", 0, (2, 5)), ("prelu", 0, (4,))]
)
def test_nan_and_infinity_are_named_and_leave_no_file(make_net, tmp_path, bad, layer, blob, at):
    def broken(weights):
        values = weights[layer][blob]
        values[at] = bad
        values.reshape(-1)[-1] = bad  # only the first is told

    net = make_net(SMALL, broken)
    where = ", ".join(map(str, at))
    with pytest.raises(WeightsError) as caught:
        lp.write_weights(net, plan(), tmp_path / "lp.caffemodel")
    assert f'layer "{layer}" blob {blob}: the value at [{where}] is {bad}' in str(caught.value)
    assert left_over(tmp_path) == []


def test_a_nan_in_batch_norm_is_said_of_batch_norm(make_net, tmp_path):
    def broken(weights):
        weights["bn"][0][2] = np.nan

    net = make_net(NORMED, broken)
    own = BitPlan({"conv": LayerPlan("Convolution", Q)}, policy=lp.Policy(fold_bn=True))
    with pytest.raises(WeightsError, match=r'^layer "bn" blob 0: the value at \[2\] is nan'):
        lp.write_weights(net, own, tmp_path / "lp.caffemodel")
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            SMALL.replace("num_output: 5", "num_output: 6"),
            'layer "conv" blob 0: expected .*6 x 3 x 3 x 2, got 5 x 3 x 3 x 2',
        ),
        (SMALL.replace("num_output: 4", "num_output: 4 bias_term: false"), 'layer "last": expected 1 blobs, got 2'),
        (SMALL.replace(" bias_term: false", ""), 'layer "ip": expected 2 blobs, got 1'),
        (SMALL.replace('"last"', '"new"'), 'layer "new"'),
    ],
)
def test_weights_that_do_not_fit_leave_no_file(make_net, tmp_path, text, problem):
    net = make_net(SMALL)
    other = make_net(text, folder=tmp_path / "net.other")
    with pytest.raises(WeightsError, match=problem):
        lp.write_weights(net.replace(other.message, net.weights), plan(), tmp_path / "lp.caffemodel")
    assert left_over(tmp_path) == []


def test_a_disk_that_takes_no_more_leaves_no_file(make_net, tmp_path):
    net = make_net(SMALL)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(FileError, match=r"lp\.caffemodel: cannot be written: file too large"):
            lp.write_weights(net, plan(), tmp_path / "lp.caffemodel")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_over(tmp_path) == []


def test_nothing_is_overwritten_without_force_not_even_the_source_with_it(make_net, tmp_path):
    net = make_net(SMALL)
    path = tmp_path / "net.caffemodel"
    before = path.read_bytes()
    with pytest.raises(FileError, match="the file exists"):
        lp.write_weights(net, plan(), path)
    assert path.read_bytes() == before
    lp.write_weights(net, plan(), tmp_path / "lp.caffemodel")
    lp.write_weights(net, plan(), path, force=True)
    assert path.read_bytes() == (tmp_path / "lp.caffemodel").read_bytes()


def test_memory_does_not_grow_with_the_network(tmp_path):
    """16 and 64 MB of weights, twice that written: held is a chunk and its float64 temporaries."""
    code = """if True:
        import resource, sys, numpy as np, lpcaffe as lp
        from pathlib import Path
        from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
        home, rows = Path(sys.argv[1]), int(sys.argv[2])
        (home / "big.prototxt").write_text('''name: "big"
            layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4096 } } }
            layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
                    inner_product_param { num_output: %d bias_term: false } }''' % rows)
        net = lp.load_net(home / "big.prototxt")
        chunk = np.full(1 << 18, 0.3, np.float32)
        blob = BlobSource((rows, 4096), lambda: (chunk for _ in range(rows * 4096 >> 18)))
        write_caffemodel(home / "big.caffemodel", net.message, {"ip": [blob]}, force=True)
        net = lp.load(home / "big.prototxt", home / "big.caffemodel")
        plan = lp.BitPlan({"ip": lp.LayerPlan("InnerProduct", lp.QFormat(1, 15))})
        lp.write_weights(net, plan, home / "lp.caffemodel", force=True)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    peaks = [
        int(subprocess.run([sys.executable, "-c", code, tmp_path, str(rows)], capture_output=True, check=True).stdout)
        for rows in (1024, 4096)
    ]
    assert (tmp_path / "lp.caffemodel").stat().st_size > 1e8
    for name in ("lp.caffemodel", "big.caffemodel"):
        (tmp_path / name).unlink()
    # In KiB. Both networks have many chunks; four times the weights are 96 MB more in the file.
    assert peaks[1] - peaks[0] < 20_000
