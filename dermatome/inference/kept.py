"""OpenVINO networks that are kept on disk, so that a process starts without building and converting them.

Importing the library of networks, building one, converting it and comparing it with torch takes five of the eight
seconds of CPU time before the first slide. What was converted once, and gave torch's numbers on this processor, is read
again as long as nothing that decides it has changed and no byte of its files.
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
_LIBRARIES = ("openvino", "torch", "segmentation-models-pytorch", "timm")

_log = logging.getLogger(__name__)


def prepare_kept(
    build: Callable[[], torch.nn.Module], example: npt.NDArray[Any], compute: Compute, name: str, folder: Path | None
) -> Runner:
    """Prepares a network to run, as :func:`prepare_runner` does, or reads what an earlier process prepared.

    Args:
        build: gives the network.
        example: a typical batch.
        compute: device, precision, threads and backend.
        name: what is built, such as the sha256 of its weights and the number of views.
        folder: of the networks that are kept; None keeps none. It may be deleted at any time.

    Raises:
        BadSetting: see :func:`prepare_runner`.
    """
    openvino = compute.device == "cpu" and compute.backend != "torch" and importlib.util.find_spec("openvino")
    if folder is None or not openvino:
        return prepare_runner(build(), example, compute)
    decided = _decided(name, example, compute)
    # One place for each network, precision and processor: what is outdated there is replaced.
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
    """What decides a converted network and whether it gives torch's numbers: network, processor, libraries, code."""
    source = Path(__file__).parents[1]
    code = [path.read_bytes() for part in ("inference", "training") for path in sorted((source / part).glob("*.py"))]
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
    except (StorageFailed, OSError, RuntimeError) as error:  # a later process converts it again
        _log.warning("The converted network is not kept in %s: %s", place.parent, error)
