"""Networks run by OpenVINO, which is about twice as fast as torch on a processor; an extra, ``dermatome[openvino]``."""

from __future__ import annotations

import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from dermatome.inference.backend import Outputs, Tag
    from dermatome.inference.compute import Compute

_PRECISION = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRunner:
    """A network converted and compiled for this processor; see :class:`dermatome.inference.backend.Runner`."""

    backend = "openvino"

    def __init__(self, module: torch.nn.Module, example: npt.NDArray[Any], compute: Compute) -> None:
        """Converts ``module``; a second or two.

        Args:
            module: in evaluation mode, on the CPU.
            example: a batch; its first image is enough to trace the network.
            compute: precision and threads.
        """
        import_openvino()
        self._compute = compute
        self._model = _convert(module, example[:1])
        self._compile()

    def _compile(self) -> None:
        self._compiled: Any = (
            import_openvino()
            .Core()
            .compile_model(
                self._model,
                "CPU",
                {
                    # A stream for each few threads works on its own batch, which measures best where batches queue.
                    "PERFORMANCE_HINT": "THROUGHPUT",
                    "INFERENCE_NUM_THREADS": self._compute.threads,
                    # Pinned, each of several workers would choose the same first cores.
                    "ENABLE_CPU_PINNING": False,
                    # Without this, processors that can would turn fp32 into bf16 unasked.
                    "INFERENCE_PRECISION_HINT": _PRECISION[self._compute.precision],
                },
            )
        )
        # One more than work at once, so that none waits while the caller uses an answer.
        self._ahead = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + 1
        self._idle: deque[Any] = deque()

    def run(self, batch: npt.NDArray[Any]) -> Outputs:
        """See :meth:`dermatome.inference.backend.Runner.run`."""
        return next(iter(self.stream([(None, batch)])))[1]

    def stream(self, batches: Iterable[tuple[Tag, npt.NDArray[Any]]]) -> Iterator[tuple[Tag, Outputs]]:
        """See :meth:`dermatome.inference.backend.Runner.stream`."""
        flying: deque[tuple[Tag, Any]] = deque()
        try:
            for tag, batch in batches:
                request = self._request()
                request.start_async({0: np.ascontiguousarray(batch)})
                flying.append((tag, request))
                if len(flying) >= self._ahead:
                    yield self._landed(*flying.popleft())
            while flying:
                yield self._landed(*flying.popleft())
        finally:
            for _, request in flying:
                with suppress(RuntimeError):  # nobody waits for these any more
                    request.wait()

    def _request(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()

    def _landed(self, tag: Tag, request: Any) -> tuple[Tag, Outputs]:
        try:
            request.wait()
        except RuntimeError:
            # After a failure it goes on failing for good batches of the size before; compiled afresh it does not.
            self._compile()
            raise
        # Copied, since the request's memory is used again for a later batch.
        outputs = tuple(np.array(tensor.data, dtype=np.float32) for tensor in request.output_tensors)
        self._idle.append(request)
        return tag, outputs


def import_openvino() -> ModuleType:
    """``openvino``, imported so that it cannot send usage data.

    Its converter's command layer reports each conversion to the maker through the package ``openvino_telemetry``. That
    layer is not used here (see :func:`_convert`), but importing OpenVINO imports it; with the package barred, it falls
    back on a stand-in of its own that does nothing.
    """
    with _importing:
        if "openvino" not in sys.modules:
            sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

    module: ModuleType = openvino
    return module


_importing = threading.Lock()


def _convert(module: torch.nn.Module, image: npt.NDArray[Any]) -> Any:
    """``module`` as an OpenVINO model whose batch and image sizes are open, through OpenVINO's PyTorch front end."""
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the front end traces, and torch says that it is old
        decoder = TorchScriptPythonDecoder(module, example_input=(torch.from_numpy(np.ascontiguousarray(image)),))
    front_end = FrontEndManager().load_by_framework("pytorch")
    return front_end.convert(front_end.load(decoder))
