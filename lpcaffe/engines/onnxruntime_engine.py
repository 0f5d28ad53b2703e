"""onnxruntime: the emitted graph of a network, executed in float32. Fast, and not the reference for fixed point."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lpcaffe.engines import onnx_model
from lpcaffe.engines.onnx_graph import check_graph, emit
from lpcaffe.engines.session import Options, Session
from lpcaffe.engines.shapes import Shapes
from lpcaffe.errors import DataError, NetError
from lpcaffe.layers.registry import Shape, product
from lpcaffe.net import Net


def open_onnxruntime(net: Net, tensors: Collection[str], shapes: Shapes, options: Options) -> Session:
    """A session of onnxruntime."""
    runtime = OnnxRuntime(net, tensors, threads=options.threads)
    return lambda inputs, first: runtime.run(inputs)


def fits(net: Net) -> bool:
    """Whether onnxruntime can take a network: its layers, and its weights in one message."""
    try:
        check_graph(net)
    except NetError:
        return False
    weights = (blob for blobs in (net.weights or {}).values() for blob in blobs)
    return sum(4 * product(blob.shape) for blob in weights) <= onnx_model.INLINE_LIMIT


class OnnxRuntime:
    """A network ready to run.

    `taps` are the tensors wanted (default: the output blobs): the fewer, the more onnxruntime fuses. A graph whose
    batch is not dynamic is made again for every new set of input shapes. With 0, onnxruntime chooses the `threads`.
    """

    def __init__(
        self,
        net: Net,
        taps: Collection[str] | None = None,
        *,
        threads: int = 0,
    ) -> None:
        self.net, self.taps, self.threads = net, taps, threads
        self._opening = threading.Lock()
        self._session: Any = None
        self._outputs: dict[str, str] = {}
        self._fits: dict[str, tuple[int | str, ...]] = {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The tapped tensors of one forward pass. `inputs` are keyed by blob."""
        shapes = {blob: tuple(values.shape) for blob, values in inputs.items()}
        with self._opening:  # several threads may run one network
            if self._session is None or not self._takes(shapes):
                self._open(shapes)
            session, outputs = self._session, self._outputs
        feeds = {blob: np.require(values, np.float32, ["C"]) for blob, values in inputs.items()}
        try:
            found = session.run(list(outputs.values()), feeds)
        except Exception as error:  # onnxruntime's own have no class in common
            raise DataError(f"onnxruntime cannot run the network: {str(error).splitlines()[0]}") from error
        return dict(zip(outputs, found, strict=True))

    def _takes(self, shapes: Mapping[str, Shape]) -> bool:
        return all(
            len(dims) == len(shapes[blob])
            and all(isinstance(dim, str) or dim == size for dim, size in zip(dims, shapes[blob], strict=True))
            for blob, dims in self._fits.items()
        )

    def _open(self, shapes: Mapping[str, Shape]) -> None:
        import onnxruntime

        graph = emit(self.net, taps=self.taps, inputs=shapes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4  # what goes wrong is an exception too: nothing is printed beside it
        model = onnx_model.build_model(graph).SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own have no class in common
            problem = f"onnxruntime cannot load the network: {str(error).splitlines()[0]}"
            raise NetError(problem, hint="the numpy engine runs it") from error
        self._outputs = {tensor: symbol.name for tensor, symbol in graph.outputs.items()}
        self._fits = {symbol.name: graph.dims[symbol.name] for symbol in graph.inputs}
