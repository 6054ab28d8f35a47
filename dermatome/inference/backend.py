"""A network prepared to run the fastest way that this machine has, chosen by measuring, numbers unchanged.

What can run it: plain torch, torch compiled, and OpenVINO (an extra). A short calibration runs each on one batch,
refuses what does not agree with plain torch, and remembers the fastest, so that it is made once for each network and
machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadSetting
from dermatome.inference.compute import Backend
from dermatome.storage.files import locked, write_atomic

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute

Outputs = tuple[npt.NDArray[np.float32], ...]
Tag = TypeVar("Tag")

# Largest difference from plain torch, as a share of the output's largest value or of 1.
_AGREE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.03}

_MEASURED = 4  # batches

_log = logging.getLogger(__name__)


class Runner(Protocol):
    """A network prepared to run.

    Attributes:
        backend: ``torch``, ``openvino`` or ``compile``; for records.
    """

    backend: str

    def run(self, batch: npt.NDArray[Any]) -> Outputs:
        """The network's outputs, (N, …) float32 each, for a batch (N, …) of any size."""
        ...

    def stream(self, batches: Iterable[tuple[Tag, npt.NDArray[Any]]]) -> Iterator[tuple[Tag, Outputs]]:
        """Runs batches one after another and yields their outputs in order, several in flight.

        While the network works, the caller's thread makes the next batches and uses the outputs of earlier ones. At
        most four batches are held. Batches may differ in size. Closing the iterator early waits for those in flight.
        """
        ...


def prepare_runner(
    module: torch.nn.Module,
    example: npt.NDArray[Any],
    compute: Compute,
    *,
    backend: Backend = "auto",
    remembered: Path | None = None,
) -> Runner:
    """Prepares ``module`` to run.

    Args:
        module: takes the raw batch as one tensor, and returns a tensor or a tuple of them, (N, …) each; it does its
            own normalisation. For OpenVINO it is traced: what it does must not depend on values, and on sizes only
            through tensor operations.
        example: a typical batch (N, …), N being the usual number, for calibration; real data rather than zeros.
        compute: device, precision and threads.
        backend: ``auto`` takes the fastest one that agrees with plain torch. On CUDA it also tries to compile, which
            takes a minute.
        remembered: a JSON file in which the choice of ``auto`` is kept, by weights, shape, device, processor and
            library versions; None measures each time.

    Raises:
        BadSetting: the backend asked for is unknown, not installed, not for this device, or does not agree with plain
            torch.
    """
    if backend not in get_args(Backend):
        raise BadSetting(f"There is no compute backend {backend!r}: use {', '.join(get_args(Backend))}.")
    from dermatome.inference.torch_backend import TorchRunner

    module = module.eval().to(compute.torch_device)
    plain = TorchRunner(module, compute)
    if backend == "torch":
        return plain
    if backend != "auto":
        return _checked(backend, module, example, compute, plain)
    key = _fingerprint(module, example, compute)
    known = _recall(remembered).get(key)
    if known == "torch":
        return plain
    if known is not None:
        return _MAKERS[known](module, example, compute)
    runner, sure = _fastest(module, example, compute, plain)
    if remembered is not None and sure:
        with locked(remembered.with_name(f".{remembered.name}.lock")):
            # Read again: another worker may have added its own meanwhile.
            write_atomic(remembered, json.dumps(_recall(remembered) | {key: runner.backend}, indent=1).encode())
    return runner


def _checked(
    backend: str, module: torch.nn.Module, example: npt.NDArray[Any], compute: Compute, plain: Runner
) -> Runner:
    runner = _MAKERS[backend](module, example, compute)
    if reason := _disagreement(runner.run(example), plain.run(example), compute):
        raise BadSetting(
            f"The compute backend {backend!r} does not give this network's numbers ({reason}): set it to 'torch'."
        )
    return runner


def _fastest(
    module: torch.nn.Module, example: npt.NDArray[Any], compute: Compute, plain: Runner
) -> tuple[Runner, bool]:
    """The fastest of the backends that agree with plain torch, and whether it would be tomorrow.

    What is refused is logged with its reason. One that failed (no memory left, a disk full) may run another time.
    """
    wanted = plain.run(example)
    runners, sure = [plain], True
    for name in _candidates(compute):
        try:
            runner = _MAKERS[name](module, example, compute)
            reason = _disagreement(runner.run(example), wanted, compute)
        except Exception as error:  # each backend has errors of its own, and torch can always run the network
            reason, sure = f"{type(error).__name__}: {error}", False
        if reason:
            _log.warning("The compute backend %s is not used here: %s", name, reason)
        else:
            runners.append(runner)
    if len(runners) == 1:
        return plain, sure
    seconds = {runner.backend: _seconds(runner, example) for runner in runners}
    chosen = min(runners, key=lambda runner: seconds[runner.backend])
    measured = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in seconds.items())
    _log.info("Networks run on %s here (a batch of %d: %s).", chosen.backend, len(example), measured)
    return chosen, sure


def _seconds(runner: Runner, example: npt.NDArray[Any]) -> float:
    """Seconds for a batch of a warm runner, over a whole stream: those at work together also arrive together."""
    start = time.perf_counter()
    for _ in runner.stream((number, example) for number in range(_MEASURED)):
        pass
    return (time.perf_counter() - start) / _MEASURED


def _disagreement(found: Outputs, wanted: Outputs, compute: Compute) -> str:
    """Why ``found`` does not agree with ``wanted``; empty where it does."""
    if len(found) != len(wanted):
        return f"{len(found)} outputs instead of {len(wanted)}"
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape:
            return f"an output of shape {one.shape} instead of {other.shape}"
        # NaN compares as false, so a NaN disagrees.
        worst = float(np.abs(one - other).max(initial=0.0)) / max(1.0, float(np.abs(other).max(initial=0.0)))
        if not worst <= _AGREE[compute.precision]:
            return f"outputs differ by up to {worst:.2g}"
    return ""


def _candidates(compute: Compute) -> list[str]:
    if compute.device == "cuda":
        return ["compile"]
    if compute.device == "cpu" and importlib.util.find_spec("openvino") is not None:
        return ["openvino"]
    return []


def _openvino(module: torch.nn.Module, example: npt.NDArray[Any], compute: Compute) -> Runner:
    if compute.device != "cpu":
        raise BadSetting(
            f"The compute backend 'openvino' is for processors, not {compute.device}: set it to 'auto' or the device "
            "to 'cpu'."
        )
    if importlib.util.find_spec("openvino") is None:
        raise BadSetting("The compute backend 'openvino' is not installed: pip install 'dermatome[openvino]'.")
    from dermatome.inference.openvino_backend import OpenVinoRunner

    return OpenVinoRunner(module, example, compute)


def _compiled(module: torch.nn.Module, example: npt.NDArray[Any], compute: Compute) -> Runner:
    from dermatome.inference.torch_backend import CompiledRunner

    return CompiledRunner(module, example, compute)


_MAKERS: dict[str, Callable[[Any, npt.NDArray[Any], Any], Runner]] = {"openvino": _openvino, "compile": _compiled}


def _recall(remembered: Path | None) -> dict[str, str]:
    """The choices kept in a file; a damaged one, or none, is no choices: measuring again mends it."""
    if remembered is None or not remembered.is_file():
        return {}
    try:
        found = json.loads(remembered.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _log.warning("The remembered compute backends in %s cannot be read (%s): measuring again.", remembered, error)
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if value == "torch" or value in _MAKERS}


def _fingerprint(module: torch.nn.Module, example: npt.NDArray[Any], compute: Compute) -> str:
    """What the choice holds for, in words, the weights as a hash."""
    weights = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(dtype=_bytes_of(tensor)).numpy().data)
    versions = [f"{name} {_version(name)}" for name in ("torch", "openvino")]
    device = f"{compute.device_name} {compute.precision} {compute.threads}"
    parts = [weights.hexdigest()[:16], f"{example.shape} {example.dtype}", device, _processor(), *versions]
    return "; ".join(parts)


def _bytes_of(tensor: torch.Tensor) -> torch.dtype:
    import torch

    # A tensor without a dimension, such as a batch counter, is flattened to one before it is seen as bytes.
    return torch.uint8 if tensor.numel() else tensor.dtype


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    """The processor's name; Linux says it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
