"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lpcaffe.allocation import METHODS
from lpcaffe.allocation.allocate import BIASES
from lpcaffe.data.preprocessing import parse_mean, parse_size
from lpcaffe.dialects import DIALECTS, check_scheme, dialect_named
from lpcaffe.engines import ENGINES
from lpcaffe.errors import DataError, warn
from lpcaffe.numbers.rounding import SCHEMES
from lpcaffe.quant.policy import COVERAGES, PLACEMENTS, Policy


def in_hdf5(path: Path) -> bool:
    """Whether weights under this name are written as HDF5: Caffe goes by the end of the name."""
    return path.name.endswith(".h5")


def choices(name: str, values: Iterable[str]) -> type[StrEnum]:
    """An option's choices, out of the table that defines them."""
    return StrEnum(name, {value.replace("-", "_"): value for value in values})  # type: ignore[return-value]


Dialect: Any = choices("Dialect", DIALECTS)
Placement: Any = choices("Placement", PLACEMENTS)
Coverage: Any = choices("Coverage", COVERAGES)
Bias: Any = choices("Bias", BIASES)
Scheme: Any = choices("Scheme", SCHEMES)


class Channels(StrEnum):
    """The order of the blob's channels."""

    bgr = "bgr"
    rgb = "rgb"
    gray = "gray"


class Phase(StrEnum):
    """Caffe's phases."""

    TEST = "TEST"
    TRAIN = "TRAIN"


# What computes: every engine of the table, and auto, which chooses one.
Engine = StrEnum("Engine", {name: name for name in ("auto", *ENGINES)})  # type: ignore[misc]
AUTO = Engine("auto")


class Dtype(StrEnum):
    """Floating-point types."""

    float32 = "float32"
    float64 = "float64"


class StochasticAs(StrEnum):
    """What stands in for stochastic rounding."""

    floor = "floor"


class Device(StrEnum):
    """Where arrays are rounded."""

    cpu = "cpu"
    cuda = "cuda"


NetFile = Annotated[Path, typer.Argument(metavar="NET", help="The prototxt.", show_default=False)]
NetOrStream = Annotated[Path, typer.Argument(metavar="NET", help="The prototxt; - for stdin.", show_default=False)]
WeightsFile = Annotated[Path, typer.Argument(metavar="WEIGHTS", help="The caffemodel.", show_default=False)]
MaybeWeights = Annotated[Path | None, typer.Argument(metavar="WEIGHTS", help="The caffemodel.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No table, no progress bar, no warnings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OldBd = Annotated[
    bool, typer.Option("--old-bd", help="lpfp_param is from before November 2016: bd leaves out the sign.")
]
Seed = Annotated[int, typer.Option(help="Seed of stochastic rounding.")]
FoldBn = Annotated[
    bool, typer.Option("--fold-bn/--keep-bn", help="Fold BatchNorm, Scale and Bias into the layer before.")
]
RoundOutput = Annotated[bool, typer.Option("--round-output", help="Round the outputs of the last layers too.")]
RoundBias = Annotated[bool, typer.Option("--round-bias", help="Layers compute with rounded biases.")]
KeepStep = Annotated[bool, typer.Option("--keep-step", hidden=True, help="Always so now; accepted, with a note.")]
KeepEven = Annotated[
    bool,
    typer.Option("--keep-even", help="Shorten fractions until no weight has to be written at the limit of its format."),
]
CoverageOption = Annotated[
    Coverage,
    typer.Option("--coverage", help="What gets a format: convolutions and inner products, or all that is multiplied."),
]
BiasBits = Annotated[int | None, typer.Option(help="Width for biases, in formats of their own.", show_default="none")]
EngineOption = Annotated[
    Engine, typer.Option("--engine", help="What computes: auto takes onnxruntime for float work, else numpy.")
]
ActPlacement = Annotated[Placement, typer.Option("--act-placement", help="Where outputs are rounded.")]
Bits = Annotated[int, typer.Option(help="Width of every format, the sign counted.")]
WeightBits = Annotated[int | None, typer.Option(help="Width for weights.", show_default="--bits")]
ActivationBits = Annotated[int | None, typer.Option(help="Width for outputs.", show_default="--bits")]
ConvWeightBits = Annotated[
    int | None, typer.Option(help="Width for weights of convolutions.", show_default="--weight-bits")
]
InnerProductWeightBits = Annotated[
    int | None, typer.Option(help="Width for weights of inner products.", show_default="--weight-bits")
]
BitsFor = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN:N ...",
        help="Width for layers: a name, a glob, type=T, first or last; conv1:8, fc*:weights=6, last:output=12.",
        show_default=False,
    ),
]
BitsFrom = Annotated[
    Path | None, typer.Option(metavar="PLAN", help="Take the widths of this plan.", show_default=False)
]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME[:OPTION]",
        help=f"How formats are chosen: {', '.join(sorted(METHODS))}. percentile:99.9 gives percentile its option.",
    ),
]
WeightMethod = Annotated[
    str | None, typer.Option(metavar="NAME[:OPTION]", help="For weights.", show_default="--method")
]
ActivationMethod = Annotated[
    str | None, typer.Option(metavar="NAME[:OPTION]", help="For outputs.", show_default="--method")
]
BiasOption = Annotated[
    Bias,
    typer.Option(
        "--bias",
        help="Biases: full precision, with a report of those that would saturate or without; own: rounded, in formats "
        "that hold them (--round-bias).",
    ),
]
RoundingOption = Annotated[Scheme, typer.Option(help="Rounding scheme.")]
DialectOption = Annotated[Dialect, typer.Option(help="LP layers, or ordinary layers with rounded weights.")]
DataPath = Annotated[
    str,
    typer.Option("--data", help="Images: a folder, a list file, .npy, .npz, an LMDB, or random.", show_default=False),
]
MaybeData = Annotated[
    str | None,
    typer.Option("--data", help="Images: a folder, a list file, .npy, .npz, an LMDB, or random.", show_default=False),
]
Limit = Annotated[int | None, typer.Option(help="Use the first images only.", show_default=False)]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out images that cannot be decoded; they do not count toward --limit.")
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="MODULE:FUNCTION",
        help="Your own figure: function(full, low, labels) of all outputs, higher is better.",
        show_default=False,
    ),
]
Labels = Annotated[Path | None, typer.Option(help="One integer a line, or .npy.", show_default=False)]
Statistics = Annotated[
    Path | None, typer.Option(help="Statistics of lpcaffe calibrate; else from --data.", show_default=False)
]
DecidingOutput = Annotated[
    str | None,
    typer.Option(metavar="BLOB", help="The blob that decides.", show_default="the Softmax, or the last output"),
]
TrialsFile = Annotated[
    Path | None,
    typer.Option(help="Write every trial here; what is there already is not run again.", show_default=False),
]
PerChannel = Annotated[bool, typer.Option("--per-channel", help="Statistics of each output channel too.")]
Add = Annotated[bool, typer.Option("--add", help="Add to the statistics that OUT holds already.")]
Resize = Annotated[str | None, typer.Option(metavar="WxH", help="Resize images first.", show_default=False)]
Crop = Annotated[int | None, typer.Option(help="Crop the centre of images.", show_default=False)]
Mean = Annotated[
    str | None,
    typer.Option(metavar="B,G,R|FILE", help="Mean to subtract: values, or a binaryproto.", show_default=False),
]
Scale = Annotated[float | None, typer.Option(help="Factor after the mean is subtracted.", show_default=False)]
ChannelsOption = Annotated[
    Channels | None, typer.Option("--channels", help="Order of the channels.", show_default=False)
]
Transpose = Annotated[bool, typer.Option("--transpose", help="Swap height and width.")]


def preprocessing(
    resize: str | None,
    crop: int | None,
    mean: str | None,
    scale: float | None,
    channels: Channels | None,
    transpose: bool,
) -> dict[str, Any]:
    """The preprocessing options as the keywords of `lpcaffe.images`."""
    return {
        "resize": None if resize is None else parse_size(resize),
        "crop": crop,
        "mean": None if mean is None else parse_mean(mean),
        "scale": scale,
        "channels": None if channels is None else channels.value,
        "transpose": transpose or None,
    }


def policy_of(context: typer.Context) -> Policy:
    """The policy that the options of a verb give; what the verb has no option for is the default.

    Raises PlanError for a scheme that the dialect cannot express.
    """
    names = {name: getattr(value, "value", value) for name, value in context.params.items()}
    policy = Policy(**{each.name: names[each.name] for each in fields(Policy) if each.name in names})
    check_scheme(dialect_named(policy.dialect), policy)
    return policy


def note_keep_step(given: bool) -> None:
    """Warn of an option that does nothing any more."""
    if given:
        warn("--keep-step is always on: small weights keep all their bits")


def parse_shape(text: str) -> tuple[int, ...]:
    """`1,3,224,224` as a shape; DataError when it is none."""
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if min(shape, default=0) < 1:
        raise DataError(f"a shape is written N,C,H,W, as 1,3,224,224, got {text!r}")
    return shape


def was_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, and not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def check_data_options(data: str | None, **given: Any) -> None:
    """Raise DataError for options on images where there are none."""
    named = [name for name, value in given.items() if value is not None]
    if data is None and named:
        raise DataError(f"--{named[0].replace('_', '-')} needs images", hint="give --data")
