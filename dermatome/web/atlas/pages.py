"""The pages of the atlas: search, reports, slides, explanations and downloads; all of them are read-only.

No path in a request reaches the disk unchecked: assets and files must be in :data:`REPORTS` or :data:`DOWNLOADS`,
and partitions are checked by :meth:`DataRoot.folder`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from dermatome.classes import TissueClass
from dermatome.errors import BadSetting, DermatomeError, MissingInput
from dermatome.pipeline.stage_files import synthetic_warning
from dermatome.reports.html import picture_uri, template
from dermatome.settings import load_settings
from dermatome.skin.atlas.search import SCRIPT_SOURCE
from dermatome.skin.profiles.stage import ANTIBODIES_TABLE, CORES_TABLE
from dermatome.skin.stage_files import LAYERS_TABLE
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import failure_of, require_record
from dermatome.web.atlas.places import REPORTS, SLIDE_ASSETS, explain_place, report_place, slide_place
from dermatome.web.atlas.slides import MOST_DAB_OD, TILE_PX, OpenSlides, point, tile
from dermatome.web.results import Results

if TYPE_CHECKING:
    import pandas as pd

BELOW = ("/atlas/", "/results/")
"""Links to the other pages, shown on every page."""
DOWNLOADS: dict[str, tuple[str, ...]] = {
    "slide_images": (),
    "epidermis_masks": ("figure.png",),
    "cell_masks": ("cells.csv", "cells.geojson", "figure.png"),
    "epidermis_layers": (
        "layers.csv", "zones.csv", "relative.csv", "profile.csv", "cell_layers.csv", "layers.geojson", "figure.png",
    ),
    "gene_profiles": ("profile.csv", "antibodies.csv", "cores.csv", "figure.svg", "figure.png"),
    "skin_atlas": ("antibodies.csv", "figure.svg", "figure.png"),
    "hpa_agreement": ("agreement.csv", "scores.csv", "confusion.csv", "thresholds.csv", "figure.svg", "figure.png"),
}  # fmt: skip
"""Files that may be downloaded, by asset; a CSV file is written from the table of the same name."""
_ROWS = 50
_WAIT_S = 60.0
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    f"script-src 'self' {SCRIPT_SOURCE}; connect-src 'self'; base-uri 'none'; form-action 'self'"
}
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def atlas_routes(root: DataRoot, home: str) -> list[BaseRoute]:
    """The routes of the atlas over a data root; its first page redirects to ``home`` while there is no slide."""
    pages = _Pages(root, home)
    slide = "/atlas/slide/{slide}"
    return [
        Route("/", pages.first),
        Route("/atlas/slides", pages.slides),
        Route(slide, pages.slide),
        Route(f"{slide}/at", pages.at),
        Route(f"{slide}/explain", pages.explain),
        Route("/atlas/tiles/{slide}/{version}/{view}/{level:int}/{column:int}/{row:int}", pages.tile),
        Route("/atlas/file/{asset}/{partition}/{name}", pages.file),
        Route("/atlas/reports/{asset}/{partition}/{name}", pages.report),
        Mount("/atlas/static", StaticFiles(directory=Path(__file__).parent / "static")),
        Mount("/results", Results(directory=root.path, check_dir=False)),
    ]


def _in_words(page: Callable[[_Pages, Request], Response]) -> Callable[[_Pages, Request], Response]:
    """Turns an error into a page that shows its message."""

    @functools.wraps(page)
    def answered(self: _Pages, request: Request) -> Response:
        try:
            return page(self, request)
        except DermatomeError as error:
            status = 400 if isinstance(error, BadSetting) else 404 if isinstance(error, MissingInput) else 500
            if request.url.path.endswith("/at"):
                return JSONResponse({"detail": str(error)}, status)
            return self.page("error.html.j2", status=status, title="Not found", sentence=str(error))

    return answered


class _Pages:
    def __init__(self, root: DataRoot, home: str) -> None:
        self.root, self.home = root, home
        self._open = OpenSlides(root)
        self._explaining = threading.Lock()
        self._genes: tuple[object, list[dict[str, Any]]] = (None, [])

    def page(self, name: str, *, status: int = 200, **values: Any) -> Response:
        """Renders a page from a template; every page has the same links at its top."""
        text = template(name, "dermatome.web.atlas").render(there=self._there(), **values)
        return HTMLResponse(text, status, _HEADERS)

    def _there(self) -> dict[str, bool]:
        return {asset: self.root.record(asset, CHAMPION).is_file() for asset in ("skin_atlas", "hpa_agreement")} | {
            "store": self.root.store.is_file()
        }

    @_in_words
    def first(self, request: Request) -> Response:
        """The search page; without an atlas, redirects to the slides, or to ``home`` if the data root has none."""
        there = self._there()
        if not there["skin_atlas"]:
            if not there["store"] and self.root.partitions("slide_images"):
                raise MissingInput("There is no atlas yet: materialize gene_profiles for all genes, then skin_atlas.")
            return RedirectResponse("/atlas/slides" if there["store"] else self.home)
        query = request.query_params.get("q", "")[:200]
        genes = self.genes()
        found = search(genes, query)
        exact = [gene for gene in found if query.upper() in (gene["gene"].upper(), gene["ensembl_id"])]
        if query and len(exact or found) == 1:
            return RedirectResponse(report_place("gene_profiles", (exact or found)[0]["ensembl_id"]), 303)
        record = require_record(self.root, "skin_atlas", CHAMPION)
        return self.page(
            "first.html.j2", query=query, found=found[:_ROWS], count=len(found), total=len(genes), record=record,
            report_place=report_place, downloads=self._downloads("skin_atlas", CHAMPION),
            warning=synthetic_warning(record.values),
        )  # fmt: skip

    def genes(self) -> list[dict[str, Any]]:
        """A row for each gene with its antibodies; reread after the atlas was recomputed."""
        path = self.root.folder("skin_atlas", CHAMPION) / ANTIBODIES_TABLE
        state = path.stat()
        stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
        if self._genes[0] != stamp:
            self._genes = stamp, _genes_of(_read(path))
        return self._genes[1]

    @_in_words
    def slides(self, request: Request) -> Response:
        """The slides of the metrics store, by gene."""
        query, number = request.query_params.get("q", "")[:200], _whole(request, "page", 1)
        if not self._there()["store"]:
            raise MissingInput("There is no metrics store yet: materialize skin_metrics.")
        rows, count = stored_slides(self.root, query, max(0, number - 1) * _ROWS)
        return self.page(
            "slides.html.j2", query=query, rows=rows, count=count, number=number, pages=-(-count // _ROWS),
            report_place=report_place, address=lambda page: f"/atlas/slides?{urlencode({'q': query, 'page': page})}",
        )  # fmt: skip

    @_in_words
    def slide(self, request: Request) -> Response:
        """The viewer of a slide with its numbers."""
        shown = self._open.open(request.path_params["slide"])
        values = {asset: dict(record.values) for asset, record in shown.records.items()}
        layers = None
        if "epidermis_layers" in shown.records:
            layers = _read(self.root.folder("epidermis_layers", shown.name) / LAYERS_TABLE).drop(columns="slide")
        viewer = {
            "width": shown.size.width_px, "height": shown.size.height_px, "tileSize": TILE_PX, "maxLevel": shown.levels,
            "tiles": f"/atlas/tiles/{quote(shown.name)}/{shown.version}", "views": shown.views,
            "at": f"{slide_place(shown.name)}/at",
        }  # fmt: skip
        numbers = ("h_score", "positive_share", "layer_um", "detached_um2")
        notes = [(asset, self.root.failure(asset, shown.name)) for asset in SLIDE_ASSETS]
        return self.page(
            "slide.html.j2", shown=shown, values=values, viewer=viewer, layers=layers, most_dab=MOST_DAB_OD,
            tissue=list(TissueClass)[1:],
            numbers={name: values.get("epidermis_layers", {}).get(name) for name in numbers},
            explain=functools.partial(explain_place, shown.name), report_place=report_place,
            downloads={asset: self._downloads(asset, shown.name) for asset in shown.records},
            dagster=[(asset, self._dagster(asset, shown.name)) for asset in SLIDE_ASSETS],
            failures=[(asset, failure_of(note.read_bytes()).error) for asset, note in notes if note.is_file()],
            warning=synthetic_warning(values.get("epidermis_layers", {}) or values.get("epidermis_masks", {})),
        )  # fmt: skip

    @_in_words
    def at(self, request: Request) -> Response:
        """The results at a pixel, as JSON."""
        shown = self._open.open(request.path_params["slide"])
        return JSONResponse(point(shown, _whole(request, "y"), _whole(request, "x")))

    @_in_words
    def explain(self, request: Request) -> Response:
        """The page of what a value was computed from, its pixels, and the recomputed value."""
        from dermatome.skin.explain import explain_value, pixels_picture

        name, given = request.path_params["slide"], request.query_params
        part, row, column = given.get("part", "epidermis"), given.get("row"), given.get("column", "")
        if part not in ("epidermis", "layer", "cell"):
            raise BadSetting(f"There is no part {part[:40]!r}: use epidermis, layer or cell.")
        number = None if part == "epidermis" else _whole(request, "row")
        # One request at a time: it recomputes a slide's layers, which needs memory.
        if not self._explaining.acquire(timeout=_WAIT_S):
            raise MissingInput("Other values are being recomputed: reload this page in a minute.")
        try:
            found = explain_value(self.root, name, column, part, number)  # type: ignore[arg-type]
            picture = picture_uri(pixels_picture(self.root, name, found), "webp", quality=80) if found.box else ""
        finally:
            self._explaining.release()
        return self.page(
            "explain.html.j2", slide=name, found=found, picture=picture,
            command=f"dermatome explain {name}" + (f" --{part} {row}" if row else "") + f" --column {column}",
        )  # fmt: skip

    @_in_words
    def tile(self, request: Request) -> Response:
        """A tile of a view; it never changes, as its address contains the version of the slide's results."""
        given = request.path_params
        shown = self._open.open(given["slide"])
        body, kind = tile(shown, given["view"], given["level"], given["column"], given["row"])
        current = given["version"] == shown.version
        return Response(body, media_type=kind, headers=_FOREVER if current else {"Cache-Control": "no-store"})

    @_in_words
    def file(self, request: Request) -> Response:
        """A file of :data:`DOWNLOADS`."""
        asset, partition, name = (request.path_params[key] for key in ("asset", "partition", "name"))
        if name not in DOWNLOADS.get(asset, ()):
            raise MissingInput(f"There is no file {name[:80]!r} of {asset[:80]!r} to download.")
        path, shown = self.root.folder(asset, partition) / name, f"{partition}_{name}"
        if path.suffix == ".csv":
            table = _read(path.with_suffix(".parquet")).to_csv(index=False)
            disposition = f"attachment; filename*=UTF-8''{quote(shown)}"
            return Response(table, media_type="text/csv", headers={"Content-Disposition": disposition})
        if not path.is_file():
            raise MissingInput(f"{asset} has no {name} for {partition}: materialize it.")
        return FileResponse(path, filename=shown)

    @_in_words
    def report(self, request: Request) -> Response:
        """A report of the platform, with the links of the atlas above it."""
        asset, partition, name = (request.path_params[key] for key in ("asset", "partition", "name"))
        if REPORTS.get(asset) != name:
            raise MissingInput(f"There is no report {name[:80]!r} of {asset[:80]!r}.")
        path = self.root.folder(asset, partition) / name
        try:
            text = path.read_text()
        except FileNotFoundError as error:
            raise MissingInput(f"There is no {asset} of {partition} yet: materialize it.") from error
        rows = _read(path.parent / CORES_TABLE) if asset == "gene_profiles" else None
        slides = [] if rows is None or "slide" not in rows else rows.drop_duplicates("slide").to_dict("records")
        head, _, body = text.rpartition("</body>")[0].partition("<body>")
        heading, end, rest = body.partition("</h1>")
        return self.page(
            "report.html.j2", title=unescape(_between(head, "title")), style=_between(head, "style"),
            heading=heading + end, body=rest, slides=slides, downloads=self._downloads(asset, partition),
            dagster=self._dagster(asset, None if partition == CHAMPION else partition), asset=asset,
        )  # fmt: skip

    def _downloads(self, asset: str, partition: str) -> list[tuple[str, str]]:
        folder = self.root.folder(asset, partition)
        there = [name for name in DOWNLOADS[asset] if (folder / name.replace(".csv", ".parquet")).is_file()]
        return [(name, f"/atlas/file/{asset}/{quote(partition)}/{name}") for name in there]

    def _dagster(self, asset: str, partition: str | None) -> str:
        url = load_settings(self.root.settings).platform.dagster_url
        return f"{url}/assets/{asset}" + (f"?{urlencode({'partition': partition})}" if partition else "")


def search(genes: Sequence[dict[str, Any]], query: str) -> list[dict[str, Any]]:
    """Genes whose names, antibodies, patterns or annotation contain every word of a query; the best match first."""
    words = query.casefold().split()
    found = [gene for gene in genes if all(word in gene["text"] for word in words)]

    def rank(gene: dict[str, Any]) -> int:
        names = gene["names"]
        if any(word in names for word in words):
            return 0
        return 1 if any(name.startswith(word) for word in words for name in names) else 2

    return sorted(found, key=rank) if words else found


def _genes_of(antibodies: pd.DataFrame) -> list[dict[str, Any]]:
    genes: dict[str, dict[str, Any]] = {}
    antibodies = antibodies.astype(object).where(antibodies.notna(), None)
    for row in antibodies.to_dict("records"):
        gene = genes.setdefault(
            row["ensembl_id"],
            {"gene": row["gene"], "ensembl_id": row["ensembl_id"], "synonyms": row["synonyms"] or "", "antibodies": []},
        )
        gene["antibodies"].append(row)
    for gene in genes.values():
        names = [gene["gene"], gene["ensembl_id"], *gene["synonyms"].split(", ")]
        shown = ("antibody", "pattern", "staining", "intensity", "quantity", "location")
        gene["names"] = [name.casefold() for name in names if name]
        gene["text"] = " ".join([*names, *(str(row[k] or "") for row in gene["antibodies"] for k in shown)]).casefold()
    return sorted(genes.values(), key=lambda gene: gene["gene"])


def stored_slides(root: DataRoot, query: str, first: int) -> tuple[list[dict[str, Any]], int]:
    """Fifty slides of the metrics store from index ``first`` on, and the number of slides that contain all words.

    The words may be in the slide's name, gene, antibody, patient or pattern.
    """
    import duckdb

    words = query.split()[:8]
    where = " and ".join(
        ["contains(lower(concat_ws(' ', slide, gene, ensembl_id, antibody, patient, pattern)), lower(?))"] * len(words)
    )
    statement = f"""
        with one as (select slide, min(antibody) as antibody, min(patient_id) as patient from images group by slide),
        rows as (
            select s.slide, s.gene, s.ensembl_id, one.antibody, one.patient, l.pattern, l.h_score, l.positive_share,
                l.layers
            from slides s left join one using (slide) left join layer_slides l using (slide)
        )
        select *, count(*) over () as total from rows where {where or "true"}
        order by gene nulls last, antibody, slide limit {_ROWS} offset ?"""
    with duckdb.connect(str(root.store), read_only=True) as store:
        rows = store.sql(statement, params=[*words, first]).to_arrow_table().to_pylist()
    return rows, rows[0]["total"] if rows else 0


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError as error:
        raise MissingInput(f"There is no table {path.parent.name}/{path.name}: materialize it.") from error


def _whole(request: Request, name: str, default: int | None = None) -> int:
    text = request.query_params.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadSetting(f"{name} is {text[:40]!r}: give an integer.")
    return int(text)


def _between(text: str, tag: str) -> str:
    return text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
