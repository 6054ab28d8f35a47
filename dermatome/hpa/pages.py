"""Reads gene pages of all releases of the Human Protein Atlas: one row for each image of one tissue.

Releases 12 to 25 differ: the root is ``<proteinAtlas>`` or ``<entry>``; ``technology`` is IH or IHC; a tissue is
``skin 1`` without attributes up to release 18 and ``<tissue organ="Skin">Skin 1`` from 19 on; the gene's summary calls
it ``skin`` in some releases. Levels occur twice: in the gene's summary (``entry/tissueExpression``) and for each
antibody (``entry/antibody/tissueExpression``), which alone has images. RNA sections and ``pathology`` (tumours) name
the same tissues and organs and are not read.

Pages are untrusted. lxml calls :class:`_Target` for each tag and builds no tree, so ignored elements are never held in
memory, however large the page is; entities, document types and network access are disabled.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
from lxml import etree

from dermatome.errors import BadPage, BadSetting, MissingInput
from dermatome.hpa.genes import ENSEMBL_GENE
from dermatome.hpa.records import IMAGE_RECORD_SCHEMA, slide_id
from dermatome.hpa.settings import licence_of

Outcome = Literal["images", "no_tissue", "no_images"]

_MAX_PAGE_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 1 << 16
# For a gene with 20 antibodies on three tissues, about 20,000 elements with half a million characters are kept.
_MAX_KEPT_ELEMENTS = 100_000
_MAX_KEPT_CHARACTERS = 4_000_000
# The elements that are entered, and what happens to their children; all other elements are skipped.
_ENTER, _KEEP = "enter", "keep"
_INSIDE: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("entry",): {"name": _KEEP, "synonym": _KEEP, "identifier": _KEEP, "tissueExpression": _ENTER, "antibody": _ENTER},
    ("entry", "antibody"): {"tissueExpression": _ENTER},
    ("entry", "tissueExpression"): {"verification": _KEEP, "data": _KEEP},
    ("entry", "antibody", "tissueExpression"): {"data": _KEEP},
}
_NOTHING: Mapping[str, str] = {}
_EPIDERMAL_CELLS = ("keratinocytes", "epidermal cells")
_QUANTITIES = {"negative": "none", "rare": "<25%", "75%-25%": "25%-75%"}
# The normal tissues of releases 12 to 25, without running numbers. Other names are not HPA's, or are newer.
_HPA_TISSUES = re.compile(
    "adipose tissue|adrenal gland|appendix|bone marrow|breast|bronchus|caudate|cerebellum|cerebral cortex|"
    "cervix(, uterine)?|colon|duodenum|endometrium|epididymis|esophagus|fallopian tube|gallbladder|heart muscle|"
    "hippocampus|kidney|liver|lung|lymph node|nasopharynx|oral mucosa|ovary|pancreas|parathyroid gland|placenta|"
    "prostate|rectum|salivary gland|seminal vesicle|skeletal muscle|skin|small intestine|smooth muscle|soft tissue|"
    "spleen|stomach|testis|thyroid gland|tonsil|urinary bladder|vagina"
)
_MAX_NAMES = 100
_RUNNING_NUMBER = re.compile(r"\s+\d+$")


@dataclass(frozen=True)
class GenePage:
    """The content of a gene page about one tissue.

    Attributes:
        ensembl_id: Ensembl id of the gene.
        gene: Symbol of the gene.
        release: HPA's release number as stated on the page; empty if it is not.
        page_sha256: sha256 of the page.
        records: One row for each image; see :data:`dermatome.hpa.records.IMAGE_RECORD_SCHEMA`.
        outcome: ``images``; ``no_tissue`` if no antibody was tried on the tissue; ``no_images`` if the page has levels
            for the tissue but no images.
        message: The outcome in one sentence.
        antibodies_without_images: Antibodies with levels for the tissue but no image; older releases may have images.
        tissues: Names of the page's normal tissues, sorted; at most 100.
    """

    ensembl_id: str
    gene: str
    release: str
    page_sha256: str
    records: pa.Table
    outcome: Outcome
    message: str
    antibodies_without_images: tuple[str, ...] = ()
    tissues: tuple[str, ...] = ()


def check_tissue(page: GenePage, tissue: str) -> None:
    """Refuses a tissue name that HPA does not have: the page lists other tissues, and no release has this name.

    Raises:
        BadSetting: There is no such tissue; the message lists the page's tissues.
    """
    if page.outcome == "no_tissue" and page.tissues and not _HPA_TISSUES.fullmatch(_base_name(tissue)):
        raise BadSetting(
            f"{page.gene} ({page.ensembl_id}): {tissue[:40]!r} is not a tissue or organ of the page; choose one of "
            f"{', '.join(page.tissues)}."
        )


def parse_page(source: Path | bytes, *, tissue: str = "Skin", max_bytes: int = _MAX_PAGE_BYTES) -> GenePage:
    """Reads the images of ``tissue`` from an HPA gene page of any release as a stream.

    A tissue matches by its name, with or without HPA's running number (``Skin`` matches ``skin``, ``skin 1`` and
    ``Skin 2``, but not ``Foreskin`` or ``skin cancer``), or by its organ; case is ignored. Only normal tissue is read.

    Raises:
        BadPage: The page is larger than ``max_bytes``, not XML, truncated, has a document type, is not one gene's
            entry, or has an image whose address gives no slide id.
        MissingInput: There is no such file.
    """
    name = source.name if isinstance(source, Path) else "The page"
    if isinstance(source, bytes):
        return _gene_page(_read_page(io.BytesIO(source), name, tissue=tissue, max_bytes=max_bytes), name)
    try:
        with source.open("rb") as file:
            return _gene_page(_read_page(file, name, tissue=tissue, max_bytes=max_bytes), name)
    except FileNotFoundError as error:
        raise MissingInput(f"There is no page {source}: check the path, or fetch it first.") from error
    except IsADirectoryError as error:
        raise MissingInput(f"{source} is a folder, not a page: give the path of one XML file.") from error


class _HashingFile:
    """Reads a file for the parser and computes its hash; refuses more than ``max_bytes``."""

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
            # Some pages begin with blank lines, which XML forbids before its declaration.
            data = data.lstrip()
            if data:
                self.head = data[:1024]
                return data


class _Target:
    """Receives the parser's events and collects elements such as ``name`` and ``data`` until they are complete.

    Attributes:
        facts: Facts that were read so far.
        root: Tag of the root element.
        entries: Number of gene entries that began.
    """

    def __init__(self, facts: _Facts, name: str) -> None:
        self.facts, self.root, self.entries = facts, "", 0
        self._name = name
        self._path: tuple[str, ...] = ()  # tags of the entered elements, from the entry on
        self._inside: Mapping[str, str] = _NOTHING
        self._depth = 0  # depth below an element that is kept or skipped
        self._builder: etree.TreeBuilder | None = None
        self._unsure = False  # whether the kept element is a <data> whose tissue is not known yet
        self._elements = self._characters = 0
        self._before = (0, 0)

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Handles the start of an element."""
        if self._depth:
            self._depth += 1
            if self._builder is not None:
                self._grow(self._builder, tag, attributes)
            return
        if tag == "entry" or not self.root:
            self._start_page(tag, attributes)
            return
        what = self._inside.get(tag)
        if what is _ENTER and self._entered(tag, attributes):
            self._enter((*self._path, tag))
            return
        self._depth = 1
        if what is _KEEP:
            self._before = (self._elements, self._characters)
            self._builder, self._unsure = etree.TreeBuilder(), tag == "data"
            self._grow(self._builder, tag, attributes)

    def end(self, tag: str) -> None:
        """Handles the end of an element."""
        if not self._depth:
            if tag == "antibody":
                self.facts.of_antibody, self.facts.antibody = False, None
            self._enter(self._path[:-1])
            return
        self._depth -= 1
        builder = self._builder
        if builder is None:
            return
        element = builder.end(tag)
        if self._unsure and self._depth == 1 and tag == "tissue":
            self._unsure = False
            if not self.facts.wants(element):
                self._builder = None
                self._elements, self._characters = self._before
        elif not self._depth:
            self._builder = None
            self.facts.take(builder.close())

    def data(self, text: str) -> None:
        """Handles text inside an element, which may come in pieces."""
        if self._builder is not None:
            self._characters += len(text)
            self._check_size()
            self._builder.data(text)

    def doctype(self, root: str, *_: object) -> None:
        """Refuses any document type: HPA's pages have none, and entity bombs and file inclusion need one."""
        if root.casefold() == "html":
            raise BadPage(_web_page(self._name))
        raise BadPage(f"{self._name} declares a document type (DTD), which HPA's pages never do: fetch it from HPA.")

    def close(self) -> None:
        """Handles the end of the page."""

    def _start_page(self, tag: str, attributes: Mapping[str, str]) -> None:
        outside = self.root or None
        self.root = self.root or tag
        if tag != "entry":
            return
        if self.entries:
            raise BadPage(
                f"{self._name} contains several genes (the whole atlas?): give one gene's XML page in each file."
            )
        if outside not in (None, "proteinAtlas"):
            raise BadPage(f"{self._name} is not an HPA page: its <entry> is inside <{self.root[:40]}>; fetch it again.")
        self.entries += 1
        self.facts.release = attributes.get("version", "").strip()
        self._enter(("entry",))

    def _entered(self, tag: str, attributes: Mapping[str, str]) -> bool:
        if tag == "antibody":
            self.facts.of_antibody, self.facts.antibody = True, attributes.get("id")
            return True
        self.facts.technology = attributes.get("technology")
        return attributes.get("assayType", "tissue") == "tissue"

    def _enter(self, path: tuple[str, ...]) -> None:
        self._path, self._inside = path, _INSIDE.get(path, _NOTHING)

    def _grow(self, builder: etree.TreeBuilder, tag: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if attributes:
            self._characters += sum(map(len, attributes)) + sum(map(len, attributes.values()))
        self._check_size()
        builder.start(tag, attributes)

    def _check_size(self) -> None:
        if self._elements > _MAX_KEPT_ELEMENTS or self._characters > _MAX_KEPT_CHARACTERS:
            raise BadPage(
                f"{self._name} has more about {self.facts.tissue} than a gene page can: fetch it again or omit it."
            )


def _read_page(file: IO[bytes], name: str, *, tissue: str, max_bytes: int) -> _Facts:
    """Reads the facts for :func:`parse_page` from an open file; ``name`` names the page in errors."""
    source = _HashingFile(file, name, max_bytes)
    page = _Target(_Facts(tissue), name)
    parser = etree.XMLParser(target=page, resolve_entities="internal", no_network=True, load_dtd=False, huge_tree=False)
    try:
        while data := source.read(_CHUNK_BYTES):
            parser.feed(data)
        parser.close()
    except etree.XMLSyntaxError as error:
        raise BadPage(_not_xml(name, source.head, error)) from error
    if not page.entries:
        raise BadPage(
            f"{name} is XML without an HPA gene entry (its root is <{page.root[:40]}>): fetch one gene's XML page from "
            "the Human Protein Atlas."
        )
    page.facts.page_sha256 = source.sha256.hexdigest()
    return page.facts


def _not_xml(name: str, head: bytes, error: etree.XMLSyntaxError) -> str:
    start = head.lower()
    if not head:
        return f"{name} is empty: fetch it again."
    if b"<!doctype html" in start or b"<html" in start:
        return _web_page(name)
    if not start.startswith((b"<", b"\xef\xbb\xbf<", b"\xff\xfe", b"\xfe\xff")):
        return f"{name} is not XML (it begins with {head[:12]!r}): fetch the gene's XML page again."
    return f"{name} is not complete XML (line {error.lineno}: {error.msg}): it is damaged or cut short; fetch it again."


def _web_page(name: str) -> str:
    return f"{name} is a web page (HTML), not XML: check its address, then fetch it again."


@dataclass(frozen=True)
class _GeneLevel:
    """The gene's summary for one tissue."""

    tissue: str
    expression: str | None
    cell_types: list[dict[str, str | None]]


@dataclass
class _Facts:
    """Facts that were read from a page so far.

    Attributes:
        rows: For each image of the tissue: antibody, tissue, organ, address, patient, sample and levels, by the names
            of :data:`dermatome.hpa.records.IMAGE_RECORD_SCHEMA`.
        gene_levels: The gene's summary for each matching tissue.
        images_by_antibody: Number of images of each antibody that was tried on the tissue.
        verifications: The gene's reliability, by the release's term for it.
        synonyms: Other names of the gene.
        names: Names of all normal tissues on the page.
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
    synonyms: list[str] = field(default_factory=list)
    gene_levels: list[_GeneLevel] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    images_by_antibody: dict[str, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def take(self, element: Any) -> None:
        """Adds the facts of a complete element."""
        if element.tag == "name":
            self.gene = _text(element) or ""
        elif element.tag == "synonym":
            self.synonyms += [name] if (name := _text(element)) else []
        elif element.tag == "identifier":
            self.ensembl_id = (element.get("id") or "").strip()
        elif element.tag == "verification":
            self.verifications[element.get("type", "")] = _text(element) or ""
        elif self.of_antibody:
            self._antibody_data(element)
        else:
            self._gene_data(element)

    def wants(self, tissue: Any) -> bool:
        """Whether the ``<data>`` with this ``<tissue>`` is needed; records the tissue's name."""
        if len(self.names) < _MAX_NAMES:
            self.names.add((_text(tissue) or "")[:40])
        return bool(self._tissue_of(tissue) or (not self.of_antibody and self._unnumbered(tissue)))

    def _tissue_of(self, element: Any) -> tuple[str, str | None] | None:
        name, organ = _text(element) or "", (element.get("organ") or "").strip() or None
        wanted = self.tissue.strip().casefold()
        if wanted in (name.casefold(), _base_name(name), (organ or "").casefold()):
            return name or organ or "", organ
        return None

    def _unnumbered(self, element: Any) -> tuple[str, None] | None:
        """Matches the gene summary's ``skin`` if ``skin 1`` is requested, as release 18 omits the number there."""
        name = _text(element) or ""
        return (name, None) if name.casefold() == _base_name(self.tissue) else None

    def _gene_data(self, data: Any) -> None:
        element = data.find("tissue")
        tissue = None if element is None else self._tissue_of(element) or self._unnumbered(element)
        if tissue is not None:
            cells = [
                {"cell_type": _text(cell.find("cellType")), "level": _level(cell, "expression", "staining")}
                for cell in data.iterchildren("tissueCell")
            ]
            self.gene_levels.append(_GeneLevel(tissue[0], _level(data, "expression", "staining"), cells))

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


def _base_name(tissue: str) -> str:
    """A tissue's name without HPA's running number, in lower case: ``Skin 1`` gives ``skin``."""
    return _RUNNING_NUMBER.sub("", tissue.strip()).casefold()


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
    """Facts about an image's patient and sample."""
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


def _gene_page(facts: _Facts, name: str) -> GenePage:
    if not ENSEMBL_GENE.fullmatch(facts.ensembl_id):
        raise BadPage(
            f"{name} has no Ensembl gene id (its identifier is {facts.ensembl_id[:40]!r}): fetch one gene's XML page "
            "from the Human Protein Atlas."
        )
    rows = _rows(facts, name)
    where = f"{facts.gene or facts.ensembl_id} ({facts.ensembl_id}), release {facts.release or 'unknown'}"
    outcome: Outcome
    if rows:
        outcome, message = "images", f"{where}: {len(rows)} image{'s' if len(rows) > 1 else ''} of {facts.tissue}."
    elif facts.images_by_antibody or facts.gene_levels:
        outcome = "no_images"
        message = f"{where}: levels for {facts.tissue} and no images of it; an older release may have them."
    else:
        outcome = "no_tissue"
        message = f"{where}: no antibody staining of {facts.tissue}; choose another tissue or leave the gene out."
    return GenePage(
        ensembl_id=facts.ensembl_id,
        gene=facts.gene or facts.ensembl_id,
        release=facts.release,
        page_sha256=facts.page_sha256,
        records=pa.Table.from_pylist(rows, schema=IMAGE_RECORD_SCHEMA),
        outcome=outcome,
        message=message,
        antibodies_without_images=tuple(key for key, images in facts.images_by_antibody.items() if key and not images),
        tissues=tuple(sorted(filter(None, facts.names))),
    )


def _rows(facts: _Facts, name: str) -> list[dict[str, Any]]:
    kind = next((kind for kind in ("reliability", "validation") if facts.verifications.get(kind)), None)
    gene = {
        "gene": facts.gene or facts.ensembl_id,
        "ensembl_id": facts.ensembl_id,
        "synonyms": facts.synonyms,
        "reliability": facts.verifications[kind] if kind else None,
        "verification": kind,
        "release": facts.release or None,
        "licence": licence_of(facts.release),
        "page_sha256": facts.page_sha256,
    }
    rows: dict[tuple[str, str | None, str], dict[str, Any]] = {}
    addresses: dict[str, str] = {}  # by slide; http and https addresses are the same image
    for row in facts.rows:
        url = row["image_url"]
        slide = slide_id(url)
        known = addresses.setdefault(slide, url)
        if _without_scheme(known) != _without_scheme(url):
            raise BadPage(
                f"{name} gives two images the slide id {slide} ({known[:150]} and {url[:150]}): fetch the "
                "page again, or leave it out."
            )
        level = _gene_level(facts.gene_levels, row["tissue"], row["cell_types"])
        summary = {
            "gene_expression": level.expression if level else None,
            "gene_cell_types": level.cell_types if level else [],
        }
        # A page may list an image twice for one antibody and tissue.
        rows.setdefault(
            (slide, row["antibody"], row["tissue"]),
            {"slide": slide, **gene, **row, **_annotation(row), "image_url": known, **summary},
        )
    return list(rows.values())


def _annotation(row: Mapping[str, Any]) -> dict[str, str | None]:
    """Staining, intensity, quantity and location of the patient or, if the page states none, of the epidermis.

    HPA annotates cell types, not patients: ``Keratinocytes`` for Skin 1 and ``Epidermal cells`` for Skin 2. The words
    are those of newer releases, in lower case; ``cell_types`` keeps the page's own words.
    """
    found = {name: row.get(name) for name in ("staining", "intensity", "quantity", "location")}
    if not any(found.values()):
        cells = {(cell["cell_type"] or "").casefold(): cell for cell in row["cell_types"]}
        of_epidermis = next((cells[name] for name in _EPIDERMAL_CELLS if name in cells), dict[str, str | None]())
        found = {name: of_epidermis.get(name) for name in found}
    words = {name: word and word.casefold() for name, word in found.items()}
    quantity = words["quantity"] or ""
    return words | {"quantity": _QUANTITIES.get(quantity, quantity) or None}


def _without_scheme(url: str) -> str:
    return re.sub(r"^https?:", "", url, flags=re.IGNORECASE)


def _gene_level(levels: list[_GeneLevel], tissue: str, cell_types: list[dict[str, str | None]]) -> _GeneLevel | None:
    """The gene's summary for an antibody's tissue.

    Release 18 calls both ``skin 1`` and ``skin 2`` just ``skin`` there; the one with most cell types in common is used.
    """
    same = [level for level in levels if level.tissue.casefold() == tissue.casefold()]
    if not same:
        plain = [level for level in levels if not _RUNNING_NUMBER.search(level.tissue)]
        same = [level for level in plain if _base_name(level.tissue) == _base_name(tissue)]
    seen = _names(cell_types)
    return max(same, key=lambda level: len(seen & _names(level.cell_types)), default=None)


def _names(cells: list[dict[str, str | None]]) -> set[str]:
    return {(cell["cell_type"] or "").casefold() for cell in cells}
