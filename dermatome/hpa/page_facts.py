"""What one gene page says of one tissue, taken from the elements that :mod:`dermatome.hpa.page_xml` keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

RUNNING_NUMBER = re.compile(r"\s+\d+$")


@dataclass(frozen=True)
class GeneLevel:
    """The gene's summary for one tissue."""

    tissue: str
    expression: str | None
    cell_types: list[dict[str, str | None]]


@dataclass
class PageFacts:
    """What has been read of a page so far.

    Attributes:
        rows: for each image of the tissue: antibody, tissue, organ, address, patient, sample and levels, by the names
            of :data:`dermatome.hpa.records.IMAGE_RECORD_SCHEMA`.
        gene_levels: the gene's own summary for each tissue that is meant.
        images_by_antibody: how many images each antibody that was tried on the tissue has.
        verifications: the gene's own reliability, by the kind of word the release uses.
    """

    tissue: str
    gene: str = ""
    ensembl_id: str = ""
    release: str = ""
    of_antibody: bool = False
    antibody: str | None = None
    technology: str | None = None
    page_sha256: str = ""
    verifications: dict[str, str] = field(default_factory=dict)
    gene_levels: list[GeneLevel] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    images_by_antibody: dict[str, int] = field(default_factory=dict)

    def take(self, element: Any) -> None:
        """Takes what is of use from an element that has been read whole."""
        if element.tag == "name":
            self.gene = _text(element) or ""
        elif element.tag == "identifier":
            self.ensembl_id = (element.get("id") or "").strip()
        elif element.tag == "verification":
            self.verifications[element.get("type", "")] = _text(element) or ""
        elif self.of_antibody:
            self._antibody_data(element)
        else:
            self._gene_data(element)

    def wants(self, tissue: Any) -> bool:
        """Whether a ``<data>`` is of use, by its ``<tissue>``."""
        return bool(self._tissue_of(tissue) or (not self.of_antibody and self._unnumbered(tissue)))

    def _tissue_of(self, element: Any) -> tuple[str, str | None] | None:
        name, organ = _text(element) or "", (element.get("organ") or "").strip() or None
        wanted = self.tissue.strip().casefold()
        if wanted in (name.casefold(), base_name(name), (organ or "").casefold()):
            return name or organ or "", organ
        return None

    def _unnumbered(self, element: Any) -> tuple[str, None] | None:
        """The gene's `skin` where `skin 1` is asked for: release 18 leaves the number out there."""
        name = _text(element) or ""
        return (name, None) if name.casefold() == base_name(self.tissue) else None

    def _gene_data(self, data: Any) -> None:
        element = data.find("tissue")
        tissue = None if element is None else self._tissue_of(element) or self._unnumbered(element)
        if tissue is not None:
            cells = [
                {"cell_type": _text(cell.find("cellType")), "level": _level(cell, "expression", "staining")}
                for cell in data.iterchildren("tissueCell")
            ]
            self.gene_levels.append(GeneLevel(tissue[0], _level(data, "expression", "staining"), cells))

    def _antibody_data(self, data: Any) -> None:
        element = data.find("tissue")
        tissue = None if element is None else self._tissue_of(element)
        if tissue is None:
            return
        shared = {
            "antibody": self.antibody,
            "tissue": tissue[0],
            "organ": tissue[1],
            "cell_types": _cell_types(data),
            "technology": "IHC" if self.technology in ("IH", "IHC") else self.technology,
        }
        images = 0
        for image in data.iter("image"):
            url = _text(image.find("imageUrl"))
            if url is not None:
                self.rows.append({**shared, "image_url": url, **_of_image(image)})
                images += 1
        key = self.antibody or ""
        self.images_by_antibody[key] = self.images_by_antibody.get(key, 0) + images


def _text(element: Any) -> str | None:
    text = element.text if element is not None else None
    return (text.strip() or None) if text else None


def base_name(tissue: str) -> str:
    """A tissue's name without HPA's running number, in lower case: ``Skin 1`` gives ``skin``."""
    return RUNNING_NUMBER.sub("", tissue.strip()).casefold()


def _level(parent: Any, *kinds: str) -> str | None:
    for kind in kinds:
        for level in parent.iterchildren("level"):
            if level.get("type") == kind:
                return _text(level)
    return None


def _levels(parent: Any) -> dict[str, str | None]:
    return {
        "staining": _level(parent, "staining"),
        "intensity": _level(parent, "intensity"),
        "quantity": _text(parent.find("quantity")),
        "location": _text(parent.find("location")),
    }


def _cell_types(parent: Any) -> list[dict[str, str | None]]:
    return [{"cell_type": _text(c.find("cellType")), **_levels(c)} for c in parent.iterchildren("tissueCell")]


def _of_image(image: Any) -> dict[str, Any]:
    """What is said of the image's own patient and sample."""
    patient = next(image.iterancestors("patient"), None)
    sample = next(image.iterancestors("sample"), None)
    values: dict[str, Any] = {"image_url_tif": _text(image.find("imageUrlTif")), "snomed": []}
    if patient is not None:
        age = _text(patient.find("age")) or ""
        values |= _levels(patient)
        values["sex"] = _text(patient.find("sex"))
        values["age"] = int(age) if age.isascii() and age.isdigit() and int(age) <= 150 else None
        values["patient_id"] = _text(patient.find("patientId"))
        cells = _cell_types(patient)
        if cells:
            values["cell_types"] = cells
    holder = sample if sample is not None else patient
    if holder is not None:
        values["snomed"] = [
            {"code": snomed.get("snomedCode"), "description": (snomed.get("tissueDescription") or "").strip() or None}
            for snomed in holder.iter("snomed")
        ]
    return values
