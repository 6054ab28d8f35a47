"""Cellpose's ``cyto2``: its two files are fetched with TLS, limits and checks, and loaded without running code.

Stringer et al. 2021, https://doi.org/10.1038/s41592-020-01018-x; the files are those of Cellpose 3's model zoo.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadWeights
from dermatome.labels.npz import read_header
from dermatome.storage.files import sha256_file
from dermatome.storage.http import download

if TYPE_CHECKING:
    import torch

MODELS_URL = "https://www.cellpose.org/models"
HOSTS = (".cellpose.org",)
NETWORK_FILE = "cyto2torch_0"
SIZE_FILE = "size_cyto2torch_0.npy"

_MAX_BYTES = {NETWORK_FILE: 64 * 1024 * 1024, SIZE_FILE: 1024 * 1024}


@dataclass(frozen=True)
class SizeModel:
    """Cellpose's regression from an image's style to the diameter of its cells (its ``size_…npy`` files)."""

    weights: npt.NDArray[np.float64]
    mean_style: npt.NDArray[np.float64]
    mean_size: float
    diameter_px: float

    def diameter(self, style: npt.NDArray[np.float32]) -> float:
        """Cell diameter, px, for an image with this style at full size; at least 5."""
        log_ratio = float((self.weights @ (style - self.mean_style)).item()) + self.mean_size
        return max(5.0, float(np.exp(log_ratio) * self.diameter_px))


def fetch_cyto2(
    folder: Path,
    *,
    base_url: str = MODELS_URL,
    hosts: Sequence[str] = HOSTS,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Fetches Cellpose's two ``cyto2`` files into ``folder``; existing ones are kept.

    Raises:
        FetchFailed: no connection, another host, a status other than 200, or a file that is too large; the message
            says how to place the files by hand.
        StorageFailed: the folder cannot be written.
    """
    for name, most in _MAX_BYTES.items():
        path, url = folder / name, f"{base_url}/{name}"
        if path.is_file():
            continue
        if progress is not None:
            progress(f"fetching {name} from {base_url}")
        by_hand = f"download {url} on another machine, and put it at {path}"
        download(url, path, hosts=hosts, max_bytes=most, by_hand=by_hand)
    return folder


def read_cyto2(folder: Path, styles: int) -> tuple[dict[str, torch.Tensor], str, SizeModel]:
    """Reads the tensors of ``cyto2``, their file's sha256 and the size model from a folder with both files.

    ``styles`` is the length of the network's style.

    Raises:
        BadWeights: a file is missing, damaged or not what its name says.
    """
    import torch

    for name in _MAX_BYTES:
        if not (folder / name).is_file():
            raise BadWeights(
                f"There is no {name} in {folder}: fetch it with 'dermatome models get cyto2 --models {folder}', or "
                f"download {MODELS_URL}/{name} and put it there."
            )
    path = folder / NETWORK_FILE
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise many classes of errors
        raise BadWeights(f"{path} is damaged or not a file of torch weights ({error}): fetch it again.") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise BadWeights(f"{path} does not contain a network's weights by name: fetch it again.")
    return tensors, sha256_file(path), read_size_model(folder / SIZE_FILE, styles)


def read_size_model(path: Path, styles: int) -> SizeModel:
    """Reads a Cellpose size model: a NumPy file with a pickled dictionary of arrays.

    A pickle can run code, so only NumPy's own constructors are allowed.

    Raises:
        BadWeights: it contains anything else, or arrays of other lengths.
    """
    try:
        with path.open("rb") as file:
            shape, _, dtype = read_header(file)
            if shape != () or dtype != np.dtype(object):
                raise ValueError(f"an array of {shape} {dtype}")
            fields = _NumpyUnpickler(file).load().item()
        weights, mean_style = (np.asarray(fields[name], dtype=np.float64).reshape(-1) for name in ("A", "smean"))
        mean_size, diameter_px = (float(np.asarray(fields[name]).item()) for name in ("ymean", "diam_mean"))
        model = SizeModel(weights, mean_style, mean_size, diameter_px)
        if model.weights.shape != (styles,) or model.mean_style.shape != (styles,):
            raise ValueError(f"{model.weights.size} weights instead of {styles}")
    except Exception as error:  # unpickling can raise any error
        raise BadWeights(f"{path} is not a Cellpose size model ({error}): fetch it again.") from error
    return model


class _NumpyUnpickler(pickle.Unpickler):
    _ALLOWED = frozenset({("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}) | {
        (f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")
    }

    def find_class(self, module: str, name: str) -> Any:
        """The named class, if it is one of NumPy's constructors."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it needs {module}.{name}")
        # NumPy 2 moved this module; the old name still works but warns.
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
