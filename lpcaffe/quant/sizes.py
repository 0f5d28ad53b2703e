"""How many bits parameters take: as floats, in their formats, packed, and compressed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lpcaffe.numbers import NumberFormat
from lpcaffe.numbers.huffman import CodeCounts, huffman_size
from lpcaffe.numbers.packing import packed_size


@dataclass(frozen=True)
class Sizes:
    """Sizes of parameters. `a + b` is both together.

    float_bytes     as float32
    nominal_bits    the width of the format for each value
    packed_bytes    the packed codes (`lpcaffe.numbers.packing`), as codes.npz holds them
    entropy_bits    what no code for single values goes below, in whole bits for each blob
    huffman_bits    the codes as `lpcaffe.numbers.huffman` encodes them, its table included

    A blob without a format counts as float32 in all of them.
    """

    float_bytes: int = 0
    nominal_bits: int = 0
    packed_bytes: int = 0
    entropy_bits: int = 0
    huffman_bits: int = 0

    @classmethod
    def of(cls, fmt: NumberFormat, counts: CodeCounts) -> Sizes:
        """The sizes of a blob in a format, whose codes occur so often."""
        total = counts.total
        packed = packed_size(total, code_bits(fmt, counts))
        return cls(4 * total, fmt.width * total, packed, counts.entropy_bits, 8 * huffman_size(counts))

    @classmethod
    def of_floats(cls, count: int) -> Sizes:
        """The sizes of a blob without a format."""
        return cls(4 * count, 32 * count, 4 * count, 32 * count, 32 * count)

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(*map(sum, zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def to_json(self) -> dict[str, int]:
        """The sizes by name."""
        return dataclasses.asdict(self)


def code_bits(fmt: NumberFormat, counts: CodeCounts) -> int:
    """The bits of a packed code: the width of the format, or more where a code needs it.

    A minifloat has a value for each pattern of its width and 0 besides: a blob that holds 0 takes a bit more.
    """
    largest = int(counts.symbols[-1]) if counts.symbols.size else 0
    return max(fmt.width, largest.bit_length() if largest >= 0 else 0)
