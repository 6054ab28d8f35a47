"""What the benchmarks ran on: never its name, its user or a path."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dermatome import __version__

# What decides how fast networks run on a processor, by the names that Linux gives.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_PACKAGES = ("torch", "openvino", "cellpose", "numpy", "opencv-python-headless", "lxml", "pyarrow", "dagster", "ray")


@dataclass(frozen=True)
class Machine:
    """A machine in words: the cores that this process may use, instruction sets, CUDA cards, versions of packages."""

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


def this_machine() -> Machine:
    """The machine that this runs on."""
    import torch

    versions = {"dermatome": __version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # an extra that was not installed
            versions[name] = metadata.version(name)
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    info = {name.strip(): value.strip() for name, _, value in lines}
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Machine(
        processor=info.get("model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        features=tuple(name for name in _FEATURES if name in flags),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        gpus=tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
        system=f"{platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}, {platform.machine()}",
        versions=versions,
    )
