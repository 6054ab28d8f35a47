"""What the benchmarks ran on: never its name, its user or a path."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from dermatome import __version__

# What decides how fast networks run on a processor, by the names that Linux gives.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_PACKAGES = ("torch", "openvino", "cellpose", "numpy", "opencv-python-headless", "lxml", "pyarrow", "dagster", "ray")


@dataclass(frozen=True)
class Machine:
    """A machine in words.

    Attributes:
        processor: its model.
        cores: that this process may use.
        features: instruction sets that matter to networks.
        memory_gib: in all.
        gpus: the names of CUDA cards.
        system: operating system and architecture.
        versions: of Dermatome, Python and the packages that were measured.
    """

    processor: str
    cores: int
    features: tuple[str, ...]
    memory_gib: float
    gpus: tuple[str, ...]
    system: str
    versions: dict[str, str]

    def sentences(self) -> str:
        """The machine in two lines."""
        gpus = ", ".join(self.gpus) or "no GPU"
        features = ", ".join(self.features) or "no vector instructions known"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.processor}, {self.cores} cores ({features}), {self.memory_gib:.0f} GiB of memory, {gpus}; "
            f"{self.system}.\n{versions}."
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def this_machine() -> Machine:
    """The machine that this runs on."""
    versions = {"dermatome": __version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that was not installed
    model, flags = _processor()
    return Machine(
        processor=model,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        features=tuple(name for name in _FEATURES if name in flags),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        gpus=_gpus(),
        system=_system(),
        versions=versions,
    )


def _processor() -> tuple[str, set[str]]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.machine(), set()
    values: dict[str, str] = {}
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        values.setdefault(name.strip(), value.strip())
    flags = values.get("flags") or values.get("Features") or ""
    return values.get("model name") or platform.machine(), set(flags.split())


def _gpus() -> tuple[str, ...]:
    import torch

    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        name = platform.system()
    return f"{name}, {platform.machine()}"
