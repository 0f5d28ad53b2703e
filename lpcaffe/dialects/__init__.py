"""How Caffe's files express a quantized network, one file a dialect.

A new dialect is a file beside this one and a line below; the command line and the plans take its name from here.
"""

from lpcaffe.dialects.adaption import Adaption
from lpcaffe.dialects.dialect import Clipped, Dialect, check, check_scheme
from lpcaffe.dialects.plain import Plain
from lpcaffe.errors import PlanError
from lpcaffe.net import Net

__all__ = ["DIALECTS", "Clipped", "Dialect", "check", "check_scheme", "dialect_named", "dialect_of"]

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Adaption(), Plain())}


def dialect_named(name: str) -> Dialect:
    """The dialect of a name. Raises PlanError."""
    if name not in DIALECTS:
        raise PlanError(f"dialect: expected {' or '.join(DIALECTS)}, got {name!r}")
    return DIALECTS[name]


def dialect_of(net: Net) -> Dialect:
    """The dialect that a network shows; plain where it shows none."""
    return next((dialect for dialect in DIALECTS.values() if dialect.is_written(net)), DIALECTS["plain"])
