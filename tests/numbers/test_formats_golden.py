"""Number formats against what four research codes computed: shared/golden/methods, which is not part of the checkout.

    cnn-quantization     affine, from the recorded scale and zero point; ties away where its CUDA kernel rounds
    Ristretto            affine(bw,2^-fl,0,signed,ties=away), minifloat(e,m)/ristretto, pow2(lo,hi)/ristretto
    Label-free           pow2z(w,w+6)/labelfree, affine(8,2^(w-8),0,signed,ties=down), affine(7,alpha,0,ties=up)

Values count, -0.0 equals 0.0; a large array is compared with some of its rows and the digest of the whole.
"""

import functools
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.numbers import Affine, Minifloat, PowerOfTwo

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = SHARED / "golden" / "methods"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="shared/golden is not beside the checkout")


class Golden:
    """A file of arrays, and the meta data in it."""

    def __init__(self, name):
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.meta = json.loads(str(self.arrays["__meta__"][()]))
        self.stored = set(self.arrays.files)
        self.digests = self.meta["sha256"]

    def __getitem__(self, key):
        return self.arrays[key]

    def keys(self, *starts, end=""):
        """The arrays stored whole or in part, whose keys start and end so."""
        known = self.stored | set(self.digests)
        keys = sorted(
            k for k in known if k.startswith(starts) and k.endswith(end) and not k.endswith((".sel", ".rows"))
        )
        assert keys
        return keys

    def differing(self, key, found, signs):
        """Whether an array differs. Its zeros take the signs of `signs` for the digest."""
        if key in self.stored:
            return not np.array_equal(self[key], found, equal_nan=True)
        digest, shape, dtype = self.digests[key]
        whole = np.where(found == 0, np.copysign(np.zeros(1, dtype), signs), found).astype(dtype).reshape(shape)
        rows = whole.reshape(shape[0], -1)[self[f"{key}.sel"]]
        same = {
            hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in (whole, whole + np.zeros(1, dtype))
        }
        return not np.array_equal(rows, self[f"{key}.rows"]) or digest not in same


golden = functools.cache(Golden)


@functools.cache
def blobs(network):
    (path,) = (SHARED / "models" / network).glob("*.caffemodel")
    return {layer.name: layer.blobs[0] for layer in open_caffemodel(path).layers if layer.blobs}


def weights(key):
    """The array of "NET:LAYER" or "synth:NAME"."""
    network, layer = key.split(":")
    if network == "synth":
        own = golden("aciq_weights"), golden("labelfree")
        return next(file[k] for file in own for k in (f"synth/{layer}", f"x/{key}") if k in file.stored)
    return blobs(network)[layer].array()


def along(axis, x, count):
    """The channel of each element of `x`, to broadcast."""
    shape = [1] * x.ndim
    shape[axis] = count
    return np.arange(count).reshape(shape)


@pytest.mark.parametrize("kind", ["pcq", "baw", "layer"])
def test_weights_of_cnn_quantization(kind):
    """All but one made-up layer without zero in its range: there the kernel computes code * scale + offset."""
    file = golden("aciq_weights")
    different = []
    for key in file.keys("w/", end="/out"):
        _, source, family, setting, _ = key.split("/")
        if family != kind:
            continue
        at = key.removesuffix("out")
        if kind == "layer":
            scale, zero = file[f"{at}scale_zp_delta_offset"][:2]
            fmt = Affine(int(setting[1:]), scale, zero, ties="away")
        else:
            bits = int(setting[1:]) if kind == "pcq" else file[f"{at}bits"]
            fmt = Affine(bits, file[f"{at}scale"], file[f"{at}zp"])
        x = weights(source)
        if file.differing(key, fmt.select(along(0, x, len(x))).quantize(x), x):
            different.append(key)
    assert different == [f"w/synth:positive/layer/b{bits}/out" for bits in (2, 4)] * (kind == "layer")


@pytest.mark.parametrize("kind", ["layer", "channel", "baa"])
def test_activations_of_cnn_quantization(kind):
    file = golden("aciq_acts")
    for key in file.keys(f"{kind}/", end="/out"):
        _, _, clip, setting, source, _ = key.split("/")
        at = key.removesuffix("out")
        x, (_, _, scale, zero) = file[f"x/{source}"], file[f"{at}p"]
        bits = file[f"{at}bits"] if kind == "baa" else int(setting[1:])
        fmt = Affine(bits, scale, zero, ties="away" if (kind, clip) == ("layer", "no") else "even")
        if len(scale) > 1:
            fmt = fmt.select(along(1, x, len(scale)))
        assert not file.differing(key, fmt.quantize(x).reshape(x.shape), x), key


def ristretto(kind):
    """Key, input and the numbers in the setting's name."""
    file = golden("ristretto")
    for key in file.keys(f"{kind}/"):
        _, source, setting = key.split("/")
        x = weights(source) if ":" in source else file[f"{source}/x"]
        yield file, key, x, [int(number) for number in re.findall(r"-?\d+", setting)]


@pytest.mark.parametrize("kind", ["fixed", "fixed_f64"])
def test_fixed_point_of_ristretto(kind):
    for file, key, x, (width, *fraction) in ristretto(kind):
        length = fraction[0] if fraction else width - file.meta["weights"][key.split("/")[1]]["il_params"]
        fmt = Affine(width, 2.0**-length, signed=True, ties="away")
        data = x.astype(np.float64) if width > 23 or kind == "fixed_f64" else x
        assert not file.differing(key, fmt.quantize(data).astype(x.dtype), x), key


def test_minifloats_of_ristretto():
    """NaN, which it makes the largest value, and float32's subnormal numbers, which it makes 0, aside."""
    for file, key, x, (mantissa, exponent) in ristretto("minifloat_each"):
        fmt = Minifloat(exponent, mantissa, "ristretto")
        ordinary = np.where(
            np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), np.nan_to_num(x, nan=np.inf, posinf=np.inf)
        )
        found = fmt.quantize(ordinary.astype(np.float64)).astype(np.float32)
        assert not file.differing(key, found, x), key
        assert exponent == 8 or np.array_equal(fmt.quantize(ordinary), found)


def test_powers_of_two_of_ristretto():
    """Its float32 logarithm takes two float32 numbers just below sqrt(2) * 2^e up: those differ."""
    for file, key, x, (lo, hi) in ristretto("pow2"):
        found = PowerOfTwo(lo, hi, rule="ristretto").quantize(x)
        if key == "pow2/edge/-3_3":
            wrong = found != file[key]
            assert sorted(set(np.abs(x[wrong]).tolist())) == np.float32([2 * 2**0.5, 4 * 2**0.5]).tolist()
        else:
            assert not file.differing(key, found, x), key


def test_projections_of_label_free():
    file = golden("labelfree")
    x = file["edge/x"]
    for width in range(4):
        found = PowerOfTwo(width, width + 6, zero=True, rule="labelfree").quantize(x)
        assert not file.differing(f"edge/power_w{width}", found, x)
    for width in range(1, 9):
        found = Affine(8, 2.0 ** (width - 8), signed=True, ties="down").quantize(x)
        assert not file.differing(f"edge/fixed_w{width}", found, x)
    assert not file.differing("edge/rounding_to_integer", Affine(16, 1, signed=True, ties="down").quantize(x), x)


def test_weights_of_label_free():
    """Q from the recorded alpha, width and bits, and alpha * Q from the format with a scale; NaN layers aside."""
    file = golden("labelfree")
    for key in file.keys("power/", "fixed/", "gen_", end="/Q"):
        *variant, kind, source, _ = key.split("/")
        bits = int(variant[0][-1]) if variant else {"power": 4, "fixed": 8}[kind]
        width, alpha, x = file.meta["info"][key[:-2]]["best_width"], file[key[:-1] + "alpha"], weights(source)
        if not (alpha > 0).all():
            continue
        if kind == "power":
            plain = PowerOfTwo(width, width + 2 ** (bits - 1) - 2, zero=True, rule="labelfree")
            scaled = PowerOfTwo(plain.lo, plain.hi, zero=True, scale=alpha, rule="labelfree")
        else:
            plain = Affine(bits, 2.0 ** (width - bits), signed=True, ties="down")
            scaled = Affine(bits, alpha * np.float32(plain.scale), signed=True, ties="down")
        channel = along(0, x, len(alpha))
        q = plain.quantize(x / alpha[channel])
        assert not file.differing(key, q, x), key
        assert np.array_equal(scaled.select(channel).quantize(x), q * alpha[channel]), key


@pytest.mark.parametrize("name", ["halfnormal", "laplace", "tail"])
def test_activations_of_label_free(name):
    file = golden("labelfree")
    fmt = Affine(7, float(file.meta["info"][f"act/{name}"]["alpha_repr"]), ties="up")
    assert np.array_equal(fmt.encode(file[f"act/{name}/x"].astype(np.float32)), file[f"act/{name}/q_of_last_iteration"])
