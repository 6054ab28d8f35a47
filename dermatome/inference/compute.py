"""Device, precision and threads for networks, chosen once and recorded."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field

from dermatome.errors import BadSetting
from dermatome.storage.settings_model import Effect, SettingsModel

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Backend = Literal["auto", "torch", "openvino"]

_claims: list[FileLock] = []
"""Locks on GPUs; a lock is released when it is garbage-collected."""


@dataclass(frozen=True)
class Compute:
    """An available device, with the precision and thread count to use on it.

    Attributes:
        threads: number of torch's threads on the CPU.
        device_index: index of the GPU if there are several; None uses the first.
        backend: library that runs networks, see :mod:`dermatome.inference.backends`.
        int8: whether networks that keep their results as int8 run as int8, see :mod:`dermatome.inference.int8`.
    """

    device: Literal["cpu", "cuda", "mps"]
    precision: Literal["fp32", "bf16", "fp16"]
    threads: int
    device_name: str
    device_index: int | None = None
    backend: Backend = "auto"
    int8: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """The context to run networks in: autocast for a lower precision, otherwise a null context."""
        import torch

        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision])

    @property
    def torch_device(self) -> torch.device:
        """The device as torch's type."""
        import torch

        return torch.device(self.device) if self.device_index is None else torch.device(self.device, self.device_index)


class ComputeSettings(SettingsModel):
    """Where and how networks run.

    Attributes:
        device: device that runs networks: ``cpu``, ``cuda`` or ``mps``; ``auto`` uses CUDA, then MPS, then the CPU. A
            missing device is an error.
        precision: ``fp32``, ``bf16`` or ``fp16`` (GPUs only); a lower one changes the last digits of results. ``auto``
            uses bf16 if the device multiplies it in hardware, else fp32. ``int8`` is ``auto``, but on CPUs the
            platform's networks are quantised to int8 if that changes few of their results; it needs the extra ``int8``.
        threads: number of CPU threads; 0 uses all cores available to this process.
        backend: library that runs networks: ``torch``, ``openvino``, or ``auto`` for OpenVINO on CPUs if it is
            installed and gives the same results.
    """

    device: Annotated[DeviceName, Effect.SPEED] = "auto"
    precision: Precision = "auto"
    threads: Annotated[int, Effect.SPEED] = Field(default=0, ge=0)
    backend: Annotated[Backend, Effect.SPEED] = "auto"

    def choose(self, *, threads: int = 0) -> Compute:
        """Chooses for this process, on a GPU that no other such process uses; ``threads`` overrides the setting."""
        gpu = free_gpu() if self.device in ("auto", "cuda") else None
        return choose_compute(self.device, self.precision, threads or self.threads, gpu, self.backend)


def choose_compute(
    device: DeviceName = "auto",
    precision: Precision = "auto",
    threads: int = 0,
    device_index: int | None = None,
    backend: Backend = "auto",
) -> Compute:
    """Chooses device, precision and threads; sets torch's thread count of this process and the GPU of this thread.

    Args:
        device: ``auto`` uses CUDA, then MPS, then the CPU.
        precision: ``auto`` uses bf16 on CUDA GPUs that support it and on CPUs that multiply it in hardware
            (AVX512-bf16 or AMX; elsewhere it is emulated and slower than fp32), else fp32. ``int8`` does the same for
            everything that does not run as int8: training, scores, and networks whose results would change.
        threads: torch's threads on the CPU; 0 uses all available cores. More threads than cores are slower than one.
        device_index: index of the GPU if there are several; None uses the first.
        backend: library that runs networks.

    Raises:
        BadSetting: the requested device, precision, thread count or backend is not available.
    """
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device != "auto" and not has.get(device, False):
        raise BadSetting(
            f"The device {device!r} was requested, but torch {torch.__version__} finds none on this machine: "
            "set the device to 'auto' or 'cpu', or install the driver and a torch built for it."
        )
    chosen: Any = device if device != "auto" else next(name for name in ("cuda", "mps", "cpu") if has[name])
    fast_bf16 = (chosen == "cuda" and torch.cuda.is_bf16_supported()) or (chosen == "cpu" and _cpu_multiplies_bf16())
    if precision == "fp16" and chosen == "cpu":
        raise BadSetting("The precision 'fp16' is for GPUs: set it to 'auto', 'fp32' or 'bf16' on a CPU.")
    if precision == "bf16" and chosen == "cuda" and not fast_bf16:
        raise BadSetting("The precision 'bf16' is not supported by this CUDA GPU: set it to 'fp16' or 'fp32'.")
    if precision == "int8":
        _check_int8(chosen, backend)
    if threads < 0:
        raise BadSetting(f"The number of threads is {threads}: set it to 0 (all free cores) or more.")
    threads = threads or free_cores()
    torch.set_num_threads(threads)
    if chosen == "cuda" and device_index is not None:
        # For this thread, so that streams, events and pinned memory without an explicit device use this GPU too.
        torch.cuda.set_device(device_index)
    name = torch.cuda.get_device_name(device_index) if chosen == "cuda" else f"{chosen}, {threads} threads"
    settled: Any = precision if precision not in ("auto", "int8") else "bf16" if fast_bf16 else "fp32"
    return Compute(chosen, settled, threads, name, device_index, backend, precision == "int8")


def free_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def free_gpu() -> int | None:
    """Claims the first GPU that no other process of this machine has claimed, until this process ends.

    Returns:
        The index of the GPU; None if there is at most one, or if all are claimed and the first is shared.
    """
    import torch

    if not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return None
    for index in range(torch.cuda.device_count()):
        claim = FileLock(
            Path(tempfile.gettempdir()) / f"dermatome-gpu-{torch.cuda.get_device_properties(index).uuid}.lock"
        )
        with suppress(Timeout, OSError):
            claim.acquire(timeout=0)
            _claims.append(claim)
            return index
    return None


def _check_int8(device: str, backend: Backend) -> None:
    """Raises BadSetting if networks cannot run as int8 here, or would not be faster."""
    import torch

    has = torch.cpu.get_capabilities()
    if device != "cpu" or not any(has.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        reason = "is for CPUs that multiply int8 (AVX512-VNNI, AVX-VNNI or AMX)"
    elif backend == "torch":
        reason = "needs the backend 'openvino'"
    elif not all(map(importlib.util.find_spec, ("openvino", "nncf"))):
        reason = "needs OpenVINO and NNCF (pip install 'dermatome[int8]')"
    else:
        return
    raise BadSetting(f"The precision 'int8' {reason}: set it to 'auto', or change that.")


def _cpu_multiplies_bf16() -> bool:
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
