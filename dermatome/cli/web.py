"""The command of the web app."""

from __future__ import annotations

from typing import Annotated

import typer

from dermatome.cli.support import Threads


def web(
    data: Annotated[
        str, typer.Option(help="Data root: its settings, networks and annotated slides are used.")
    ] = "dermatome_data",
    host: Annotated[str, typer.Option(help="Address to listen on; there is no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name by which browsers reach the app, such as the name of this computer or of a proxy; repeat "
            "it for several. --host, 127.0.0.1 and localhost are always allowed."
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="Network of nuclei: a weights file, a version of nuclei_weights, or toy. Default: nuclei_champion, "
            "else settings.toml's nuclei_weights, else toy."
        ),
    ] = "",
    threads: Threads = 0,
) -> None:
    """Serve the web app: nuclei or skin layers of an image, and ROIs for training."""
    from dermatome.storage.layout import DataRoot
    from dermatome.web.app import serve

    root = DataRoot.at(data)
    shown = f"http://{host}:{port}"
    typer.echo(f"Dermatome's web app over {root.path}: {shown} (Ctrl-C ends it)")
    serve(root, host, port, allow_hosts=allow_host or (), weights=weights, threads=threads)
