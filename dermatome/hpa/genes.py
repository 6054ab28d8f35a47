"""Reads lists of genes: tables as downloaded from HPA's site, plain text files, or Python lists."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dermatome.errors import BadPage, MissingInput

MAX_LIST_BYTES = 512 * 1024 * 1024
ENSEMBL_GENE = re.compile(r"ENSG\d{11}", re.ASCII)
_ENSEMBL = re.compile(r"(ENSG\d{11})(?:\.\d+)?", re.ASCII)
# HPA's search download names the id "Ensembl" and the symbol "Gene"; its `normal_tissue` and other tables name them
# "Gene" and "Gene name"; BioMart names the id "Gene stable ID" or "Gene stable ID version". Names are compared by their
# letters and digits, without case.
_ID_COLUMNS = (
    *("ensembl", "ensemblid", "ensemblgeneid", "ensemblgene", "genestableid", "genestableidversion", "geneid", "ensg"),
    *("ensemblgeneidversion", "ensemblidsuppliedbyensembl", "stableid"),
)
_NAME_COLUMNS = ("genename", "genesymbol", "hgncsymbol", "symbol", "approvedsymbol", "associatedgenename", "gene")
_NAMES_OF_NONE = ("", "-", "na", "n/a", "#n/a", "nan", "none", "null")
"""Entries, in lower case, that Excel, R and pandas write if there is no id."""
_SEPARATORS = ("\t", ";", ",")
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GeneRef:
    """A gene of a list: its Ensembl id, and its symbol if the list states it."""

    ensembl_id: str
    gene: str | None = None


def read_gene_list(source: Path | str | Iterable[str]) -> list[GeneRef]:
    """Reads a gene list, each gene once, in the order of the list.

    Args:
        source: Path of a table as from HPA's site or BioMart (columns are found by name), separated by tabs, semicolons
            or commas; rows without an id are skipped, and their number is logged. Or path of a text file with one
            Ensembl id per line (``#`` begins a comment, a symbol may follow the id). Or the ids themselves. A table may
            lack a header. Version suffixes (``ENSG00000186847.6``) are removed. Excel's "Unicode text" (UTF-16) and
            Windows' Western European encoding are supported.

    Raises:
        MissingInput: There is no such file.
        BadPage: The list is not text, is empty, has no column of Ensembl ids, or has an invalid id; the message names
            the file, the column and the line.
    """
    if isinstance(source, Path | str):
        source = Path(source)
        text = _read(source)
        name, first = source.name, _first_line(text)
        separator = max(_SEPARATORS, key=first.count)
        is_table = separator in first or _plain(first) in (*_ID_COLUMNS, *_NAME_COLUMNS)
        # A list of ids, or of ids and symbols: what has an id in its first line has no header.
        cells = [cell.strip(' "') for cell in first.split(separator)]
        if is_table and not any(_ENSEMBL.fullmatch(cell.upper()) for cell in cells):
            return _once(_from_table(text, separator, name), name)
        return _once(_from_lines(text.splitlines(), name), name)
    return _once(_from_lines(source, "The list of genes"), "The list of genes")


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise BadPage(f"{path.name} is larger than {MAX_LIST_BYTES >> 20} MB: give a list of genes.")
        data = path.read_bytes()
        if data.startswith(b"PK"):
            raise BadPage(f"{path.name} is a workbook or archive, not text: save it as CSV or TSV.")
        encoding = _BYTE_ORDER_MARKS.get(data[:2]) or _BYTE_ORDER_MARKS.get(data[:3], "utf-8")
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:  # Excel's CSV; ids and symbols are the same in every such encoding
            text = data.decode("cp1252")
        if "\0" in text:
            raise BadPage(f"{path.name} is not text: save the list as a TSV or text file.")
        # Excel's first line may name the separator.
        return re.sub(r'\A"?sep=."?', "", text)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInput(f"There is no gene list at {path}: check the path.") from error
    except UnicodeDecodeError as error:
        raise BadPage(f"{path.name} is not text: save the list as a TSV or text file.") from error


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")


def _from_table(text: str, separator: str, name: str) -> Iterator[GeneRef]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header: list[str] = []
    id_at, name_at = -1, None
    line = skipped = 0
    try:
        for row in rows:
            line, began = rows.line_num, line + 1
            if line > began:
                raise BadPage(f"{name}, line {began}: a quotation mark is not closed; fix or remove the line.")
            if not any(cell.strip() for cell in row) or (not header and row[0].lstrip().startswith("#")):
                continue
            if not header:
                header = row
                continue
            if id_at < 0:
                id_at, name_at = _columns(header, row, name)
            if len(row) <= id_at:
                raise BadPage(
                    f"{name}, line {line}: it has {len(row)} of {len(header)} columns, {header[id_at]!r} is missing; "
                    "fix or remove the line."
                )
            symbol = row[name_at].strip() if name_at is not None and len(row) > name_at else ""
            # Search downloads list several ids, separated by commas, if a symbol is that of several genes.
            parts = re.split("[,;]", row[id_at])
            identifiers = [part for part in parts if part.strip().casefold() not in _NAMES_OF_NONE]
            skipped += not identifiers
            for identifier in identifiers:
                yield GeneRef(_valid(identifier, f"{name}, line {line}, column {header[id_at]!r}"), symbol or None)
    except csv.Error as error:
        raise BadPage(f"{name}, line {rows.line_num}: not a table ({error}); download it again.") from error
    if id_at < 0:
        _columns(header, [], name)
    if skipped:
        _log.warning("%s: %d rows without an Ensembl id are skipped.", name, skipped)


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _columns(header: list[str], first: list[str], name: str) -> tuple[int, int | None]:
    """Indices of the columns of ids and of symbols; ``first`` is the first row below the header."""
    columns = [_plain(cell) for cell in header]
    id_at = next((columns.index(wanted) for wanted in _ID_COLUMNS if wanted in columns), -1)
    if id_at < 0 and "gene" in columns:
        # In tables such as `normal_tissue.tsv`, "Gene" is the id; in search downloads it is the symbol.
        at = columns.index("gene")
        if "genename" in columns or (len(first) > at and _ENSEMBL.fullmatch(first[at].strip())):
            id_at = at
    if id_at < 0:
        shown = ", ".join(repr(cell[:30]) for cell in header[:8])
        raise BadPage(
            f"{name} has no column of Ensembl ids ('Ensembl', or 'Gene' with ids): its columns are {shown}"
            f"{', …' if len(header) > 8 else ''}; download the table again with that column, or give a list of ids."
        )
    symbols = (columns.index(wanted) for wanted in _NAME_COLUMNS if wanted in columns)
    return id_at, next((at for at in symbols if at != id_at), None)


def _from_lines(lines: Iterable[str], name: str) -> Iterator[GeneRef]:
    for number, line in enumerate(lines, start=1):
        words = re.sub('[,;"]', " ", line.split("#", maxsplit=1)[0]).split()
        where = f"{name}, line {number}"
        ids = [word for word in words if _ENSEMBL.fullmatch(word.upper())]
        if len(words) == 2 and len(ids) == 1 and not any(word.upper().startswith("ENS") for word in {*words} - {*ids}):
            yield GeneRef(_valid(ids[0], where), words[words[0] == ids[0]])
        else:
            yield from (GeneRef(_valid(word, where)) for word in words)


def _valid(text: str, where: str) -> str:
    found = _ENSEMBL.fullmatch(text.strip().upper())
    if not found:
        raise BadPage(
            f"{where}: {text.strip()[:40]!r} is not an Ensembl gene id (ENSG and 11 digits); fix or remove the line."
        )
    return found[1]


def _once(genes: Iterable[GeneRef], name: str) -> list[GeneRef]:
    found: dict[str, GeneRef] = {}
    for gene in genes:
        if gene.ensembl_id not in found or (found[gene.ensembl_id].gene is None and gene.gene):
            found[gene.ensembl_id] = gene
    if not found:
        raise BadPage(f"{name} has no gene: give at least one Ensembl gene id.")
    return list(found.values())
