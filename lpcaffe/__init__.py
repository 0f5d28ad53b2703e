"""lpcaffe: released Caffe networks in fixed-point arithmetic, without Caffe, every bit proved.

    import lpcaffe as lp

    net = lp.load("deploy.prototxt", "net.caffemodel")
    stats = lp.calibrate(net, lp.images("calibration/", net))
    plan = lp.allocate(net, stats, bits=16, method="max")
    low = lp.convert(net, plan, "out/")
    print(lp.validate(net, low, lp.images("validation/", net)))

Names are imported when they are first used, so `import lpcaffe` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from lpcaffe.allocation import Methods as Methods
    from lpcaffe.allocation import Widths as Widths
    from lpcaffe.allocation import allocate as allocate
    from lpcaffe.calibration import Calibration as Calibration
    from lpcaffe.calibration import calibrate as calibrate
    from lpcaffe.conversion import extract as extract
    from lpcaffe.conversion import rewrite as rewrite
    from lpcaffe.conversion import unpack as unpack
    from lpcaffe.conversion import write_codes as write_codes
    from lpcaffe.conversion import write_net as write_net
    from lpcaffe.conversion import write_weights as write_weights
    from lpcaffe.data import images as images
    from lpcaffe.engines import infer_shapes as infer_shapes
    from lpcaffe.engines import run as run
    from lpcaffe.errors import DataError as DataError
    from lpcaffe.errors import LpcaffeError as LpcaffeError
    from lpcaffe.errors import LpcaffeWarning as LpcaffeWarning
    from lpcaffe.export import export_onnx as export_onnx
    from lpcaffe.net import Net as Net
    from lpcaffe.net import fold_batch_norm as fold_batch_norm
    from lpcaffe.net import load as load
    from lpcaffe.net import load_net as load_net
    from lpcaffe.numbers.qformat import QFormat as QFormat
    from lpcaffe.numbers.rounding import round_fp as round_fp
    from lpcaffe.pipeline import convert as convert
    from lpcaffe.pipeline import validate as validate
    from lpcaffe.quant.apply import quantize as quantize
    from lpcaffe.quant.plan import BitPlan as BitPlan
    from lpcaffe.quant.plan import LayerPlan as LayerPlan
    from lpcaffe.quant.policy import Policy as Policy
    from lpcaffe.report import diff as diff
    from lpcaffe.report import inspect as inspect
    from lpcaffe.search.measure import Measure as Measure
    from lpcaffe.search.search import Scope as Scope
    from lpcaffe.search.search import search_widths as search_widths
    from lpcaffe.search.target import Target as Target
    from lpcaffe.validation import verify as verify
    from lpcaffe.zoo import fetch as fetch

_HOME = {
    "BitPlan": "quant.plan",
    "Calibration": "calibration",
    "DataError": "errors",
    "LayerPlan": "quant.plan",
    "LpcaffeError": "errors",
    "LpcaffeWarning": "errors",
    "Net": "net",
    "Measure": "search.measure",
    "Methods": "allocation",
    "Policy": "quant.policy",
    "QFormat": "numbers.qformat",
    "Scope": "search.search",
    "Target": "search.target",
    "Widths": "allocation",
    "allocate": "allocation",
    "calibrate": "calibration",
    "convert": "pipeline",
    "diff": "report",
    "extract": "conversion",
    "fetch": "zoo",
    "export_onnx": "export",
    "fold_batch_norm": "net",
    "images": "data",
    "inspect": "report",
    "infer_shapes": "engines",
    "load": "net",
    "load_net": "net",
    "quantize": "quant.apply",
    "rewrite": "conversion",
    "round_fp": "numbers.rounding",
    "run": "engines",
    "search_widths": "search.search",
    "unpack": "conversion",
    "validate": "pipeline",
    "verify": "validation",
    "write_codes": "conversion",
    "write_net": "conversion",
    "write_weights": "conversion",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lpcaffe.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
