"""From statistics and widths to a plan."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpcaffe.allocation.bits import WIDEST, layer_widths
from lpcaffe.allocation.registry import Tensor, method_named
from lpcaffe.calibration import Calibration, TensorStats, finite_weights
from lpcaffe.engines import check_executable
from lpcaffe.engines.parameters import check_blobs
from lpcaffe.errors import LpcaffeWarning, PlanError, located
from lpcaffe.net import Net, WeightBlob, fold_batch_norm, quantizable_layers
from lpcaffe.net.blobs import finite_chunks
from lpcaffe.net.placement import output_layers
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan

# What becomes of biases: left in full precision, with a report or without; rounded, in formats that hold them.
BIASES = ("report", "none", "own")


@dataclass(frozen=True, eq=False)
class LayerTensors:
    """The tensors of a learned layer that get a format, and the values of its bias, none where it has none.

    `output` is None where the output stays in full precision.
    """

    type: str
    weights: Tensor
    output: Tensor | None
    bias: np.ndarray


def allocate(
    net: Net,
    stats: Calibration | None,
    *,
    bits: int = 16,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    conv_weight_bits: int | None = None,
    inner_product_weight_bits: int | None = None,
    bits_for: Sequence[str] = (),
    bits_from: BitPlan | None = None,
    method: str = "max",
    weight_method: str | None = None,
    activation_method: str | None = None,
    bias: str = "report",
    dialect: str = "adaption",
    rounding: str = "deterministic",
    seed: int = 0,
    round_bias: bool = False,
    round_output: bool = False,
    keep_step: bool = False,
    fold_bn: bool = True,
) -> BitPlan:
    """A format for the weights of every learned layer, and for its output.

    Widths count the sign: `bits`, or what says it more closely (`allocation/bits.py`). A method is one of
    docs/methods, with its option after a colon: "percentile:99.9"; `weight_method` and `activation_method` default to
    `method`. Formats of weights come from the weights, those of outputs from `stats`; without `stats` no output is
    rounded. With stats, folding and placement are those of the calibration. A learned layer from whose output no other
    can be reached keeps its output in full precision, unless `round_output`.

    `bias` is "report" (full precision; the plan's comments say how many would saturate in the layer's format), "none"
    (full precision), or "own" (rounded; the layer's format is chosen over weights and bias), which `round_bias` says
    too.

    Where the method asks for a format that the dialect cannot say, the nearest one of the same width is taken: for
    bd < 1 one with more range and coarser steps, for ad < 0 one that saturates; with a warning where that costs much.
    With `keep_step`, Q-6.22 becomes Q1.22 instead of Q1.15: the same values as long as nothing exceeds the narrower
    range, so integer codes still fit `bits`, though the format's width says more.
    """
    choose_weights = method_named(method if weight_method is None else weight_method)
    choose_output = method_named(method if activation_method is None else activation_method)
    if bias not in BIASES or (round_bias and bias == "none"):
        got = f"{bias!r}{' with round_bias' if round_bias else ''}"
        raise PlanError(f"bias: expected {', '.join(BIASES[:-1])} or {BIASES[-1]}, got {got}")
    round_bias = round_bias or bias == "own"
    if bits_from is not None:
        bits_from.check(net)
    tensors = layer_tensors(net, stats, round_output=round_output, round_bias=round_bias, fold_bn=fold_bn)
    widths = layer_widths(
        {name: layer.type for name, layer in tensors.items()},
        bits=bits,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        conv_weight_bits=conv_weight_bits,
        inner_product_weight_bits=inner_product_weight_bits,
        bits_for=bits_for,
        bits_from=bits_from,
    )
    layers, comments = {}, {}
    for name, layer in tensors.items():
        with located(layer=name):
            weights = choose_weights(layer.weights, widths[name].weights)
            weights = _said(weights, layer.weights, name, dialect, keep_step)
            output = None
            if layer.output is not None:
                output = choose_output(layer.output, widths[name].output)
                output = _said(output, layer.output, name, dialect, keep_step)
        layers[name] = LayerPlan(layer.type, weights, output)
        comments[name] = _comment(layer.weights.stats, None if stats is None else stats.layers[name])
        if bias == "report" and not round_bias and (count := _saturating(layer.bias, weights)):
            comments[name] += f", {count} of {layer.bias.size} bias values beyond {weights}"
    return BitPlan(
        layers,
        network=net.name,
        sha256=net.sha256,
        dialect=dialect,
        rounding=rounding,
        seed=seed,
        round_bias=round_bias,
        fold_bn=fold_bn if stats is None else stats.fold_bn,
        act_placement="before-relu" if stats is None else stats.act_placement,
        comments=comments,
    )


def layer_tensors(
    net: Net,
    stats: Calibration | None,
    *,
    round_output: bool = False,
    round_bias: bool = False,
    fold_bn: bool = True,
) -> dict[str, LayerTensors]:
    """The tensors of every learned layer that get a format, by layer name, in the order of the file.

    With `round_bias` the statistics of the weights are those of weights and bias. With `stats`, folding is theirs.
    Raises WeightsError for weights that are missing or not finite, DataError for statistics of another network.
    """
    if stats is not None:
        stats.check(net)
        fold_bn = stats.fold_bn
    folded = fold_batch_norm(net) if fold_bn else net
    shapes = check_executable(folded)
    exact = frozenset() if round_output else output_layers(folded)
    found = {}
    for layer in quantizable_layers(folded):
        name, output, bias = layer.name, None, np.zeros(0, np.float32)
        with finite_weights(net), located(layer=name):
            blobs = check_blobs(folded, name, shapes.params[name])
            weights, bias_stats = weight_stats(blobs[0], 0), None
            if len(blobs) > 1:
                bias, bias_stats = np.asarray(blobs[1].array(), np.float32), weight_stats(blobs[1], 1)
                if round_bias:
                    weights += bias_stats
        if stats is not None and name not in exact:
            output = Tensor("output", stats.layers[name], rectified=stats.rectified.get(name))
        found[name] = LayerTensors(layer.type, Tensor("weights", weights, bias=bias_stats), output, bias)
    return found


def weight_stats(blob: WeightBlob, index: int) -> TensorStats:
    """The statistics of a blob of weights; WeightsError when it holds NaN or infinity, naming the first."""
    return sum((TensorStats.of(chunk) for chunk in finite_chunks(blob, index)), TensorStats())


def expressible(fmt: QFormat, dialect: str, keep_step: bool = False) -> QFormat:
    """The format itself, or what stands for it: ADaPTION's needs bd >= 1 and ad >= 0, float32 data -24 <= ad <= 126."""
    lowest, highest = (0, fmt.width - 1) if dialect == "adaption" else (-24, 126)
    if lowest <= fmt.ad <= highest:
        return fmt
    if dialect == "adaption" and fmt.ad > highest and keep_step:
        return QFormat(1, min(fmt.ad, WIDEST - 1))
    ad = min(max(fmt.ad, lowest), highest)
    return QFormat(fmt.width - ad, ad)


# A format that leaves this many of its bits unused is worth a warning.
_UNUSED_BITS = 5


def _said(fmt: QFormat, tensor: Tensor, layer: str, dialect: str, keep_step: bool) -> QFormat:
    """The format, as the dialect can say it; with a warning where that costs much."""
    taken = expressible(fmt, dialect, keep_step)
    if taken.width != fmt.width:
        return taken
    adaption, seen = dialect == "adaption", tensor.stats
    if taken.ad > fmt.ad:
        problem = f"{taken} saturates"
    elif fmt.ad - taken.ad >= _UNUSED_BITS:
        help_ = " (--keep-step, --keep-bn or --dialect plain help)" if adaption else ""
        problem = f"{taken} leaves {min(fmt.ad - taken.ad, fmt.width)} of {fmt.width} bits unused{help_}"
    else:
        return taken
    what = f"up to {seen.abs_max:.4g}" if tensor.kind == "weights" else f"{seen.min:.4g} .. {seen.max:.4g}"
    which = "the ADaPTION dialect cannot say" if adaption else "float32 data cannot hold"
    whose = f'layer "{layer}": {tensor.kind if tensor.kind == "weights" else "outputs"} {what}'
    warnings.warn(f"{whose} ask for {fmt}, which {which}; {problem}", LpcaffeWarning, stacklevel=3)
    return taken


def _comment(weights: TensorStats, output: TensorStats | None) -> str:
    """What the formats of a layer were chosen from, for the plan."""
    text = f"|weights| <= {weights.abs_max:.4g}{_note(weights)}"
    return text if output is None else f"{text}, output {output.min:.4g} .. {output.max:.4g}{_note(output)}"


def _note(stats: TensorStats) -> str:
    if stats.count < 2 or stats.min != stats.max:
        return ""
    return " (constant)" if stats.abs_max else " (all zero)"


def _saturating(bias: np.ndarray, fmt: QFormat) -> int:
    """How many bias values lie beyond the largest of the format by half a step or more."""
    return int(np.count_nonzero(np.abs(bias) >= fmt.max + fmt.step / 2))
