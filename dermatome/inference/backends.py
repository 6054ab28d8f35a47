"""Networks prepared for inference by torch or, on CPUs, by OpenVINO, an extra (``dermatome[openvino]``).

``auto`` uses OpenVINO on a CPU if it is installed and agrees with torch, otherwise torch. Results record which was
used.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadSetting
from dermatome.inference.compute import Backend

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute

Outputs = tuple[npt.NDArray[np.float32], ...]
Tag = TypeVar("Tag")

# Largest allowed difference from torch, relative to the output's largest absolute value, or to 1 if that is smaller.
_AGREE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.03}

_log = logging.getLogger(__name__)


class Runner:
    """A network prepared for inference.

    Attributes:
        backend: ``torch`` or ``openvino``; for records.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``; for records.
    """

    backend: str
    precision: str
    _ahead = 3
    """Number of batches in flight: one in the network, one waiting, one whose output is being copied back."""

    def run(self, batch: npt.NDArray[Any]) -> Outputs:
        """Returns the network's outputs, (N, …) float32 each, for a batch (N, …) of any size."""
        return self._result(self._submit(batch))

    def stream(self, batches: Iterable[tuple[Tag, npt.NDArray[Any]]]) -> Iterator[tuple[Tag, Outputs]]:
        """Runs batches one after another and yields their tags and outputs in order, with several in flight.

        While the network works, the calling thread prepares the next batches and uses the outputs of earlier ones.
        Batches may differ in size. Closing the iterator early waits for those in flight.
        """
        flying: deque[tuple[Tag, Any]] = deque()
        try:
            for tag, batch in batches:
                flying.append((tag, self._submit(batch)))
                if len(flying) >= self._ahead:
                    tag, handle = flying.popleft()
                    yield tag, self._result(handle)
            while flying:
                tag, handle = flying.popleft()
                yield tag, self._result(handle)
        finally:
            for _, handle in flying:
                with suppress(Exception):  # these outputs are no longer needed
                    self._result(handle)

    def _submit(self, batch: npt.NDArray[Any]) -> Any:
        raise NotImplementedError

    def _result(self, handle: Any) -> Outputs:
        raise NotImplementedError


def prepare_runner(module: torch.nn.Module, example: npt.NDArray[Any], compute: Compute) -> Runner:
    """Prepares ``module`` for inference.

    Args:
        module: takes the raw batch as one tensor and returns one tensor or a tuple of tensors, (N, …) each; it includes
            its normalisation. For OpenVINO it is traced: its operations must not depend on values, and on sizes only
            through tensor operations.
        example: a typical batch (N, …), on which OpenVINO is compared with torch.
        compute: device, precision, threads and backend.

    Raises:
        BadSetting: the backend is unknown, not installed, not for this device, or does not agree with torch.
    """
    backend = compute.backend
    if backend not in get_args(Backend):
        raise BadSetting(f"There is no compute backend {backend!r}: use {', '.join(get_args(Backend))}.")
    module = module.eval().to(compute.torch_device)
    plain = TorchRunner(module, compute)
    installed = importlib.util.find_spec("openvino") is not None
    if backend == "torch" or (backend == "auto" and not (compute.device == "cpu" and installed)):
        return plain
    if compute.device != "cpu":
        raise BadSetting(
            f"The compute backend 'openvino' is for CPUs, not {compute.device}: set it to 'auto' or the device "
            "to 'cpu'."
        )
    if not installed:
        raise BadSetting("The compute backend 'openvino' is not installed: pip install 'dermatome[openvino]'.")
    try:
        runner = OpenVinoRunner(_convert(module, example[:1]), compute)
        reason = _disagreement(runner.run(example[:2]), plain.run(example[:2]), compute)
    except Exception as error:  # OpenVINO has its own classes of errors, and torch can run any network
        if backend != "auto":
            raise
        reason = f"{type(error).__name__}: {error}"
    if not reason:
        return runner
    if backend != "auto":
        raise BadSetting(
            f"The compute backend {backend!r} does not agree with torch for this network ({reason}): set it to 'torch'."
        )
    _log.warning("The compute backend openvino is not used here: %s", reason)
    return plain


def _disagreement(found: Outputs, wanted: Outputs, compute: Compute) -> str:
    """Why ``found`` does not agree with ``wanted``; empty if it does."""
    if [one.shape for one in found] != [other.shape for other in wanted]:
        return "the outputs have other shapes"
    for one, other in zip(found, wanted, strict=True):
        # NaN compares as false, so a NaN disagrees.
        worst = float(np.abs(one - other).max(initial=0.0)) / max(1.0, float(np.abs(other).max(initial=0.0)))
        if not worst <= _AGREE[compute.precision]:
            return f"outputs differ by up to {worst:.2g}"
    return ""


class TorchRunner(Runner):
    """A network run by torch, channels-last: in a thread on a CPU, by queued kernels on a GPU."""

    backend = "torch"

    def __init__(self, module: torch.nn.Module, compute: Compute) -> None:
        import torch

        channels_last: Any = torch.channels_last
        self._compute, self.precision = compute, compute.precision
        self._module: Any = module.to(memory_format=channels_last)  # type: ignore[call-overload]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")

    def _submit(self, batch: npt.NDArray[Any]) -> Any:
        return self._queue(batch) if self._compute.device == "cuda" else self._thread.submit(self._run, batch)

    def _result(self, handle: Any) -> Outputs:
        if isinstance(handle, Future):
            found: Outputs = handle.result()
            return found
        fetched, done = handle
        done.synchronize()
        return tuple(output.numpy() for output in fetched)

    def _run(self, batch: npt.NDArray[Any]) -> Outputs:
        import torch

        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(batch)).to(self._compute.torch_device)
            return tuple(output.cpu().numpy() for output in self._forward(tensor))

    def _queue(self, batch: npt.NDArray[Any]) -> tuple[tuple[torch.Tensor, ...], torch.cuda.Event]:
        """Queues copies and kernels on the GPU; the event marks when the outputs have arrived in pinned memory."""
        import torch

        device = self._compute.torch_device
        with torch.inference_mode():
            # The copy from pinned memory runs in parallel to the network.
            tensor = torch.from_numpy(np.ascontiguousarray(batch)).pin_memory().to(device, non_blocking=True)
            outputs = self._forward(tensor)
            fetched = tuple(torch.empty(o.shape, dtype=o.dtype, pin_memory=True) for o in outputs)
            for here, there in zip(fetched, outputs, strict=True):
                here.copy_(there, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            # On this runner's GPU: on another, current GPU the event would mark nothing.
            done.record(torch.cuda.current_stream(device))
        return fetched, done

    def _forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with self._compute.autocast():
            found = self._module(batch)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(output.float() for output in outputs)


class OpenVinoRunner(Runner):
    """A network converted and compiled for this CPU.

    Attributes:
        model: the OpenVINO model.
        compute: precision and threads.
        precision: its name in records; by default that of ``compute``.
    """

    backend = "openvino"

    def __init__(self, model: Any, compute: Compute, precision: str = "") -> None:
        self.model, self.compute, self.precision = model, compute, precision or compute.precision
        self._compile()

    def _compile(self) -> None:
        options = {
            # Each stream of a few threads processes its own batch, which is fastest if batches queue.
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": self.compute.threads,
            # With pinning, several processes would choose the same cores.
            "ENABLE_CPU_PINNING": False,
            # Without this, CPUs that can would use bf16 instead of fp32.
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[self.compute.precision],
        }
        self._compiled: Any = import_openvino().Core().compile_model(self.model, "CPU", options)
        # One more than run at once, so that none is idle while the caller uses an output.
        self._ahead = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + 1
        self._idle: deque[Any] = deque()

    def _submit(self, batch: npt.NDArray[Any]) -> Any:
        request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        request.start_async({0: np.ascontiguousarray(batch)})
        return request

    def _result(self, handle: Any) -> Outputs:
        try:
            handle.wait()
        except RuntimeError:
            # After a failure, good batches of the previous size fail too until the network is compiled again.
            self._compile()
            raise
        # Copied, since the memory of the request is reused for a later batch.
        outputs = tuple(np.array(tensor.data, dtype=np.float32) for tensor in handle.output_tensors)
        self._idle.append(handle)
        return outputs


_importing = threading.Lock()


def import_openvino() -> ModuleType:
    """Imports ``openvino`` so that it cannot send usage data.

    The command layer of its converter reports each conversion to its publisher through the package
    ``openvino_telemetry``. This module does not use that layer (see :func:`_convert`), but importing OpenVINO imports
    it; if the package cannot be imported, it uses a stub that does nothing.
    """
    with _importing:
        if "openvino" not in sys.modules:
            sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

    module: ModuleType = openvino
    return module


def _convert(module: torch.nn.Module, image: npt.NDArray[Any]) -> Any:
    """Converts ``module`` to an OpenVINO model of any batch and image size, with OpenVINO's PyTorch front end.

    Args:
        module: in evaluation mode, on the CPU.
        image: a batch of one, with which the network is traced.
    """
    import torch

    import_openvino()
    from openvino import Core, save_model
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch calls tracing, which the front end uses, outdated
        decoder = TorchScriptPythonDecoder(module, example_input=(torch.from_numpy(np.ascontiguousarray(image)),))
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    # OpenVINO's last digits differ between a model it has just converted and the same model read from a file. It is
    # read here too, so that later processes, which read it (dermatome.inference.kept), get the same digits.
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, f"{folder}/model.xml", compress_to_fp16=False)
        return Core().read_model(f"{folder}/model.xml")
