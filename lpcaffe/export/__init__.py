"""Networks for other tools: ONNX in four profiles."""

from lpcaffe.export.onnx_file import Exported, export_onnx
from lpcaffe.export.profiles import PROFILES

__all__ = ["PROFILES", "Exported", "export_onnx"]
