"""Which weight is at fault for a number that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lpcaffe.errors import DataError, WeightsError, located
from lpcaffe.net import Net
from lpcaffe.net.blobs import finite_chunks


@contextmanager
def finite_weights(net: Net) -> Iterator[None]:
    """Errors raised inside because a weight is NaN or infinite name that weight: layer, blob and first index.

    Without this they would name an activation or a folded blob, often of a later layer. The weights are read for this
    only when something has failed.
    """
    try:
        yield
    except (DataError, WeightsError):
        for layer in net.layers:
            for index, blob in enumerate((net.weights or {}).get(layer.name, ())):
                with located(layer=layer.name):
                    for _ in finite_chunks(blob, index):
                        pass
        raise
