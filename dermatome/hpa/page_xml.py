"""The streaming reader below :mod:`dermatome.hpa.records`: an untrusted XML page in, plain facts out.

Nothing here knows Parquet or slide ids; nothing here keeps more of the page than the tissue asked for. lxml calls for
each tag and builds no tree, so what is not wanted is never in memory, however the page is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import IO

from lxml import etree

from dermatome.errors import BadPage
from dermatome.hpa.page_facts import PageFacts

CHUNK_BYTES = 1 << 16
# A page of a gene with 20 antibodies on three tissues keeps about 20,000 elements with half a million characters.
MAX_KEPT_ELEMENTS = 100_000
MAX_KEPT_CHARACTERS = 4_000_000
# The elements that are entered, and what is done with those inside them; all others are passed over.
_ENTER, _KEEP = "enter", "keep"
_INSIDE: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("entry",): {"name": _KEEP, "identifier": _KEEP, "tissueExpression": _ENTER, "antibody": _ENTER},
    ("entry", "antibody"): {"tissueExpression": _ENTER},
    ("entry", "tissueExpression"): {"verification": _KEEP, "data": _KEEP},
    ("entry", "antibody", "tissueExpression"): {"data": _KEEP},
}
_NOTHING: Mapping[str, str] = {}


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


class _Page:
    """What the parser calls while it reads: it keeps ``name``, ``data`` and the like until they are whole.

    Attributes:
        facts: what has been read so far.
        root: the root element's tag.
        entries: how many genes' entries began.
    """

    def __init__(self, facts: PageFacts, name: str) -> None:
        self.facts, self.root, self.entries = facts, "", 0
        self._name = name
        self._path: tuple[str, ...] = ()  # from the entry on
        self._inside: Mapping[str, str] = _NOTHING
        self._depth = 0  # below an element that is kept or passed over
        self._builder: etree.TreeBuilder | None = None
        self._unsure = False  # whether the element that is kept is a <data> whose tissue is not known yet
        self._elements = self._characters = 0
        self._before = (0, 0)

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """A tag begins an element."""
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
        """A tag ends an element."""
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
        """Text inside an element, in pieces."""
        if self._builder is not None:
            self._characters += len(text)
            self._check_size()
            self._builder.data(text)

    def doctype(self, root: str, *_: object) -> None:
        """Refuses any document type: HPA's pages have none, and it is where entity bombs and file reads come from."""
        if root.casefold() == "html":
            raise BadPage(_web_page(self._name))
        raise BadPage(f"{self._name} declares a document type (DTD), which HPA's pages never do: fetch it from HPA.")

    def close(self) -> None:
        """The page has ended."""

    def _start_page(self, tag: str, attributes: Mapping[str, str]) -> None:
        outside = self.root or None
        self.root = self.root or tag
        if tag != "entry":
            return
        if self.entries:
            raise BadPage(
                f"{self._name} holds several genes (the whole atlas?): give one gene's XML page in each file."
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
        if self._elements > MAX_KEPT_ELEMENTS or self._characters > MAX_KEPT_CHARACTERS:
            raise BadPage(
                f"{self._name} says more of {self.facts.tissue} than a gene page can: fetch it again, or leave it out."
            )


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
    page = _Page(PageFacts(tissue), name)
    parser = etree.XMLParser(target=page, resolve_entities="internal", no_network=True, load_dtd=False, huge_tree=False)
    try:
        while data := source.read(CHUNK_BYTES):
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
    return f"{name} is not whole XML (line {error.lineno}: {error.msg}): it was damaged or cut short; fetch it again."


def _web_page(name: str) -> str:
    return f"{name} is a web page (HTML), not XML: check its address, then fetch it again."
