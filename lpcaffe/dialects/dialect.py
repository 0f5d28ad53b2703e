"""A dialect: how Caffe's files express a quantized network.

Three verbs, and nothing else in this project depends on which dialect it is:

    fit      the nearest format that the dialect can express at a site
    write    the message and the blobs of a quantized network
    read     the quantized network of such files

A dialect is one file beside this one, and one line in `__init__.py`. What it cannot express is in its `fit` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lpcaffe.errors import PlanError, located
from lpcaffe.formats.caffemodel import BlobSource
from lpcaffe.net import Net
from lpcaffe.numbers import NumberFormat
from lpcaffe.quant.apply import Quantized
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site

Blobs = Mapping[str, Sequence[BlobSource]]


@dataclass
class Clipped:
    """How many full-precision values were written at the limit of their format, by site; filled as they are written."""

    counts: dict[Site, int] = field(default_factory=dict)


class Dialect(Protocol):
    """What every dialect answers."""

    @property
    def name(self) -> str:
        """Its name in plans and on the command line."""

    @property
    def hint(self) -> str | None:
        """What helps where it cannot express a format."""

    @property
    def schemes(self) -> Collection[str]:
        """The rounding schemes that it can express."""

    def fit(self, fmt: NumberFormat, site: Site) -> NumberFormat:
        """The nearest format that files can express at a site, of the same width. Raises PlanError for a kind."""

    def written(self, fmt: NumberFormat, site: Site) -> NumberFormat:
        """What the files hold for a format that `fit` returns."""

    def copies(self, type_: str) -> int:
        """How many values of a caffemodel a parameter of a layer of this type takes."""

    def network(self, quantized: Quantized) -> Net:
        """The network without weights. Raises as `check`."""

    def blobs(self, quantized: Quantized, clipped: Clipped) -> Blobs:
        """The blobs, lazily. Raises WeightsError for blobs that are missing or do not fit."""

    @property
    def marked(self) -> bool:
        """Whether a network that is of this dialect shows it."""

    def is_written(self, net: Net) -> bool:
        """Whether a network shows by itself that it is of this dialect."""

    def read(self, net: Net, plan: BitPlan | None) -> Quantized:
        """The quantized network of a network's files. The plan gives what files do not hold: the seed, for one."""


def check(dialect: Dialect, quantized: Quantized) -> None:
    """Raise PlanError for a scheme that the dialect cannot express, or, with the layer, for a format at its site."""
    check_scheme(dialect, quantized.policy)
    for site, fmt in quantized.formats.items():
        with located(layer=site.layer):
            if (nearest := dialect.fit(fmt, site)) != fmt:
                problem = (
                    f"{site.role}: {fmt} cannot be written in the dialect {dialect.name}; the nearest is {nearest}"
                )
                raise PlanError(problem, hint=dialect.hint)


def check_scheme(dialect: Dialect, policy: Policy) -> None:
    """Raise PlanError for a rounding scheme that the dialect cannot express."""
    if policy.rounding not in dialect.schemes:
        problem = (
            f"rounding: the dialect {dialect.name} expresses {' or '.join(dialect.schemes)}, got {policy.rounding}"
        )
        raise PlanError(problem, hint=dialect.hint)
