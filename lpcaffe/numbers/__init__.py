"""Number formats, one file each, and the rounding that puts values into them."""

from lpcaffe.numbers.affine import Affine as Affine
from lpcaffe.numbers.channels import ChannelQFormat as ChannelQFormat
from lpcaffe.numbers.codebook import Codebook as Codebook
from lpcaffe.numbers.minifloat import Minifloat as Minifloat
from lpcaffe.numbers.number_format import NumberFormat as NumberFormat
from lpcaffe.numbers.ocp_float import OcpFloat as OcpFloat
from lpcaffe.numbers.power_of_two import PowerOfTwo as PowerOfTwo
from lpcaffe.numbers.qformat import QFormat as QFormat
from lpcaffe.numbers.text import parse_format as parse_format

__all__ = [
    "Affine",
    "ChannelQFormat",
    "Codebook",
    "Minifloat",
    "NumberFormat",
    "OcpFloat",
    "PowerOfTwo",
    "QFormat",
    "parse_format",
]
