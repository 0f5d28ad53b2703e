"""The weights of a network, bound to its layers, and what is computed from them alone.

An engine has no memory. What does not depend on the images, weights in the engine's own type and weights rounded by LP
layers, is computed once for a `Parameters` object and stays with it: other weights are another object.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence

import numpy as np

from lpcaffe.engines.shapes import Shapes
from lpcaffe.errors import WeightsError, located, shape_text
from lpcaffe.layers.registry import Shape, product
from lpcaffe.net import Net, WeightBlob


class Parameters(Mapping[str, Sequence[np.ndarray]]):
    """The blobs of each layer, by its name, as arrays of the shapes that the layers declare.

    The arrays are not to be changed. Several threads may use one object.
    """

    def __init__(self, blobs: Mapping[str, Sequence[np.ndarray]]) -> None:
        self._blobs = dict(blobs)
        self._derived: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}
        self._computing = threading.Lock()

    def __getitem__(self, layer: str) -> Sequence[np.ndarray]:
        """The blobs of a layer."""
        return self._blobs[layer]

    def __iter__(self) -> Iterator[str]:
        """The names of the layers."""
        return iter(self._blobs)

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self._blobs)

    def derived(self, key: Hashable, source: np.ndarray, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """What `compute` makes of the blob `source`, computed at the first call with this key and this very array.

        The key names all else that the value depends on.
        """
        known = self._derived.get(key)
        if known is None or known[0] is not source:
            with self._computing:
                known = self._derived.get(key)
                if known is None or known[0] is not source:
                    known = self._derived[key] = source, compute()
        return known[1]


def bind_parameters(net: Net, shapes: Shapes, *, only: Collection[str] | None = None) -> Parameters:
    """The net's weights as arrays of the declared shapes; views of the file where its values are float32.

    Raises WeightsError, with expected and got, when a layer has no weights, or blobs of another number or shape. A
    legacy blob (four dimensions always) fits when its number of values does. `only` limits it to some layers.
    """
    for name, blobs in (net.weights or {}).items():
        if blobs and name in net.by_name and name not in shapes.params:
            raise WeightsError(f"{net.by_name[name].type} has no blobs, the weights hold {len(blobs)}", layer=name)
    bound = {}
    for name, expected in shapes.params.items():
        if only is not None and name not in only:
            continue
        with located(layer=name):
            blobs = check_blobs(net, name, expected)
            bound[name] = [blob.array().reshape(shape) for blob, shape in zip(blobs, expected, strict=True)]
    return Parameters(bound)


def check_blobs(net: Net, name: str, expected: Sequence[Shape]) -> Sequence[WeightBlob]:
    """The stored blobs of a layer, when they are those that the layer declares. Raises WeightsError."""
    blobs = (net.weights or {}).get(name, ())
    with located(path=None if net.weights is None else net.weights_path, layer=name):
        if not blobs:
            got = "no weights were given" if net.weights is None else "the weights have no blobs for this layer"
            raise WeightsError(f"{got}, expected {len(expected)}")
        if len(blobs) != len(expected):
            raise WeightsError(f"expected {len(expected)} blobs, got {len(blobs)}")
        for index, (blob, shape) in enumerate(zip(blobs, expected, strict=True)):
            fits = product(blob.shape) == product(shape) if blob.legacy else tuple(blob.shape) == tuple(shape)
            if not fits:
                problem = f"expected the shape {shape_text(shape)}, got {shape_text(blob.shape)}"
                raise WeightsError(problem, blob=index)
    return blobs
