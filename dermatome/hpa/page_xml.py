"""The streaming reader below :mod:`dermatome.hpa.records`: an untrusted XML page in, plain facts out.

Nothing here knows Parquet or slide ids; nothing here keeps more of the page than the tissue asked for.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import IO, Any

from lxml import etree

from dermatome.errors import BadPage


class _HashingFile:
    """Hands a file to the parser and hashes it on the way, so that it is read once and never more than allowed."""

    def __init__(self, file: IO[bytes], name: str, max_bytes: int) -> None:
        self.sha256 = hashlib.sha256()
        self.head = b""
        self._file, self._name, self._left = file, name, max_bytes

    def read(self, size: int = 1 << 16) -> bytes:
        while True:
            data = self._file.read(max(size, 1))
            self.sha256.update(data)
            self._left -= len(data)
            if self._left < 0:
                raise BadPage(f"{self._name} is larger than a gene page may be: give one gene's XML page.")
            if self.head or not data:
                return data
            # Pages exist that begin with blank lines, which XML forbids before its declaration.
            data = data.lstrip()
            if data:
                self.head = data[:1024]
                return data


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
    entries: int = 0
    antibody: str | None = None
    page_sha256: str = ""
    assay: str | None = None
    technology: str | None = None
    verifications: dict[str, str] = field(default_factory=dict)
    gene_levels: list[GeneLevel] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    images_by_antibody: dict[str, int] = field(default_factory=dict)

    def start(self, element: Any) -> None:
        """Notes where in the page the reader is; only the element's attributes are there yet."""
        if element.tag == "entry":
            self.entries += 1
            self.release = element.get("version", "").strip()
        elif element.tag == "antibody":
            self.antibody = element.get("id")
        elif element.tag == "tissueExpression":
            self.assay = element.get("assayType", "tissue")
            self.technology = element.get("technology")

    def end(self, element: Any) -> None:
        """Takes what is of use from an element that has been read whole."""
        parent = element.getparent()
        inside = parent.tag if parent is not None else None
        if inside == "entry" and element.tag == "name":
            self.gene = _text(element) or ""
        elif inside == "entry" and element.tag == "identifier":
            self.ensembl_id = (element.get("id") or "").strip()
        elif inside == "tissueExpression" and self.assay == "tissue":
            above = parent.getparent()
            of_gene = above is not None and above.tag == "entry"
            if element.tag == "verification" and of_gene:
                self.verifications[element.get("type", "")] = _text(element) or ""
            elif element.tag == "data" and of_gene:
                self._gene_data(element)
            elif element.tag == "data":
                self._antibody_data(element)
        if element.tag == "antibody":
            self.antibody = None
        elif element.tag == "tissueExpression":
            self.assay = None

    def _tissue_of(self, data: Any) -> tuple[str, str | None] | None:
        element = data.find("tissue")
        if element is None:
            return None
        name, organ = _text(element) or "", (element.get("organ") or "").strip() or None
        wanted = self.tissue.strip().casefold()
        if wanted in (name.casefold(), base_name(name), (organ or "").casefold()):
            return name or organ or "", organ
        return None

    def _unnumbered(self, data: Any) -> tuple[str, None] | None:
        """The gene's `skin` where `skin 1` is asked for: release 18 leaves the number out there."""
        name = _text(data.find("tissue")) or ""
        return (name, None) if name.casefold() == base_name(self.tissue) else None

    def _gene_data(self, data: Any) -> None:
        tissue = self._tissue_of(data) or self._unnumbered(data)
        if tissue is not None:
            cells = [
                {"cell_type": _text(cell.find("cellType")), "level": _level(cell, "expression", "staining")}
                for cell in data.iterchildren("tissueCell")
            ]
            self.gene_levels.append(GeneLevel(tissue[0], _level(data, "expression", "staining"), cells))

    def _antibody_data(self, data: Any) -> None:
        tissue = self._tissue_of(data)
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


_TAGS = ("entry", "name", "identifier", "antibody", "tissueExpression", "verification", "data")
RUNNING_NUMBER = re.compile(r"\s+\d+$")


def read_page(file: IO[bytes], name: str, *, tissue: str, max_bytes: int) -> PageFacts:
    """Reads one gene's page as a stream, with entities, DTDs and the network off.

    Args:
        file: the page, open.
        name: what to call it in errors.
        tissue: see :func:`dermatome.hpa.records.parse_page`.
        max_bytes: a larger page is refused.

    Raises:
        BadPage: not whole XML, with a document type, or not one gene's entry.
    """
    source = _HashingFile(file, name, max_bytes)
    reader = PageFacts(tissue)
    try:
        events: Any = etree.iterparse(
            source,
            events=("start", "end"),
            tag=_TAGS,
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        for event, element in events:
            if event == "start":
                if element.tag == "entry":
                    _check_root(element, reader.entries, name)
                reader.start(element)
                continue
            reader.end(element)
            if element.tag in ("data", "antibody", "tissueExpression"):
                _forget(element)
    except etree.XMLSyntaxError as error:
        raise BadPage(_not_xml(name, source.head, error)) from error
    root = events.root
    if root is not None:
        _check_document(root, name)
    if not reader.entries:
        raise BadPage(
            f"{name} is XML without an HPA gene entry (its root is <{str(getattr(root, 'tag', None))[:40]}>): fetch "
            "one gene's XML page from the Human Protein Atlas."
        )
    reader.page_sha256 = source.sha256.hexdigest()
    return reader


def _check_root(entry: Any, entries_before: int, name: str) -> None:
    parent = entry.getparent()
    if parent is not None and (parent.tag != "proteinAtlas" or parent.getparent() is not None):
        raise BadPage(f"{name} is not an HPA page: its <entry> is inside <{str(parent.tag)[:40]}>; fetch it again.")
    _check_document(entry, name)
    if entries_before:
        raise BadPage(f"{name} holds several genes (the whole atlas?): give one gene's XML page in each file.")


def _check_document(element: Any, name: str) -> None:
    """Refuses any document type: HPA's pages have none, and it is where entity bombs and file reads come from."""
    if element.getroottree().docinfo.internalDTD is not None:
        raise BadPage(f"{name} declares a document type (DTD), which HPA's pages never do: fetch it again from HPA.")


def _forget(element: Any) -> None:
    """Frees what was read, so that memory stays flat: the element's content and all before it."""
    element.clear()
    parent = element.getparent()
    if parent is not None:
        while element.getprevious() is not None:
            del parent[0]


def _not_xml(name: str, head: bytes, error: etree.XMLSyntaxError) -> str:
    start = head.lower()
    if not head:
        return f"{name} is empty: fetch it again."
    if b"<!doctype html" in start or b"<html" in start:
        return f"{name} is a web page (HTML), not XML: check its address, then fetch it again."
    if not start.startswith((b"<", b"\xef\xbb\xbf<", b"\xff\xfe", b"\xfe\xff")):
        return f"{name} is not XML (it begins with {head[:12]!r}): fetch the gene's XML page again."
    return f"{name} is not whole XML (line {error.lineno}: {error.msg}): it was damaged or cut short; fetch it again."


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
