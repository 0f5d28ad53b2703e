"""Number formats, one file each, and the rounding that puts values into them.

Each name is imported when it is first used, so that rounding loads no format but Qm.f.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpcaffe.numbers.affine import Affine as Affine
    from lpcaffe.numbers.channels import ChannelQFormat as ChannelQFormat
    from lpcaffe.numbers.codebook import Codebook as Codebook
    from lpcaffe.numbers.minifloat import Minifloat as Minifloat
    from lpcaffe.numbers.number_format import NumberFormat as NumberFormat
    from lpcaffe.numbers.ocp_float import OcpFloat as OcpFloat
    from lpcaffe.numbers.power_of_two import PowerOfTwo as PowerOfTwo
    from lpcaffe.numbers.qformat import QFormat as QFormat
    from lpcaffe.numbers.text import parse_format as parse_format

_HOME = {
    "Affine": "affine",
    "ChannelQFormat": "channels",
    "Codebook": "codebook",
    "Minifloat": "minifloat",
    "NumberFormat": "number_format",
    "OcpFloat": "ocp_float",
    "PowerOfTwo": "power_of_two",
    "QFormat": "qformat",
    "parse_format": "text",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lpcaffe.numbers.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
