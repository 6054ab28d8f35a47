"""Checks for `dermatome doctor`: versions, device, weights, a data root's networks, disk and network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from dermatome import __version__
from dermatome.errors import BadWeights, DermatomeError, MissingInput
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
    """Runs all checks and yields each result at once; the arguments are the options of `dermatome doctor`."""
    yield from _versions()
    yield _checked("device", lambda: "{0.device_name}, precision {0.precision}".format(choose_compute(device)))
    if not weights and models_folder is None:
        yield Finding("weights", "ok", "none given to check; name files with --weights.")
    for path in weights:
        yield _checked("weights", partial(_weights, path))
    if models_folder is not None:
        yield _checked("weights", partial(_cyto2, models_folder))
    yield from _networks(data)
    yield _disk(data)
    if ask_network:
        yield _network(atlas_url)


def _checked(topic: str, check: Callable[[], str], about: str = "") -> Finding:
    """The result of a check, or why it failed; a missing input is only a warning."""
    try:
        return Finding(topic, "ok", check())
    except MissingInput as error:
        return Finding(topic, "warn", str(error))
    except DermatomeError as error:
        return Finding(topic, "fail", f"{about}{error}")


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


def _weights(path: Path) -> str:
    """Loads the file as tissue weights or, if that fails, as a cell network."""
    from dermatome.skin.cells.network import load_cell_network
    from dermatome.skin.tissue.network import load_tissue_weights

    try:
        tissue = load_tissue_weights(path)
    except DermatomeError as tissue_error:
        try:
            cells = load_cell_network(path, choose_compute("cpu", backend="torch"))
        except DermatomeError as cell_error:
            raise BadWeights(f"{tissue_error} As a cell network: {cell_error}") from cell_error
        return f"{path}: cell network {cells.name}, sha256 {cells.sha256}"
    return f"{path}: tissue, {tissue.card.encoder} at {tissue.card.mpp:g} µm/px, sha256 {tissue.sha256}"


def _cyto2(folder: Path) -> str:
    missing = [name for name in ("cyto2torch_0", "size_cyto2torch_0.npy") if not (folder / name).is_file()]
    if missing:
        raise MissingInput(f"cyto2 is not in {folder}: {' and '.join(missing)} are missing; put them there.")
    return f"cyto2 is in {folder}"


def _networks(data: str) -> Iterator[Finding]:
    """Loads the networks that a data root uses: the champions, the starter, or those that its settings name."""
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
        if settings.cell_weights == "cyto2" and segmenter == "cellpose":
            _cyto2(root.models)  # a check must not download anything
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

    def named(kind: str, load: Callable[[], Weights], otherwise: str) -> str:
        weights = load()
        how = "champion" if weights.file is None else otherwise
        return f"{kind} {weights.name} ({how}), sha256 {weights.sha256}"

    by_settings = "named by the settings"
    for kind, load, otherwise in (
        (TISSUE, tissue, "no champion yet"), (CELLS, cells, by_settings), (NUCLEI, nuclei, by_settings)
    ):  # fmt: skip
        check = partial(named, kind.name, load, otherwise)
        yield _checked("networks", check, f"{kind.name.capitalize()}: ")


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
