"""What the Dagster UI shows of a record, and the tags that let Dagster tell what is stale."""

import base64
import traceback
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from dermatome.errors import DermatomeError, MissingInput
from dermatome.storage.files import read_bytes
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import StageRecord

_VERSION_TAGS = (
    "dagster/code_version",
    "dagster/data_version",
    "dagster/input_data_version/",
    "dagster/input_event_pointer/",
)


def record_metadata(record: StageRecord, folder: Path, *, reused: bool) -> dict[str, dg.MetadataValue]:
    """Everything a person or a query may ask of one materialization.

    Args:
        record: what was made.
        folder: where it lies.
        reused: whether it was there already; the event of its making has its preview, and another would only fill
            Dagster's storage.
    """
    shown: dict[str, dg.MetadataValue] = {"outcome": dg.MetadataValue.text(record.outcome)}
    if record.message:
        shown["message"] = dg.MetadataValue.text(record.message)
    if not reused and (preview := _preview(folder)):
        encoded = base64.b64encode(preview).decode()
        shown["preview"] = dg.MetadataValue.md(f"![preview](data:image/webp;base64,{encoded})")
    for name, value in record.values.items():
        shown[name] = _scalar(value)
    shown |= {
        "inputs": dg.MetadataValue.json(record.inputs),
        "settings": dg.MetadataValue.json(record.settings),
        "seconds": dg.MetadataValue.json({name: round(value, 3) for name, value in record.seconds.items()}),
        "libraries": dg.MetadataValue.json(record.libraries),
        "folder": dg.MetadataValue.path(str(folder)),
        "reused": dg.MetadataValue.bool(reused),
    }
    return shown


def _preview(folder: Path) -> bytes | None:
    try:
        return read_bytes(folder / PREVIEW_FILE)
    except (MissingInput, FileNotFoundError):  # not every asset has one
        return None


def _scalar(value: object) -> dg.MetadataValue:
    if value is None:
        return dg.MetadataValue.null()
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(round(value, 6))
    return dg.MetadataValue.text(str(value))


def error_text(error: Exception) -> str:
    """What a failure says: the sentence of an error that a user can act on, the traceback of any other."""
    if isinstance(error, DermatomeError):
        return str(error)
    return "".join(traceback.format_exception(error))[-4000:]


def version_tags(record: StageRecord, pointers: Mapping[str, int | None]) -> dict[str, str]:
    """The tags Dagster itself would put on an Output's event; an event we yield for one partition must carry its own.

    Args:
        record: what was made.
        pointers: for each upstream asset, the storage id of the event that was current when its files were read;
            Dagster looks for newer ones of a partitioned input from there.
    """
    tags = {
        "dagster/code_version": record.code_version,
        "dagster/data_version": record.data_version,
        "dagster/data_version_is_user_provided": "true",
    }
    for name, pointer in pointers.items():
        tags[f"dagster/input_data_version/{name}"] = record.inputs[name]
        tags[f"dagster/input_event_pointer/{name}"] = "NULL" if pointer is None else str(pointer)
    return tags


def kept_version_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of an event's tags that :func:`version_tags` gave it, for one that reports the same result again."""
    return {name: value for name, value in tags.items() if name.startswith(_VERSION_TAGS)}
