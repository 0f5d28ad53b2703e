"""Parts: what a search gives a width of its own, and the format that a method chooses for a part at a width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lpcaffe.allocation.allocate import LayerTensors, expressible
from lpcaffe.allocation.registry import method_named
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import LayerPlan

KINDS = ("weights", "output")


@dataclass(frozen=True)
class Part:
    """The weights of a layer, or its output. `size` counts values: of the blob, or of the output of one image."""

    layer: str
    kind: str
    size: int
    type: str

    def __str__(self) -> str:
        return f"{self.layer} {self.kind}"


class FormatTable:
    """The formats of all parts at all widths, each chosen once.

    `parts` are in the order of the network, the weights of a layer before its output. Formats are those that `allocate`
    gives with the same methods and dialect: what the dialect cannot say is replaced by the nearest format that it can.
    """

    def __init__(
        self,
        tensors: Mapping[str, LayerTensors],
        images: int,
        *,
        weight_method: str = "mse",
        activation_method: str = "mse",
        dialect: str = "adaption",
    ) -> None:
        self._choose = {"weights": method_named(weight_method), "output": method_named(activation_method)}
        self._dialect = dialect
        self._tensors = {}
        self._chosen: dict[tuple[Part, int], QFormat] = {}
        for name, layer in tensors.items():
            self._tensors[Part(name, "weights", layer.weights.stats.count, layer.type)] = layer.weights
            if layer.output is not None:
                size = -(-layer.output.stats.count // max(images, 1))
                self._tensors[Part(name, "output", size, layer.type)] = layer.output
        self.parts = tuple(self._tensors)

    def __call__(self, part: Part, width: int) -> QFormat:
        """The format of a part at a width."""
        key = (part, width)
        if key not in self._chosen:
            self._chosen[key] = expressible(self._choose[part.kind](self._tensors[part], width), self._dialect)
        return self._chosen[key]

    def formats(self, widths: Mapping[Part, int]) -> dict[Part, QFormat]:
        """The formats of parts at their widths."""
        return {part: self(part, width) for part, width in widths.items()}


def average_bits(widths: Mapping[Part, int], kind: str) -> float | None:
    """Bits a value of the weights, or of the outputs, that have a width; None where none has."""
    sized = [(part.size, width) for part, width in widths.items() if part.kind == kind]
    total = sum(size for size, _ in sized)
    return sum(size * width for size, width in sized) / total if total else None


def layer_plans(types: Mapping[str, str], formats: Mapping[Part, QFormat]) -> dict[str, LayerPlan]:
    """The lines of a plan: the formats of each layer of `types` (name -> type), None where a part has none."""
    by_layer = {(part.layer, part.kind): fmt for part, fmt in formats.items()}
    return {
        name: LayerPlan(kind, by_layer.get((name, "weights")), by_layer.get((name, "output")))
        for name, kind in types.items()
    }
