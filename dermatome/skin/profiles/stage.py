"""The stage `gene_profiles`: from the slides of a gene to tables, a figure and a card in one HTML file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dermatome.hpa.records import gene_images
from dermatome.hpa.settings import ATTRIBUTION, LICENCE_PAGE
from dermatome.pipeline.cached_stage import Stage
from dermatome.pipeline.stage_files import read_rows, synthetic_warning, timed, write_report
from dermatome.reports.html import data_uri, template
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.layers.stage import LayersStage
from dermatome.skin.profiles.card import CoreShown, LeftOut, card_html, core_shown, mixed_formats, synonyms_of
from dermatome.skin.profiles.figures import profile_figure
from dermatome.skin.profiles.profile import ANNOTATION, MEASURES, Core, GeneProfile, profile_gene
from dermatome.skin.profiles.settings import ProfileSettings
from dermatome.skin.stage_files import CELLS_TABLE, LAYERS_TABLE
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import (
    Scalar,
    StageRecord,
    StageResult,
    content_version,
    failure_of,
    read_record,
    require_record,
)

PROFILE_TABLE = "profile.parquet"
ANTIBODIES_TABLE = "antibodies.parquet"
CORES_TABLE = "cores.parquet"
CARD_FILE = "card.html"


@dataclass(frozen=True)
class _Input:
    gene: StageRecord
    formats: dict[str, int]
    images: list[dict[str, Any]]
    cores: list[Core]
    left_out: list[LeftOut]
    seconds: dict[str, float]


@dataclass
class ProfileStage(Stage[_Input, tuple[_Input, GeneProfile]]):
    """Computes `profile.parquet`, `antibodies.parquet`, `cores.parquet`, the figure and `card.html` of each gene."""

    root: DataRoot
    settings: ProfileSettings
    layers: LayerSettings
    asset = "gene_profiles"

    def inputs(self, key: str) -> dict[str, str]:
        """The data versions of the page and of the layers of all its slides together."""
        return gene_inputs(self.root, key)

    def load(self, key: str) -> _Input:
        """Reads the tables of the gene's slides, and the reasons why slides are left out."""
        seconds: dict[str, float] = {}
        images, cores, left_out = _images(self.root, key), [], []
        files: dict[str, str] = {}
        with timed(seconds, "read"):
            for image in images:
                record, reason = _state(self.root, image["slide"])
                if record is None or reason:
                    left_out.append(LeftOut(image["slide"], image["antibody"], image["patient_id"], reason))
                else:
                    cores.append(_core(self.root, image, record))
                    file = require_record(self.root, "slide_images", image["slide"]).values["file"]
                    files[image["slide"]] = Path(str(file)).suffix.removeprefix(".")
        gene = require_record(self.root, "hpa_images", key)
        return _Input(gene, dict(Counter(sorted(files.values()))), images, cores, left_out, seconds)

    def compute(self, loaded: Sequence[_Input]) -> list[tuple[_Input, GeneProfile]]:
        """Summarises each gene."""
        return [(gene, profile_gene(gene.cores, self.settings, self.layers)) for gene in loaded]

    def save(self, key: str, result: tuple[_Input, GeneProfile], folder: Path) -> StageResult:
        """Writes tables, figure and card."""
        found, profile = result
        gene, seconds = str(found.gene.values["gene"]), dict(found.seconds)
        tables = {
            PROFILE_TABLE: profile.rows,
            ANTIBODIES_TABLE: profile.antibodies.assign(synonyms=", ".join(synonyms_of(found.images)) or None),
            CORES_TABLE: annotated_cores(self.root, key, found.cores),
        }
        values: dict[str, Scalar] = {"synthetic": any(core.synthetic for core in found.cores)}
        warning = synthetic_warning(values)
        with timed(seconds, "figure"):
            drawn = profile_figure(f"{gene} ({key})", profile)
            write_report(folder, tables, drawn, warning, gene=gene, ensembl_id=key)
        with timed(seconds, "card"):
            images = {image["slide"]: image for image in found.images}
            shown: list[CoreShown] = []
            for core in found.cores:
                self.check()
                shown.append(core_shown(self.root, core, images[core.slide]))
            card = card_html(
                found.gene, profile, shown, found.left_out, found.images, drawn[1], self.settings, warning,
                found.formats,
            )  # fmt: skip
            write_atomic(folder / CARD_FILE, card)
        dab = profile.rows[profile.rows["part"] == "epidermis"]["mean_dab_od"]
        mixed = [found.formats] if len(found.formats) > 1 else []
        patterns = [] if profile.antibodies.empty else profile.antibodies["pattern"].tolist()
        return StageResult(
            outcome="profile" if found.cores else "no_slides",
            message=f"{gene}: {len(found.cores)} of {len(found.images)} slides, {len(patterns)} antibodies. "
            f"{mixed_formats(found.formats)}".rstrip(),
            data_version=content_version(
                [
                    *(rows.to_csv().encode() for rows in tables.values()),
                    repr((found.left_out, warning, *mixed)).encode(),
                ]
            ),
            values=values
            | {
                "gene": gene,
                "antibodies": len(patterns),
                "slides": len(found.cores),
                "slides_left_out": len(found.left_out),
                "image_formats": ", ".join(found.formats) or None,
                "patients": len({core.patient for core in found.cores if core.patient}),
                "patterns": ", ".join(sorted(set(patterns))),
                "lowest_mean_dab_od": float(dab.min()) if len(dab) else None,
                "highest_mean_dab_od": float(dab.max()) if len(dab) else None,
            },
            seconds=seconds,
        )


def gene_inputs(root: DataRoot, gene: str) -> dict[str, str]:
    """The data version of a gene's page, and one over the layers of all its slides."""
    page = require_record(root, "hpa_images", gene).data_version
    states = [(image["slide"], *_state(root, image["slide"])) for image in _images(root, gene)]
    known = [(slide, record.data_version if record else "", reason) for slide, record, reason in states]
    return {"hpa_images": page, "epidermis_layers": hashlib.sha256(json.dumps(known).encode()).hexdigest()}


def _images(root: DataRoot, gene: str) -> list[dict[str, Any]]:
    """The image records of a gene, each slide and antibody once."""
    rows = reversed(gene_images(root, gene))
    return list({(row["slide"], row["antibody"]): row for row in rows}.values())[::-1]


def _state(root: DataRoot, slide: str) -> tuple[StageRecord | None, str]:
    """The record of a slide's layers, and why they cannot be used; empty if they can."""
    record = read_record(root.record(LayersStage.asset, slide))
    for asset in ("slide_images", "epidermis_masks", "cell_masks", LayersStage.asset):
        failure = root.failure(asset, slide)
        if failure.is_file():
            return record, f"{asset} failed: {failure_of(failure.read_bytes()).error}"
    if record is None:
        return None, "not measured yet"
    for asset, version in record.inputs.items():
        now = read_record(root.record(asset, slide))
        if now is None or now.data_version != version:
            return record, f"its layers are of an earlier {asset}: materialize epidermis_layers for it"
    if record.outcome != "measured":
        return record, record.message or record.outcome.replace("_", " ")
    if record.values["h_score"] is None:
        return record, "its colours are not stains"
    return record, ""


def _core(root: DataRoot, image: dict[str, Any], record: StageRecord) -> Core:
    folder = root.folder(LayersStage.asset, image["slide"])
    files = {"layer": LAYERS_TABLE, "zone": "zones.parquet", "relative_depth": "relative.parquet"}
    tables: dict[str, pd.DataFrame] = {part: read_rows(folder / file) for part, file in files.items()}
    layers = tables["layer"]
    area = layers["area_px"].to_numpy(float)
    whole = {name: (layers[name].fillna(0).to_numpy(float) * area).sum() / area.sum() for name in MEASURES[:2]}
    whole |= {name: record.values[name] for name in MEASURES[2:]}
    whole["cell_dab_ratio"] = _cell_dab_ratio(root, image["slide"], whole["mean_dab_od"])
    tables["epidermis"] = pd.DataFrame([{"epidermis": True, **whole}])
    annotation = {name: image[name] for name in ANNOTATION}
    synthetic = bool(synthetic_warning(record.values))
    return Core(image["slide"], image["antibody"], image["patient_id"], tables, annotation, synthetic)


def _cell_dab_ratio(root: DataRoot, slide: str, mean_dab_od: float) -> float:
    """Mean DAB in cells (found on hematoxylin, so mostly nuclei) divided by that of the epidermis."""
    cells = read_rows(root.folder("cell_masks", slide) / CELLS_TABLE)
    area = cells["area_px"].to_numpy(float)
    if not area.sum() or mean_dab_od <= 0:
        return float("nan")
    return float((cells["mean_dab_od"].to_numpy(float) * area).sum() / area.sum() / mean_dab_od)


def annotated_cores(root: DataRoot, gene: str, cores: Sequence[Core]) -> pd.DataFrame:
    """A row for each measured slide and tissue that the page lists it for: measures of its epidermis, annotation."""
    measures = (*MEASURES, "cell_dab_ratio")
    measured = {
        (core.slide, core.antibody): core.tables["epidermis"].iloc[0][list(measures)].astype(float) for core in cores
    }
    shown = ("slide", "antibody", "tissue", "patient_id", *ANNOTATION[1:], "release")
    rows = [
        {name: image[name] for name in shown} | dict(measured[image["slide"], image["antibody"]])
        for image in gene_images(root, gene)
        if (image["slide"], image["antibody"]) in measured
    ]
    return pd.DataFrame(rows, columns=[*shown, *measures]).rename(columns={"patient_id": "patient"})


def page(name: str, svg: bytes, warning: str, **context: Any) -> bytes:
    """Renders a page over all genes from the named template in ``dermatome.skin``; every text is escaped."""
    figure = data_uri("image/svg+xml", svg)
    about = {"card": CARD_FILE, "attribution": ATTRIBUTION, "licence_page": LICENCE_PAGE}
    text = template(f"{name}.html.j2", f"dermatome.skin.{name}").render(
        warning=warning, figure=figure, **about, **context
    )
    return text.encode()


def profiles_version(root: DataRoot) -> dict[str, str]:
    """One data version over all gene profiles."""
    asset = ProfileStage.asset
    versions = [f"{gene} {require_record(root, asset, gene).data_version}" for gene in root.partitions(asset)]
    return {asset: hashlib.sha256("\n".join(versions).encode()).hexdigest()}


def any_synthetic(root: DataRoot) -> dict[str, Scalar]:
    """Whether a network for any gene profile was trained on synthetic images only, as a value for a record."""
    asset = ProfileStage.asset
    genes = root.partitions(asset)
    return {"synthetic": any(require_record(root, asset, gene).values.get("synthetic") for gene in genes)}


def all_genes(root: DataRoot, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of a table over all genes; without genes an empty table with ``columns``."""
    asset = ProfileStage.asset
    tables = [pd.read_parquet(root.folder(asset, gene) / name) for gene in root.partitions(asset)]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame({column: [] for column in columns})
