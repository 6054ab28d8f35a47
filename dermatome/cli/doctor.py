"""Checks for `dermatome doctor`: versions, device, weights, a data root's networks, disk and network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from dermatome import __version__
from dermatome.errors import DermatomeError, MissingInput
from dermatome.inference.compute import DeviceName, choose_compute
from dermatome.storage.layout import DataRoot

ATLAS_URL = "https://www.proteinatlas.org"
MIN_FREE_GB = 5.0
_PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "cellpose", "numpy", "pandas", "pyarrow", "duckdb",
             "scikit-image", "opencv-python-headless", "dagster")  # fmt: skip
_OPTIONAL = ("dagster",)

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """Result of one check: ``warn`` affects some uses, ``fail`` affects all uses or one that was requested."""

    topic: str
    state: State
    message: str


def examine(
    weights: Sequence[Path],
    data: str,
    *,
    models_folder: Path | None = None,
    ask_network: bool = True,
    device: DeviceName = "auto",
    atlas_url: str = ATLAS_URL,
) -> Iterator[Finding]:
    """Runs all checks and yields each result at once.

    Args:
        weights: Tissue or cell weights to load and check.
        data: Data root to check; the folder need not exist yet.
        models_folder: Folder of Cellpose's ``cyto2``; None skips this check.
        ask_network: Whether to test the connection to ``atlas_url``.
        device: Requested device.
        atlas_url: Address of the gene pages.
    """
    yield from _versions()
    yield _device(device)
    if not weights and models_folder is None:
        yield Finding("weights", "ok", "none given to check; name files with --weights.")
    for path in weights:
        yield _weights(path)
    if models_folder is not None:
        yield _cyto2(models_folder)
    yield from _networks(data)
    yield _disk(data)
    if ask_network:
        yield _network(atlas_url)


def _versions() -> Iterator[Finding]:
    import platform

    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("versions", "ok", f"dermatome {__version__}, Python {platform.python_version()}, {', '.join(found)}")
    needed = [name for name in missing if name not in _OPTIONAL]
    if needed:
        yield Finding("versions", "fail", f"Not installed: {', '.join(needed)}; install dermatome again with pip.")
    elif missing:
        yield Finding("versions", "warn", "Dagster is not installed; the platform needs it, the command line does not.")


def _device(device: DeviceName) -> Finding:
    try:
        compute = choose_compute(device)
    except DermatomeError as error:
        return Finding("device", "fail", str(error))
    return Finding("device", "ok", f"{compute.device_name}, precision {compute.precision}")


def _weights(path: Path) -> Finding:
    """Loads the file as tissue weights; if that fails, as a cell network."""
    from dermatome.skin.cells.network import load_cell_network
    from dermatome.skin.tissue.network import load_tissue_weights

    try:
        tissue = load_tissue_weights(path)
    except DermatomeError as tissue_error:
        try:
            cells = load_cell_network(path, choose_compute("cpu", backend="torch"))
        except DermatomeError as cell_error:
            return Finding("weights", "fail", f"{tissue_error} As a cell network: {cell_error}")
        return Finding("weights", "ok", f"{path}: cell network {cells.name}, sha256 {cells.sha256}")
    card = tissue.card
    return Finding("weights", "ok", f"{path}: tissue, {card.encoder} at {card.mpp:g} µm/px, sha256 {tissue.sha256}")


def _cyto2(folder: Path) -> Finding:
    missing = [name for name in ("cyto2torch_0", "size_cyto2torch_0.npy") if not (folder / name).is_file()]
    if missing:
        return Finding(
            "weights", "warn", f"cyto2 is not in {folder}: {' and '.join(missing)} are missing; put them there."
        )
    return Finding("weights", "ok", f"cyto2 is in {folder}")


def _networks(data: str) -> Iterator[Finding]:
    """Loads the networks that a data root runs with: the champions, the starter, or those that its settings name."""
    from dermatome.nuclei.maps.network import load_nucleus_weights
    from dermatome.nuclei.maps.networks import find_nucleus_weights
    from dermatome.registry.champion import Weights, find_champion
    from dermatome.registry.model_kinds import CELLS, NUCLEI, TISSUE
    from dermatome.settings import load_settings
    from dermatome.skin.cells.networks import cell_weights_named, load_cells
    from dermatome.skin.tissue.network import load_tissue_weights
    from dermatome.skin.tissue.networks import find_tissue_weights

    try:
        root = DataRoot.at(data)
        settings = load_settings(root.settings)
    except DermatomeError as error:
        yield Finding("networks", "fail", str(error))
        return
    compute, segmenter = choose_compute("cpu", backend="torch"), settings.cells.segmenter

    def named_cells() -> Weights:
        missing = _cyto2(root.models) if settings.cell_weights == "cyto2" and segmenter == "cellpose" else None
        if missing is not None and missing.state != "ok":  # a check downloads nothing
            raise MissingInput(missing.message)
        return cell_weights_named(root, settings.cell_weights, segmenter)

    def tissue() -> Weights:
        weights = find_tissue_weights(root)
        weights.load(load_tissue_weights)
        return weights

    def cells() -> Weights:
        weights = find_champion(root, CELLS, named_cells) if segmenter == "cellpose" else named_cells()
        load_cells(weights, compute, segmenter)
        return weights

    def nuclei() -> Weights:
        weights = find_nucleus_weights(root, settings.nuclei_weights)
        weights.load(load_nucleus_weights)
        return weights

    for kind, load in ((TISSUE, tissue), (CELLS, cells), (NUCLEI, nuclei)):
        try:
            weights = load()
        except MissingInput as error:
            yield Finding("networks", "warn", str(error))
        except DermatomeError as error:
            yield Finding("networks", "fail", f"{kind.name.capitalize()}: {error}")
        else:
            how = (
                "champion" if weights.file is None else "no champion yet" if kind is TISSUE else "named by the settings"
            )
            yield Finding("networks", "ok", f"{kind.name} {weights.name} ({how}), sha256 {weights.sha256}")


def _disk(data: str) -> Finding:
    try:
        folder = DataRoot.at(data).path
    except DermatomeError as error:
        return Finding("disk", "fail", str(error))
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        free_gb = shutil.disk_usage(there).free / 1e9
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0")
            file.flush()
    except OSError as error:
        return Finding("disk", "fail", f"{there} cannot be written to ({error.strerror}): choose another folder.")
    if free_gb < MIN_FREE_GB:
        return Finding(
            "disk", "warn", f"{free_gb:.1f} GB free at {there}: free some, a thousand slides take about 5 GB."
        )
    return Finding("disk", "ok", f"{free_gb:.0f} GB free at {there}, writable")


def _network(url: str) -> Finding:
    import requests

    try:
        status = requests.head(url, timeout=(5, 5), allow_redirects=False).status_code
    except requests.RequestException as error:
        reason = type(error).__name__
        return Finding(
            "network", "warn", f"No answer from {url} ({reason}): pages and images cannot be fetched from here."
        )
    if status >= 400:
        return Finding("network", "warn", f"{url} answers with status {status}: try again later.")
    return Finding("network", "ok", f"{url} answers")
