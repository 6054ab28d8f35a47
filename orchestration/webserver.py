"""Dagster's web server behind the guard of :mod:`dermatome.web.guard`: ``python -m orchestration.webserver``.

It takes the options of ``dagster-webserver`` and ``--allow-host``. Dagster itself has no login and executes any GraphQL
query it receives, including mutations by GET, so any web page could change it through the browser of a user.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote_plus

import click
from dagster_webserver import cli
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.types import Scope

from assets.materialize import GENES_URL, RESULTS_URL
from dermatome.errors import StorageFailed
from dermatome.reports.html import template
from dermatome.skin.atlas.search import SCRIPT, SCRIPT_SOURCE
from dermatome.slides.register import read_sources
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import read_record
from dermatome.web.guard import Refusal, SiteGuard
from dermatome.web.results import Results

_MUTATION = re.compile(r"\bmutation\b")  # GraphQL requires this keyword


def main() -> None:
    """Runs the web server until it is interrupted."""
    command, serve, create_app = cli.cli, cli.cli.callback, cli.create_app_from_workspace_process_context
    command.params.append(
        click.Option(
            ["--allow-host"],
            multiple=True,
            help="Host name by which browsers reach the server, such as the name of this computer or of a proxy; "
            "may be repeated. --host, 127.0.0.1 and localhost are always allowed.",
        )
    )

    def serve_guarded(host: str, allow_host: Sequence[str], **options: Any) -> None:
        def create_guarded(*given: Any, **named: Any) -> SiteGuard:
            app = create_app(*given, **named)
            root = DataRoot.at(os.environ["DERMATOME_DATA"])
            results = Results(directory=root.path, check_dir=False)
            genes = Route(GENES_URL, lambda request: genes_page(root))
            app.router.routes[:0] = [Mount(RESULTS_URL, results), genes]
            return SiteGuard(app, [host, *allow_host], refused_mutation)

        cli.create_app_from_workspace_process_context = create_guarded
        serve(host=host, **options)

    command.callback = serve_guarded
    command(auto_envvar_prefix="DAGSTER_WEBSERVER")


def genes_page(root: DataRoot) -> HTMLResponse:
    """A searchable page of all genes by symbol, with links to their partitions, which Dagster finds only by key."""
    slides: dict[str, list[str]] = {}
    for source in read_sources(root.slide_sources).values():
        slides.setdefault(source.ensembl_id, []).append(source.slide)
    profiled, genes = set(root.partitions("gene_profiles")), []
    for ensembl_id in root.partitions("hpa_images"):
        try:
            record = read_record(root.record("hpa_images", ensembl_id))
        except StorageFailed:  # `dermatome verify` reports it
            continue
        symbol, shown = str(record.values["gene"]) if record else "", ensembl_id in profiled
        genes.append({"symbol": symbol, "id": ensembl_id, "card": shown, "slides": slides.get(ensembl_id, [])})
    genes.sort(key=lambda gene: str(gene["symbol"]))
    return HTMLResponse(
        template("genes.html.j2", "orchestration").render(genes=genes, script=SCRIPT),
        headers={
            "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src {SCRIPT_SOURCE}"
        },
    )


def refused_mutation(scope: Scope) -> Refusal | None:
    """Refuses a GraphQL mutation by GET: a link or an image on another site can make a browser request that address."""
    if scope["type"] != "http" or scope["method"] == "POST" or not scope["path"].rstrip("/").endswith("/graphql"):
        return None
    if _MUTATION.search(unquote_plus(scope["query_string"].decode("latin-1"))):
        return Refusal(405, "This server executes no GraphQL mutation by GET: send it by POST.")
    return None


if __name__ == "__main__":
    main()
