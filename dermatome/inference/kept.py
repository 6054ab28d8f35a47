"""Converted OpenVINO networks stored on disk, so that a process starts without building and converting them.

Importing the library of networks, building one, converting it and comparing it with torch takes five of the eight
seconds of CPU time before the first slide. A network that was converted once, and agreed with torch on this CPU, is
read again as long as neither its files nor anything that determines it have changed.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from dermatome.errors import StorageFailed
from dermatome.inference.backends import OpenVinoRunner, Runner, import_openvino, prepare_runner
from dermatome.storage.files import atomic_folder, sha256_bytes, sha256_file, write_atomic

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute

_MODEL, _ABOUT = ("model.xml", "model.bin"), "about.json"
_LIBRARIES = ("openvino", "torch", "segmentation-models-pytorch", "timm", "cellpose")
_CODE = ("inference/*.py", "training/*.py", "*/*/network.py")
"""What builds, wraps and converts networks."""

_log = logging.getLogger(__name__)


def prepare_kept(
    build: Callable[[], torch.nn.Module], example: npt.NDArray[Any], compute: Compute, name: str, folder: Path | None
) -> Runner:
    """Prepares a network as :func:`prepare_runner` does, or reads what an earlier process prepared.

    Args:
        build: builds the network.
        example: a typical batch (N, …).
        compute: device, precision, threads and backend.
        name: identifies the network, such as the sha256 of its weights and the number of views.
        folder: folder of the stored networks, which may be deleted at any time; None stores none.

    Raises:
        BadSetting: see :func:`prepare_runner`.
    """
    openvino = compute.device == "cpu" and compute.backend != "torch" and importlib.util.find_spec("openvino")
    if folder is None or not openvino:
        return prepare_runner(build(), example, compute)
    decided = _decided(name, example, compute)
    # One place for each network, precision and CPU; an outdated network there is replaced.
    place = (
        folder / sha256_bytes(json.dumps([decided[key] for key in ("name", "precision", "processor")]).encode())[:24]
    )
    with suppress(OSError, ValueError):
        if json.loads((place / _ABOUT).read_bytes()) == {**decided, **_sha256(place)}:
            return OpenVinoRunner(import_openvino().Core().read_model(place / _MODEL[0]), compute)
    runner = prepare_runner(build(), example, compute)
    if isinstance(runner, OpenVinoRunner):
        _keep(place, decided, runner.model)
    return runner


def _decided(name: str, example: npt.NDArray[Any], compute: Compute) -> dict[str, str]:
    """Everything that determines a converted network and its agreement with torch: network, CPU, libraries, code."""
    source = Path(__file__).parents[1]
    code = [path.read_bytes() for part in _CODE for path in sorted(source.glob(part))]
    return {
        "name": name,
        "batch": f"{example.shape[1:]} {example.dtype}",
        "precision": compute.precision,
        "processor": str(import_openvino().Core().get_property("CPU", "FULL_DEVICE_NAME")),
        "code": sha256_bytes(b"".join(code)),
        **{library: version(library) for library in _LIBRARIES},
    }


def _sha256(place: Path) -> dict[str, str]:
    return {file: sha256_file(place / file) for file in _MODEL}


def _keep(place: Path, decided: dict[str, str], model: Any) -> None:
    from openvino import save_model

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(place) as new:
            save_model(model, new / _MODEL[0], compress_to_fp16=False)
            write_atomic(new / _ABOUT, json.dumps({**decided, **_sha256(new)}, indent=2).encode())
    except (StorageFailed, OSError, RuntimeError) as error:  # a later process converts the network again
        _log.warning("The converted network cannot be stored in %s: %s", place.parent, error)
