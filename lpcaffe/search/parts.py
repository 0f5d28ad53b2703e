"""What a search gives a width of its own: sites, how many values each has, and its format at a width."""

from __future__ import annotations

from collections.abc import Mapping

from lpcaffe.allocation.allocate import Methods
from lpcaffe.allocation.registry import Tensor
from lpcaffe.dialects import dialect_named
from lpcaffe.errors import located
from lpcaffe.numbers import NumberFormat
from lpcaffe.quant.sites import Site

ROLES = ("weights", "output")


class FormatTable:
    """The formats of all sites at all widths, each chosen once.

    `sites` are in the order of the network, the weights of a layer before its output; `sizes` are their numbers of
    values: of the blob, or of the output of one image. Formats are those that `allocate` gives with the same methods
    and dialect: what the dialect cannot express is replaced by the nearest format that it can.
    """

    def __init__(
        self, tensors: Mapping[Site, Tensor], images: int, *, methods: Methods | None = None, dialect: str = "adaption"
    ) -> None:
        self._choose = (methods or Methods("mse", "mse")).chosen()
        self._dialect = dialect_named(dialect)
        self._tensors = {site: tensor for site, tensor in tensors.items() if site.role in ROLES}
        self._chosen: dict[tuple[Site, int], NumberFormat] = {}
        self.sites = tuple(self._tensors)
        self.sizes = {
            site: tensor.stats.count if site.role == "weights" else -(-tensor.stats.count // max(images, 1))
            for site, tensor in self._tensors.items()
        }

    def __call__(self, site: Site, width: int) -> NumberFormat:
        """The format of a site at a width."""
        key = (site, width)
        if key not in self._chosen:
            with located(layer=site.layer):
                self._chosen[key] = self._dialect.fit(self._choose[site.role](self._tensors[site], width), site)
        return self._chosen[key]

    def formats(self, widths: Mapping[Site, int]) -> dict[Site, NumberFormat]:
        """The formats of sites at their widths."""
        return {site: self(site, width) for site, width in widths.items()}

    def average_bits(self, widths: Mapping[Site, int], role: str) -> float | None:
        """Bits a value of the weights, or of the outputs, that have a width; None where none has."""
        sized = [(self.sizes[site], width) for site, width in widths.items() if site.role == role]
        total = sum(size for size, _ in sized)
        return sum(size * width for size, width in sized) / total if total else None
