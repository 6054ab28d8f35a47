"""Generates the reference pages whose source is the code: command line, settings, data dictionary."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo

from dermatome.cli.app import EXIT_CODES, app
from dermatome.settings import Settings
from dermatome.storage.layout import DataRoot
from dermatome.storage.settings_model import Effect, SettingsModel
from dermatome.warehouse.dictionary import table_meaning
from dermatome.warehouse.store import build_store, describe_store

_ROLE = re.compile(r":(func|class|mod|meth|attr|data):(?=[`<])")
_CODE_OR_LESS = re.compile(r"(`+[^`]+`+)|<")
_EFFECTS = {
    Effect.SPEED: "changes speed only",
    Effect.LOOKS: "changes looks only",
    Effect.LIMIT: "a limit: decides what is refused or left out, not a number",
    Effect.PLATFORM: "changes only what Dagster shows, and when it runs things",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for name, lines in {"cli": _commands(), "settings": _settings(), "data-dictionary": _dictionary()}.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines)))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Removes what only Sphinx reads from docstrings, such as the role in ``:func:`name```."""
    return _ROLE.sub("", html)


def _commands() -> Iterator[str]:
    yield "# Command line\n"
    yield "The same functions as the platform, for files and folders. A command continues after a bad file and prints"
    yield "the reason to the error stream in one sentence; what `--json` or `--table -` prints is alone on the standard"
    yield "output."
    yield "`dermatome --install-completion` lets bash, zsh and fish complete commands and options.\n"
    yield f"{EXIT_CODES}\n"
    yield from _command(typer.main.get_command(app), "dermatome")


def _command(command: Any, name: str) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    if hasattr(command, "list_commands"):  # a group; `train` of each task is made on request
        for child in command.list_commands(context):
            yield from _command(command.get_command(context, child), f"{name} {child}")
        return
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {name}\n\n{(command.help or '').strip()}\n\n```console\n$ {name} {usage}\n```\n"
    rows = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    if rows:
        yield "| option | meaning |\n|---|---|"
        yield from (f"| <code>{_cell(names)}</code> | {_cell(meaning)} |" for names, meaning in rows)
        yield ""


def _settings() -> Iterator[str]:
    yield "# Settings\n"
    yield "`settings.toml` in the data root changes them; what is not there keeps its default. A setting that decides"
    yield "numbers makes the results of its assets stale when it changes; the others say what they change.\n"
    yield from _section(Settings, "")


def _section(model: type[SettingsModel], path: str) -> Iterator[str]:
    parsed = [griffe.Docstring(base.__doc__ or "").parse("google") for base in model.__mro__[::-1]]
    meanings = {
        attribute.name: attribute.description
        for sections in parsed
        for part in sections
        if part.kind is griffe.DocstringSectionKind.attributes
        for attribute in part.value
    }
    yield f"## {f'[{path}]' if path else 'At the top of the file'}\n"
    if path:
        yield f"{(model.__doc__ or '').strip().splitlines()[0]}\n"
    own = {name: field for name, field in model.model_fields.items() if not _is_section(field)}
    if own:
        yield "| setting | default | meaning |\n|---|---|---|"
    for name, field in own.items():
        effect = next((_EFFECTS[mark] for mark in field.metadata if isinstance(mark, Effect)), "")
        meaning = field.description or meanings.get(name, "")
        if not meaning:
            raise ValueError(f"The setting {path}.{name} has no description: add it to {model.__name__}.")
        default = field.get_default(call_default_factory=True)
        shown = f"<code>{_cell(str(default))}</code>" if default != "" else "empty"
        yield f"| `{name}` | {shown} | {_cell(meaning)}{f' ({effect})' if effect else ''} |"
    yield ""
    for name, field in model.model_fields.items():
        if _is_section(field):
            section: Any = field.annotation
            yield from _section(section, f"{path}.{name}".removeprefix("."))


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, SettingsModel)


def _dictionary() -> Iterator[str]:
    yield "# Data dictionary\n"
    yield "Tables and views of `metrics/dermatome.duckdb` in the data root, as the file itself describes them:"
    yield "`select comment from duckdb_columns() where table_name = 'layers'`. Units are in the names: `_px`, `_um`,"
    yield "`_um2`, `_mm2`, `_od` (optical density), `_share` (0 to 1).\n"
    with tempfile.TemporaryDirectory() as folder:
        store = build_store(DataRoot(Path(folder)))
        for table, described in sorted(describe_store(store.path).items()):
            yield f"## {table}\n\n{table_meaning(table)}\n\n| column | type | meaning |\n|---|---|---|"
            for name, kind, meaning in described.columns:
                yield f"| `{name}` | {_cell(kind.lower())} | {_cell(str(meaning))} |"
            yield ""


def _cell(text: str) -> str:
    """Markdown text for a cell of a table: one line, without bars, and with ``<`` escaped outside of code."""
    line = _ROLE.sub("", " ".join(text.split())).replace("|", "&#124;")
    return _CODE_OR_LESS.sub(lambda found: found[1] or "&lt;", line)
