"""Recomputes a crate's slides in an empty data root, and compares the data versions.

A crate is untrusted. Only its records and weights are read, each up to a size limit and by names that are built here,
so none of its paths is ever used; weights are safetensors, which cannot run code.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dermatome import __version__
from dermatome.errors import DermatomeError, MissingInput, StorageFailed
from dermatome.hpa.client import HpaClient
from dermatome.inference.compute import ComputeSettings
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import Stage, WaitingStage, cached_stage
from dermatome.registry.champion import Weights
from dermatome.skin.cells import cyto2
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.cells.stage import CellsStage
from dermatome.skin.crate.export import KINDS, STAGES
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.layers.stage import LayersStage
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.skin.tissue.stage import MaskStage
from dermatome.slides.source import SLIDE_SUFFIXES, SlideSource, acquire_slide
from dermatome.storage.files import ARCHIVE_ERRORS, sha256_file
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import StageRecord, StageResult, library_versions, read_record
from dermatome.storage.settings_model import SettingsModel
from dermatome.training.weights import MAX_WEIGHTS_BYTES

_RECORD = re.compile(
    r"data/(slide_images|epidermis_masks|cell_masks|epidermis_layers)/([A-Za-z0-9][\w.-]{0,199})/record\.json", re.ASCII
)
_WEIGHTS = re.compile(r"weights/[0-9a-f]{64}\.safetensors")
_MAX_RECORD_BYTES = 4 << 20
_MAX_RECORDS = 400_000
_MAX_WEIGHTS = 16
_SAME = ("weights", "weights_sha256", "precision", "backend")

S = TypeVar("S", bound=SettingsModel)


@dataclass(frozen=True)
class Replayed:
    """A result of a slide and its recomputation.

    Attributes:
        asset: name of the asset.
        slide: the slide.
        stored: data version in the crate.
        now: data version of the recomputed result; empty if it could not be computed.
        reason: why it could not be computed.
    """

    asset: str
    slide: str
    stored: str
    now: str = ""
    reason: str = ""

    @property
    def equal(self) -> bool:
        """Whether both data versions are equal."""
        return self.stored == self.now


class Crate:
    """The records and weights of a crate, copied into a folder.

    Attributes:
        folder: the folder.
        records: records by asset and slide.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        """Reads a crate.

        Raises:
            StorageFailed: it is not a crate, is damaged, or is over a size limit.
        """
        self.folder, self.records = folder, dict[tuple[str, str], StageRecord]()
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if len(set(names)) != len(names):
                    raise StorageFailed(f"The crate {path} has two files of one name: get it again from its author.")
                records = [found for name in names if (found := _RECORD.fullmatch(name))]
                weights = [name for name in names if _WEIGHTS.fullmatch(name)]
                if len(records) > _MAX_RECORDS or len(weights) > _MAX_WEIGHTS:
                    raise StorageFailed(f"The crate {path} has more results or networks than can be replayed.")
                for found in records:
                    _copy(archive, found[0], folder / RECORD_FILE, _MAX_RECORD_BYTES)
                    record, (asset, slide) = read_record(folder / RECORD_FILE), found.groups()
                    if record is None or (record.asset, record.partition) != (asset, slide):
                        raise StorageFailed(
                            f"The crate's record of {asset} of {slide} is another's: get it again from its author."
                        )
                    self.records[asset, slide] = record
                for name in weights:
                    _copy(archive, name, folder / Path(name).name, MAX_WEIGHTS_BYTES)
        except FileNotFoundError as error:
            raise MissingInput(f"There is no crate {path}: check the path.") from error
        except ARCHIVE_ERRORS as error:
            raise StorageFailed(f"The crate {path} cannot be read ({error}): get it again from its author.") from error
        if not self.records:
            raise StorageFailed(f"{path} is not a crate of Dermatome, as it has no results of slides.")

    def of(self, asset: str) -> dict[str, StageRecord]:
        """The records of an asset by slide."""
        return {slide: record for (found, slide), record in self.records.items() if found == asset}

    def other_versions(self) -> list[str]:
        """Libraries whose versions differ from those that the results were computed with, as text."""
        then = {(name, version) for record in self.records.values() for name, version in record.libraries.items()}
        now = library_versions()
        return sorted(f"{name} {version} (here {now.get(name)})" for name, version in then if now.get(name) != version)


def _copy(archive: zipfile.ZipFile, name: str, path: Path, most: int) -> None:
    left = most
    with archive.open(name) as source, path.open("wb") as target:
        while data := source.read(1 << 20):
            left -= len(data)  # counted, as the size stated in the archive may be wrong
            if left < 0:
                raise StorageFailed(f"{name} of the crate is larger than {most >> 20} MB, so the crate is not read.")
            target.write(data)


def replay_crate(
    crate: Crate,
    root: DataRoot,
    *,
    compute: ComputeSettings,
    images: Path | None = None,
    models: Path | None = None,
) -> Iterator[Replayed]:
    """Recomputes masks, cells and layers of a crate's slides in an empty data root, as their records state.

    Precision and backend are those of the records. Images are searched in ``images`` by their sha256; others are
    downloaded from HPA, and missing files of ``cyto2`` from Cellpose, into ``models``.

    Yields:
        Each result of each slide, when it is computed. A slide whose image or mask is unavailable has no later results.

    Raises:
        StorageFailed: the data root is not empty.
    """
    if root.path.exists() and any(root.path.iterdir()):
        raise StorageFailed(f"The folder {root.path} is not empty: replay into a new one.")
    pictures = crate.of("slide_images")
    found = _find_images(images, pictures) if images is not None else {}
    good = set()
    with HpaClient() as client:
        stage = WaitingStage(root, "slide_images", partial(_acquire, pictures, found, client))
        for result in _run(stage, pictures, {}):
            good |= {result.slide} if result.equal else set()
            yield result
    for asset in STAGES:
        records = {slide: record for slide, record in crate.of(asset).items() if slide in good}
        good = set()
        for group in _alike(records):
            left = {record.partition: record for record in group}
            try:
                stage_of_group = _stage(crate, root, group[0], compute, models)
                for result in _run(stage_of_group, dict(left), group[0].settings):
                    del left[result.slide]
                    good |= {result.slide} if result.now else set()
                    yield result
            except DermatomeError as error:  # an error of the network, not of a slide
                yield from (Replayed(asset, slide, left[slide].data_version, reason=str(error)) for slide in left)


def _run(stage: Stage[Any, Any], records: Mapping[str, StageRecord], settings: Mapping[str, Any]) -> Iterator[Replayed]:
    """Computes slides and compares each with its record."""
    for done in run_batch(cached_stage(stage, settings, __version__, "replay"), list(records)):
        now, reason = (done.result.record.data_version, "") if done.result else ("", str(done.error))
        yield Replayed(stage.asset, done.key, records[done.key].data_version, now, reason)


def _find_images(folder: Path, pictures: Mapping[str, StageRecord]) -> dict[str, Path]:
    """The files below a folder by sha256, if they have the size of a wanted image."""
    sizes = {picture.values.get("bytes") for picture in pictures.values()}
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SLIDE_SUFFIXES and path.is_file())
    return {sha256_file(path): path for path in files if path.stat().st_size in sizes}


def _acquire(
    pictures: Mapping[str, StageRecord], found: Mapping[str, Path], client: HpaClient, slide: str, folder: Path
) -> StageResult:
    values, settings = pictures[slide].values, pictures[slide].settings
    path = found.get(str(values.get("image_sha256")))
    if path is None and values.get("origin") != "hpa":
        raise MissingInput(
            f"The image of {slide} (sha256 {values.get('image_sha256')}) was not found: give its folder with --images. "
            "DICOM slides are not replayed."
        )
    source = SlideSource(slide, "hpa", str(values["location"]))
    if path is not None:
        source = SlideSource(slide, "folder", str(path))
    declared, longest = settings.get("images.declared_mpp", 0.5), settings.get("images.max_side_px", 20_000)
    return acquire_slide(source, folder, float(declared), int(longest), fetch_image=client.fetch_image)


def _alike(records: Mapping[str, StageRecord]) -> list[list[StageRecord]]:
    """Groups of records with the same network, precision, backend and settings."""
    groups: dict[str, list[StageRecord]] = {}
    for record in records.values():
        groups.setdefault(repr([*(record.values.get(name) for name in _SAME), record.settings]), []).append(record)
    return list(groups.values())


def _stage(
    crate: Crate, root: DataRoot, record: StageRecord, compute: ComputeSettings, models: Path | None
) -> Stage[Any, Any]:
    """The stage that recomputes the result of a record, with its weights and settings."""
    if record.asset == "epidermis_layers":
        return LayersStage(root, _settings(LayerSettings, record, "layers"))
    mask = crate.records["epidermis_masks", record.partition].values
    backend = record.values.get("backend", "auto")
    compute = compute.changed(precision=mask.get("precision", compute.precision), backend=backend)
    kind, sha256 = KINDS[record.asset], str(record.values.get("weights_sha256"))
    name, version = str(record.values.get("weights")), record.inputs.get(kind.champion, "")
    path = crate.folder / f"{sha256}.safetensors"
    if name == "cyto2" and models is not None:
        path = cyto2.fetch_cyto2(models)
    elif not path.is_file():
        raise MissingInput(f"The network {name} (sha256 {sha256[:12]}…) is not in the crate: ask its author for it.")
    weights = Weights(root, kind, name, sha256, version, path)
    if record.asset == "cell_masks":
        cells = _settings(CellSettings, record, "cells")
        if cells.segmenter != "cellpose":
            raise MissingInput(
                f"Cells found by {cells.segmenter} cannot be replayed, only those of Cellpose's networks."
            )
        return CellsStage(root, weights, compute, cells)
    return MaskStage(root, weights, compute, _settings(TissueSettings, record, "tissue"))


def _settings(model: type[S], record: StageRecord, name: str) -> S:
    try:
        return model.model_validate(record.settings[name])
    except (KeyError, ValidationError) as error:
        raise StorageFailed(
            f"The crate's record of {record.asset} of {record.partition} has no usable settings {name}: {error!r}"
        ) from error
