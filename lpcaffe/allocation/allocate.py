"""From statistics and widths to a plan."""

from __future__ import annotations

import warnings

from lpcaffe.allocation.registry import method_named
from lpcaffe.calibration import Calibration, TensorStats, finite_weights
from lpcaffe.engines import check_executable
from lpcaffe.engines.forward import check_blobs
from lpcaffe.errors import LpcaffeWarning, PlanError, located
from lpcaffe.net import Net, WeightBlob, fold_batch_norm, learned_layers
from lpcaffe.net.blobs import finite_chunks
from lpcaffe.net.placement import output_layers
from lpcaffe.plan import BitPlan, LayerPlan
from lpcaffe.qformat import QFormat

# The widest format whose values a float32 all holds.
WIDEST = 25


def allocate(
    net: Net,
    stats: Calibration | None,
    *,
    bits: int = 16,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    method: str = "max",
    dialect: str = "adaption",
    rounding: str = "deterministic",
    seed: int = 0,
    round_bias: bool = False,
    round_output: bool = False,
    keep_step: bool = False,
    fold_bn: bool = True,
) -> BitPlan:
    """A format for the weights of every learned layer, and for its output.

    `weight_bits` and `activation_bits` default to `bits`; all count the sign. Formats of weights come from the weights
    (from the bias too with `round_bias`), those of outputs from `stats`; without `stats` no output is rounded. With
    stats, folding and placement are those of the calibration. A learned layer from whose output no other can be
    reached keeps its output in full precision, unless `round_output`.

    Where the method asks for a format that the dialect cannot say, the nearest one of the same width is taken: for
    bd < 1 one with more range and coarser steps, for ad < 0 one that saturates; with a warning where that costs much.
    With `keep_step`, Q-6.22 becomes Q1.22 instead of Q1.15: the same values as long as nothing exceeds the narrower
    range, so integer codes still fit `bits`, though the format's width says more.
    """
    choose = method_named(method)
    widths = {
        "weights": bits if weight_bits is None else weight_bits,
        "output": bits if activation_bits is None else activation_bits,
    }
    for what, width in widths.items():
        if not 2 <= width <= WIDEST:
            raise PlanError(f"{what}: expected 2 to {WIDEST} bits, which a float32 holds exactly, got {width}")
    if stats is not None:
        stats.check(net)
        fold_bn = stats.fold_bn
    folded = fold_batch_norm(net) if fold_bn else net
    shapes = check_executable(folded)
    exact = output_layers(folded)
    layers, comments = {}, {}
    for layer in learned_layers(folded):
        with finite_weights(net), located(layer=layer.name):
            blobs = check_blobs(folded, layer.name, shapes.params[layer.name])
            used = blobs if round_bias else blobs[:1]
            seen = sum((weight_stats(blob, index) for index, blob in enumerate(used)), TensorStats())
            weights = _expressible(
                choose(seen, widths["weights"]),
                dialect,
                keep_step,
                f'layer "{layer.name}": weights up to {seen.abs_max:.4g}',
            )
            output = None
            comments[layer.name] = f"|weights| <= {seen.abs_max:.4g}"
            if stats is not None:
                reached = stats.layers[layer.name]
                comments[layer.name] += f", output {reached.min:.4g} .. {reached.max:.4g}"
                if round_output or layer.name not in exact:
                    output = _expressible(
                        choose(reached, widths["output"]),
                        dialect,
                        keep_step,
                        f'layer "{layer.name}": outputs {reached.min:.4g} .. {reached.max:.4g}',
                    )
        layers[layer.name] = LayerPlan(layer.type, weights, output)
    return BitPlan(
        layers,
        network=net.name,
        sha256=net.sha256,
        dialect=dialect,
        rounding=rounding,
        seed=seed,
        round_bias=round_bias,
        fold_bn=fold_bn,
        act_placement="before-relu" if stats is None else stats.act_placement,
        comments=comments,
    )


# A format that leaves this many of its bits unused is worth a warning.
_UNUSED_BITS = 5


def _expressible(fmt: QFormat, dialect: str, keep_step: bool, what: str) -> QFormat:
    """The format itself, or what stands for it: ADaPTION's needs bd >= 1 and ad >= 0, float32 data -24 <= ad <= 126."""
    adaption = dialect == "adaption"
    lowest, highest = (0, fmt.width - 1) if adaption else (-24, 126)
    if lowest <= fmt.ad <= highest:
        return fmt
    if adaption and fmt.ad > highest and keep_step:
        return QFormat(1, min(fmt.ad, WIDEST - 1))
    ad = min(max(fmt.ad, lowest), highest)
    taken = QFormat(fmt.width - ad, ad)
    problem = ""
    if ad > fmt.ad:
        problem = f"{taken} saturates"
    elif fmt.ad - ad >= _UNUSED_BITS:
        help_ = " (--keep-step, --keep-bn or --dialect plain help)" if adaption else ""
        problem = f"{taken} leaves {fmt.ad - ad} of {fmt.width} bits unused{help_}"
    if problem:
        which = "the ADaPTION dialect cannot say" if adaption else "float32 data cannot hold"
        warnings.warn(f"{what} ask for {fmt}, which {which}; {problem}", LpcaffeWarning, stacklevel=3)
    return taken


def weight_stats(blob: WeightBlob, index: int) -> TensorStats:
    """The statistics of a blob of weights; WeightsError when it holds NaN or infinity, naming the first."""
    return sum((TensorStats.of(chunk) for chunk in finite_chunks(blob, index)), TensorStats())
