"""Exports genes and their slides as an RO-Crate: results, settings, weights, cards, versions, licences; no images.

`data/` in the crate has the layout of a data root, and `weights/` has each network, named by its sha256. Images are
listed with address and sha256, but not included. See https://www.researchobject.org/ro-crate/.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome import __version__
from dermatome.errors import BadSetting, MissingInput
from dermatome.hpa.records import gene_images
from dermatome.hpa.settings import LICENCE_PAGE
from dermatome.registry.model_kinds import CELLS, TISSUE
from dermatome.skin.cells.network import TOY_WEIGHTS
from dermatome.skin.stage_files import require_current
from dermatome.storage.files import atomic_file, sha256_file
from dermatome.storage.layout import RECORD_FILE, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import StageRecord, read_record, require_record
from dermatome.training.weights import card_path

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

STAGES = {
    "epidermis_masks": ("slide_images",),
    "cell_masks": ("slide_images", "epidermis_masks"),
    "epidermis_layers": ("slide_images", "epidermis_masks", "cell_masks"),
}
"""Assets whose results for a slide are in a crate, in the order of computation, each with the assets it depends on."""
KINDS = {"epidermis_masks": TISSUE, "cell_masks": CELLS}
"""The kind of network that each asset uses."""
_FORMATS = {
    ".geojson": "application/geo+json",
    ".parquet": "application/vnd.apache.parquet",
    ".webp": "image/webp",
    ".npz": "application/zip",
    ".safetensors": "application/octet-stream",
}
"""Media types that :mod:`mimetypes` does not know on every system."""


@dataclass(frozen=True)
class Exported:
    """The content of a crate.

    Attributes:
        genes: Ensembl ids.
        slides: slides with results.
        left_out: why each other slide is missing.
        weights_left_out: names of the networks whose files are missing, by sha256.
    """

    genes: list[str]
    slides: list[str]
    left_out: dict[str, str]
    weights_left_out: dict[str, str]


def export_crate(root: DataRoot, out: Path, genes: Sequence[str] | None = None) -> Exported:
    """Writes a crate, a zip file, of genes (symbols or Ensembl ids) and their slides; None exports all slides.

    Raises:
        MissingInput: a gene is not materialized, or no slide has current results.
        BadSetting: the package ``rocrate`` is not installed.
        StorageFailed: a file is not the one that was written, or ``out`` cannot be written.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError as error:
        raise BadSetting("Writing a crate needs the package rocrate: pip install 'dermatome[crate]'.") from error
    pages = _pages(root, genes)
    rows = [row for gene in pages for row in gene_images(root, gene)]
    slides = dict.fromkeys(row["slide"] for row in rows)
    if genes is None:
        slides |= dict.fromkeys(root.partitions("slide_images"))
    kept: dict[str, list[StageRecord]] = {}
    left_out: dict[str, str] = {}
    for slide in slides:
        try:
            image = require_record(root, "slide_images", slide)
            kept[slide] = [image, *(require_current(root, asset, slide, made) for asset, made in STAGES.items())]
        except MissingInput as error:
            left_out[slide] = str(error)
    if not kept:
        raise MissingInput("None of the slides has current layers: materialize epidermis_layers for them first.")
    crate, licences = ROCrate(), {row["slide"]: str(row["licence"]) for row in rows}
    software = _describe(crate, pages, len(kept), sorted({licences[slide] for slide in kept if slide in licences}))
    for gene, page in pages.items():
        for record in filter(None, (page, read_record(root.record("gene_profiles", gene)))):
            _add_results(crate, root, record)
    weights: dict[str, Entity | None] = {}
    weights_left_out: dict[str, str] = {}
    for image, *results in kept.values():
        shown = _add_image(crate, root, image, licences.get(image.partition, ""))
        for record in results:
            network = None
            if record.asset in KINDS:
                sha256 = str(record.values["weights_sha256"])
                if sha256 not in weights:
                    weights[sha256] = _add_weights(crate, root, record, sha256)
                network = weights[sha256]
                if network is None:
                    weights_left_out[sha256] = str(record.values["weights"])
            dataset = _add_results(crate, root, record)
            action = crate.add_action(
                software if network is None else [software, network],
                identifier=f"#{record.asset}-{record.partition}",
                object=shown,
                result=dataset,
                properties={"name": f"{record.asset} of {record.partition}", "endTime": record.made_at.isoformat()},
            )
            crate.root_dataset.append_to("mentions", action)
    with atomic_file(out) as file:
        for chunk in crate.stream_zip():
            file.write(chunk)
    return Exported(list(pages), list(kept), left_out, weights_left_out)


def _pages(root: DataRoot, genes: Sequence[str] | None) -> dict[str, StageRecord]:
    """The records of genes by Ensembl id."""
    pages = {gene: require_record(root, "hpa_images", gene) for gene in root.partitions("hpa_images")}
    if genes is None:
        return pages
    chosen: dict[str, StageRecord] = {}
    for wanted in genes:
        names = {gene: (gene.upper(), str(page.values.get("gene")).upper()) for gene, page in pages.items()}
        found = {gene: pages[gene] for gene in pages if wanted.upper() in names[gene]}
        if not found:
            raise MissingInput(f"The gene {wanted} is not in {root.path}: materialize hpa_images for it first.")
        chosen |= found
    return chosen


def _describe(crate: ROCrate, pages: Mapping[str, StageRecord], slides: int, licences: Sequence[str]) -> Entity:
    """Writes the crate's own title and licence; returns the program's entity."""
    from rocrate.model.contextentity import ContextEntity

    genes = ", ".join(str(page.values["gene"]) for page in pages.values())
    attributions = sorted({str(page.values["attribution"]) for page in pages.values() if "attribution" in page.values})
    crate.name = f"Skin by Dermatome: {genes or f'{slides} slides'}"
    crate.description = (
        f"Tissue masks, cells and epidermal layers of {slides} slides, the records of how they were computed, "
        "the networks, and the images' addresses and sha256. `dermatome replay` computes them again."
    )
    terms = "; ".join(licences) or "Slides of their owners, who say under which licence."
    about = {"@type": "CreativeWork", "name": terms, "description": "Licences of the images that all was computed from"}
    crate.license = crate.add(ContextEntity(crate, LICENCE_PAGE if licences else "#licence", properties=about))
    if attributions:
        crate.root_dataset["creditText"] = "; ".join(attributions)
    program = {"@type": "CreativeWork", "name": "Dermatome", "version": __version__}
    return crate.add(ContextEntity(crate, "#dermatome", properties=program))


def _add_image(crate: ROCrate, root: DataRoot, image: StageRecord, licence: str) -> Entity:
    """The image of a slide, which is not included in the crate, and the record of its download."""
    from rocrate.model.contextentity import ContextEntity

    values, slide = image.values, image.partition
    _add_file(crate, root.record("slide_images", slide), f"data/slide_images/{slide}/{RECORD_FILE}", None)
    about = {
        "@type": "ImageObject",
        "name": slide,
        "sha256": values["image_sha256"],
        "contentSize": str(values["bytes"]),
        "width": values["width_px"],
        "height": values["height_px"],
        "version": image.data_version,
    }
    if values["origin"] == "hpa":
        about["contentUrl"] = values["location"]
    if licence:
        about["usageInfo"] = licence
    return crate.add(ContextEntity(crate, f"#image-{slide}", properties=about))


def _add_results(crate: ROCrate, root: DataRoot, record: StageRecord) -> Entity:
    """The folder of a partition: its files, each with its sha256, and its record.

    Raises:
        StorageFailed: a file is not the one that was written.
    """
    asset, partition = record.asset, record.partition
    facts = require_record(root, asset, partition, *record.files).files
    place, folder = f"data/{asset}/{partition}", root.folder(asset, partition)
    about = {"name": f"{asset} of {partition}", "version": record.data_version}
    dataset = crate.add_dataset(dest_path=f"{place}/", properties=about)
    for name in (*facts, RECORD_FILE):
        sha256 = facts[name].sha256 if name in facts else None
        dataset.append_to("hasPart", _add_file(crate, folder / name, f"{place}/{name}", sha256))
    return dataset


def _add_weights(crate: ROCrate, root: DataRoot, record: StageRecord, sha256: str) -> Entity | None:
    """The network that a result was computed with, and its card; None if its file is unavailable or could run code."""
    kind, named = KINDS[record.asset], record.settings.get("cell_weights")
    paths = [root.folder(kind.weights, version) / WEIGHTS_FILE for version in root.partitions(kind.weights)]
    paths += [TOY_WEIGHTS if named == "toy" else Path(str(named))] if named else []
    for path in paths:
        if path.suffix == ".safetensors" and path.is_file() and sha256_file(path) == sha256:
            _add_file(crate, card_path(path), f"weights/{sha256}.json", None)
            return _add_file(crate, path, f"weights/{sha256}.safetensors", sha256, name=str(record.values["weights"]))
    return None


def _add_file(crate: ROCrate, path: Path, place: str, sha256: str | None, **about: Any) -> Entity:
    about = {"name": place, "contentSize": str(path.stat().st_size), "sha256": sha256 or sha256_file(path)} | about
    if form := _FORMATS.get(path.suffix) or mimetypes.guess_type(path)[0]:
        about["encodingFormat"] = form
    return crate.add_file(path, place, properties=about)
