"""The command line: the same functions as the platform's, for files and folders.

A command continues after a bad file, prints the reason to the error stream in one sentence, and exits with code 1 if
anything failed. Heavy modules are imported only by the commands that need them, so that help is fast.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from dermatome import __version__
from dermatome.cli.export import export_app
from dermatome.cli.models import models_app
from dermatome.cli.nuclei import nuclei_app
from dermatome.cli.skin import cells_app, hpa_app, layers_app, tissue_app
from dermatome.cli.study import explain, replay
from dermatome.cli.support import GROUP, AsJson, Device, Threads, complain, unusable_file
from dermatome.errors import DermatomeError

EXIT_CODES = (
    "Exit codes: 0 success; 1 something failed, and the error stream states what; 2 wrong usage; 130 stopped with "
    "Ctrl-C. Results of images that were finished before are kept."
)

app = typer.Typer(
    name="dermatome",
    help="Measures images of tissue: skin layers and their stains, nuclei and their classes.",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    **GROUP,
)
app.add_typer(hpa_app, name="hpa")
app.add_typer(tissue_app, name="tissue")
app.add_typer(cells_app, name="cells")
app.add_typer(layers_app, name="layers")
app.add_typer(nuclei_app, name="nuclei")
app.add_typer(models_app, name="models")
app.add_typer(export_app, name="export")
app.command()(explain)
app.command()(replay)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dermatome {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options that precede the name of a command."""


def check_site(site: str) -> str:
    """Refuses text that is not the address of a site, as it becomes part of a header."""
    if site and not re.fullmatch(r"https://[A-Za-z0-9.-]+(:\d+)?", site):
        raise typer.BadParameter(f"{site} is not the address of a site: give one such as https://huggingface.co.")
    return site


@app.command()
def web(
    data: Annotated[
        str, typer.Option(help="Data root whose settings, networks and annotated slides are used.")
    ] = "dermatome_data",
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. The app has no login: keep the default, or use a proxy with a login."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; change it if it is taken.", min=1, max=65535)] = 7860,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name by which browsers reach the app, such as the name of this computer or of a proxy; "
            "repeatable. --host, 127.0.0.1 and localhost are always allowed."
        ),
    ] = None,
    frame_site: Annotated[
        str,
        typer.Option(
            help="Site whose pages may show the app in a frame, such as https://huggingface.co; by default none may.",
            callback=check_site,
        ),
    ] = "",
    weights: Annotated[
        str,
        typer.Option(
            help="Network for nuclei: a weights file, a version of nuclei_weights, or toy. By default the champion, "
            "else nuclei_weights of settings.toml, else toy."
        ),
    ] = "",
    threads: Threads = 0,
) -> None:
    """Serve the web app: the atlas of a data root, nuclei or skin layers of an image, and ROIs for training.

    Example: dermatome web --data dermatome_data --port 7860
    """
    from dermatome.storage.layout import DataRoot
    from dermatome.web.app import serve

    root = DataRoot.at(data)
    serve(
        root, host, port, allow_hosts=allow_host or (), frame_site=frame_site, weights=weights, threads=threads,
        report=typer.echo,
    )  # fmt: skip


@app.command()
def doctor(
    weights: Annotated[list[Path] | None, typer.Option(help="Weights file to check; repeatable.")] = None,
    models: Annotated[Path | None, typer.Option(help="Folder of Cellpose's files for cyto2, to check.")] = None,
    data: Annotated[
        str, typer.Option(help="Data root whose networks and disk are checked; it need not exist yet.")
    ] = "dermatome_data",
    network: Annotated[
        bool, typer.Option(help="Whether to test the connection to the Human Protein Atlas; switch it off if offline.")
    ] = True,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Check versions, device, weights, a data root's networks, disk and network, and print how to fix problems.

    Example: dermatome doctor --data dermatome_data --weights tissue.safetensors
    """
    from dermatome.cli.doctor import examine

    found = []
    for finding in examine(weights or [], data, models_folder=models, ask_network=network, device=device):
        found.append(vars(finding))
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.state]
        if not as_json:
            typer.echo(f"{typer.style(f'{finding.state:<5}', fg=colour)}{finding.topic:<10}{finding.message}")
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    if any(finding["state"] == "fail" for finding in found):
        raise typer.Exit(1)


@app.command()
def verify(
    data: Annotated[str, typer.Option(help="Data root to check; all its results are read.")] = "dermatome_data",
    as_json: AsJson = False,
) -> None:
    """Compare the files of all results with their records, and list missing and damaged ones.

    Example: dermatome verify --data dermatome_data --json
    """
    from dermatome.storage.layout import DataRoot
    from dermatome.storage.record import verify_root

    checked, damaged = 0, []
    for asset, partition, files in verify_root(DataRoot.at(data)):
        checked += 1
        if files:
            damaged.append({"asset": asset, "partition": partition, "files": files})
        for name, how in files.items():
            if not as_json:
                typer.echo(f"{asset:<18} {partition:<24} {name}: {how}")
    if as_json:
        typer.echo(json.dumps({"checked": checked, "damaged": damaged}, indent=1))
    else:
        typer.echo(f"{checked} partitions were checked, and {len(damaged)} are damaged.")
        if damaged:
            typer.echo("Materialize the damaged partitions in Dagster to compute them again.")
    if damaged:
        raise typer.Exit(1)


def main() -> None:
    """Runs the command line; an error that a user can fix is printed as one sentence, with exit code 1."""
    try:
        app()
    except DermatomeError as error:
        complain(str(error))
        sys.exit(1)
    except OSError as error:
        complain(unusable_file(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
