"""The card of a gene: one self-contained HTML file with figure, numbers, cores, annotation and licence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.geometry import Box
from dermatome.hpa.settings import ATTRIBUTION, LICENCE_PAGE
from dermatome.imaging.overlay import fitting, sample_labels, tint
from dermatome.labels.ome_tiff import open_ome_tiff
from dermatome.pipeline.stage_files import load_slide
from dermatome.reports.html import data_uri, picture_uri, template
from dermatome.skin.layers.figures import layer_colours
from dermatome.skin.profiles.figures import rows_of
from dermatome.storage.layout import DataRoot

if TYPE_CHECKING:
    from dermatome.skin.profiles.profile import Core, GeneProfile
    from dermatome.skin.profiles.settings import ProfileSettings
    from dermatome.storage.record import StageRecord

_THUMBNAIL_PX = 320


@dataclass(frozen=True)
class LeftOut:
    """A slide of the gene that is excluded from all numbers, and why."""

    slide: str
    antibody: str | None
    patient: str | None
    reason: str


@dataclass(frozen=True)
class CoreShown:
    """A core on the card: its image and its layers as data URIs, and its facts."""

    core: Core
    image: str
    layers: str
    record: dict[str, Any]

    @property
    def whole(self) -> dict[Any, Any]:
        """Measures over the whole epidermis, by name."""
        return dict(self.core.tables["epidermis"].iloc[0].items())


def core_shown(root: DataRoot, core: Core, record: dict[str, Any]) -> CoreShown:
    """Thumbnails of a core: the image, and its layers tinted from dark (basal) to light."""
    slide = load_slide(root, core.slide)
    layers = open_ome_tiff(root.folder("epidermis_layers", core.slide) / "layers.ome.tif")
    whole = Box.whole(slide.size)
    pixels = slide.region(whole, fitting(slide.size, _THUMBNAIL_PX))
    labels = sample_labels(layers, whole, _THUMBNAIL_PX)
    count = int(core.tables["layer"]["layer"].max())
    tinted = tint(pixels, labels, layer_colours(count), 0.75)
    image, coloured = (picture_uri(shown, "webp", quality=70) for shown in (pixels, tinted))
    return CoreShown(core, image, coloured, record)


def card_html(
    gene: StageRecord,
    profile: GeneProfile,
    cores: Sequence[CoreShown],
    left_out: Sequence[LeftOut],
    records: Sequence[Mapping[str, Any]],
    svg: bytes,
    settings: ProfileSettings,
    warning: str = "",
    formats: Mapping[str, int] | None = None,
) -> bytes:
    """The card of a gene as one HTML file; every text from a page is escaped, and no script runs.

    ``records`` are its image records, measured or not, and ``formats`` counts its slides by suffix of the image file.
    """
    antibodies = [
        {
            **row,
            "known": row["antibody"] or "Antibody unknown",
            "sure": _sure(row),
            "numbers": _numbers(profile, row["antibody"]),
            "cores": [shown for shown in cores if shown.core.antibody == row["antibody"]],
            "annotated": _annotations(records, row["antibody"]),
        }
        for row in profile.antibodies.replace({np.nan: None}).to_dict("records")
    ]
    measured = {each["antibody"] for each in antibodies}
    others = dict.fromkeys(record["antibody"] for record in records if record["antibody"] not in measured)
    whole = profile.rows[profile.rows["part"] == "epidermis"]["mean_dab_od"]
    licences = sorted({str(record["licence"]) for record in records if record["licence"]})
    text = template("card.html.j2", "dermatome.skin.profiles").render(
        gene=gene.values["gene"],
        warning=warning,
        mixed=mixed_formats(formats or {}),
        synonyms=synonyms_of(records),
        ensembl_id=gene.partition,
        release=gene.values["release"],
        page=_web_address(gene.values["page_url"]),
        antibodies=antibodies,
        not_measured=[
            {"known": name or "Antibody unknown", "annotated": _annotations(records, name)} for name in others
        ],
        figure=data_uri("image/svg+xml", svg),
        spread=(float(whole.min()), float(whole.max())) if len(whole) > 1 else None,
        patterns=sorted({each["pattern"] for each in antibodies}),
        left_out=left_out,
        slides=len(cores),
        patients=len({shown.core.patient for shown in cores if shown.core.patient}),
        confidence=f"{100 * settings.confidence:g} %",
        resamples=settings.resamples,
        licences=licences or [str(gene.values["licence"])],
        licence_page=LICENCE_PAGE,
        attribution=gene.values.get("attribution") or ATTRIBUTION,
    )
    return text.encode()


def mixed_formats(formats: Mapping[str, int]) -> str:
    """A sentence if slides, counted by suffix of their image file, have several formats; otherwise empty."""
    if len(formats) < 2:
        return ""
    counts = " and ".join(f"{count} {suffix}" for suffix, count in formats.items())
    return f"Images of several formats are mixed ({counts}): a JPEG is lossy, which changes its numbers a little."


def synonyms_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Other names of the gene of these image records, each once."""
    return list(dict.fromkeys(name for record in records for name in record["synonyms"] or ()))


def _sure(row: Mapping[Any, Any]) -> str:
    people = row["patients"] + row["slides_of_unknown_patient"]
    if people == 1:
        return "n = 1, so nobody knows how sure it is"
    each = f"{row['patients_with_pattern']} of {people} patients"
    return f"{100 * row['pattern_share']:.0f} % of the resamples, {each}"


_ROW_TITLES = {
    "basal": "Basal layer",
    "lower_suprabasal": "Lower suprabasal",
    "upper_suprabasal": "Upper suprabasal",
}


def _numbers(profile: GeneProfile, antibody: str | None) -> list[dict[str, Any]]:
    """The rows of the table of numbers: the epidermis, then its zones."""
    rows = []
    for part in ("epidermis", "zone"):
        for row in rows_of(profile, antibody, part).to_dict("records"):
            texts = [
                _with_interval(row, "mean_dab_od", "{:.2f}"),
                _with_interval(row, "mean_h_od", "{:.2f}"),
                _with_interval(row, "positive_share", "{:.0f}", 100),
                _with_interval(row, "h_score", "{:.0f}"),
            ]
            title = "Whole epidermis" if part == "epidermis" else _ROW_TITLES[row["zone"]]
            rows.append({"title": title, "n": row["patients"], "texts": texts})
    return rows


def _with_interval(row: Mapping[Any, Any], measure: str, how: str, times: float = 1) -> tuple[str, str]:
    """A mean and its interval, as text."""
    mean, low, high = (times * row[f"{measure}{suffix}"] for suffix in ("", "_low", "_high"))
    if math.isnan(mean):
        return "–", ""
    if math.isnan(low):
        return how.format(mean), "no interval"
    return how.format(mean), f"{how.format(low)} to {how.format(high)}"


def _annotations(records: Sequence[Mapping[str, Any]], antibody: str | None) -> list[dict[str, Any]]:
    """HPA's annotation of an antibody by tissue and cell type, each once."""
    found = {
        (record["tissue"], *cell.values()): {
            "tissue": record["tissue"],
            **cell,
            "of": f"{record['reliability'] or 'not stated'} (release {record['release'] or 'unknown'})",
        }
        for record in records
        if record["antibody"] == antibody
        for cell in record["cell_types"] or ()
    }
    return list(found.values())


def _web_address(text: object) -> str | None:
    address = str(text or "")
    return address if address.startswith(("https://", "http://")) else None
