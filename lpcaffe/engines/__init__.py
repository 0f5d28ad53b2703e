"""What runs the layers: shapes without values, values with numpy, graphs for onnxruntime."""

from lpcaffe.engines.forward import batch_size, check_executable, forward, run_layers
from lpcaffe.engines.numpy_engine import NumpyEngine
from lpcaffe.engines.parameters import Parameters, bind_parameters
from lpcaffe.engines.run import choose_engine, run
from lpcaffe.engines.session import EngineInfo, Options
from lpcaffe.engines.shapes import Shapes, infer_shapes, input_shapes
from lpcaffe.engines.table import ENGINES, engines_with

__all__ = [
    "ENGINES",
    "EngineInfo",
    "NumpyEngine",
    "Options",
    "Parameters",
    "Shapes",
    "batch_size",
    "bind_parameters",
    "check_executable",
    "choose_engine",
    "engines_with",
    "forward",
    "infer_shapes",
    "input_shapes",
    "run",
    "run_layers",
]
