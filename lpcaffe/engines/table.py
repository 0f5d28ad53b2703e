"""The table of engines: the choices of `--engine` beside auto, and what each can do."""

from __future__ import annotations

from lpcaffe.engines.forward import open_numpy
from lpcaffe.engines.onnxruntime_engine import open_onnxruntime
from lpcaffe.engines.pycaffe_engine import open_pycaffe
from lpcaffe.engines.session import EngineInfo

ENGINES: dict[str, EngineInfo] = {
    "numpy": EngineInfo(open_numpy, float64=True, random=True, any_tensor=True),
    "onnxruntime": EngineInfo(open_onnxruntime, any_tensor=True),
    "pycaffe": EngineInfo(open_pycaffe),
}


def engines_with(ability: str) -> str:
    """The names of the engines that have an ability, a field of `EngineInfo`, for messages: "numpy and onnxruntime"."""
    return " and ".join(name for name, info in ENGINES.items() if getattr(info, ability))
