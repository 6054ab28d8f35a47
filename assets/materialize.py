"""Materializes one partition in a run, and has what all assets share: the metadata of records, checks and failures.

Belongs here: the record, failure file and metadata of any asset. Runs over many slides are in `assets.slide_asset`.
"""

import json
import traceback
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg

from dermatome.errors import DermatomeError, StorageFailed
from dermatome.settings import Settings, deciding_settings, load_settings
from dermatome.storage.files import atomic_folder
from dermatome.storage.layout import CHAMPION, PREVIEW_FILE, RECORD_FILE, DataRoot
from dermatome.storage.record import (
    Check,
    StageRecord,
    StageResult,
    clear_failure,
    file_facts,
    write_failure,
    write_record,
)
from resources.settings import decided_names

RESULTS_URL = "/results"
"""Path at which the web server of `make ui` serves figures and reports of the data root."""
GENES_URL = "/genes"
"""Path at which it serves the list of genes by symbol; descriptions of assets link to it."""


def materialize_one(
    context: dg.AssetExecutionContext,
    root: DataRoot,
    *,
    make: Callable[[Path], StageResult],
    inputs: Mapping[str, str],
    settings: Mapping[str, Any],
    more: Callable[[Path], Mapping[str, Any]] = lambda folder: {},
    warn: Callable[[StageResult], bool] = lambda result: False,
) -> dg.MaterializeResult:
    """Materializes one partition: ``make`` fills an empty folder, which then replaces the partition's folder.

    Args:
        context: of the asset; an unpartitioned asset has one folder, named :data:`CHAMPION`.
        root: the data root.
        make: writes the files into the folder it is given.
        inputs: data version of each input.
        settings: settings that decide the result.
        more: returns further metadata from the finished folder.
        warn: whether failed checks of this result are warnings instead of errors.
    """
    partition = context.partition_key if context.has_partition_key else CHAMPION
    asset, version, run_id = context.asset_key.to_user_string(), code_version(context), context.run.run_id
    try:
        with atomic_folder(root.folder(asset, partition)) as folder:
            result = make(folder)
            record = StageRecord.of(
                result, code_version=version, inputs=inputs, settings=settings,
                asset=asset, partition=partition, run_id=run_id, files=file_facts(folder),
            )  # fmt: skip
            write_record(folder / RECORD_FILE, record)
        folder = root.folder(asset, partition)
        metadata = {**record_metadata(record, folder, reused=False), **more(folder)}
    except Exception as error:
        note_failure(context, root, asset, partition, error)
        raise
    clear_failure(root.failure(asset, partition))
    severity = dg.AssetCheckSeverity.WARN if warn(result) else dg.AssetCheckSeverity.ERROR
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(record.data_version),
        check_results=[dg.AssetCheckResult(**check_fields(check, severity)) for check in record.checks],
    )


CODE_VERSION = "code_version"
"""Metadata key of the code version of an asset that users materialize, so that Dagster never calls it stale."""


def code_version(context: dg.AssetExecutionContext) -> str:
    """The asset's code version, which includes a hash of the settings that decide its results."""
    asset, key = context.assets_def, context.asset_key
    return asset.code_versions_by_key[key] or str(asset.metadata_by_key[key][CODE_VERSION])


def deciding(context: dg.AssetExecutionContext, settings: Settings, root: DataRoot) -> dict[str, Any]:
    """The settings that decide the asset's results, as its declaration names them."""
    return deciding_settings(settings, decided_names(context.assets_def.metadata_by_key[context.asset_key]), root)


def code_reference(function: Callable[..., Any]) -> dict[str, dg.CodeReferencesMetadataValue]:
    """Metadata that links an asset in the UI to the source of ``function``, if another function declares the asset."""
    code = function.__code__
    place = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno)
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[place])}


def check_fields(check: Check, severity: dg.AssetCheckSeverity) -> dict[str, Any]:
    """The outcome of a check as keyword arguments of a Dagster check result."""
    return {
        "check_name": check.name,
        "passed": check.passed,
        "severity": severity,
        "description": check.description,
        "metadata": check.values,
    }


def note_failure(
    context: dg.AssetExecutionContext, root: DataRoot, asset: str, partition: str, error: Exception
) -> dict[str, Any]:
    """Writes the failure file of a partition, and returns the metadata of its Dagster observation."""
    shown: dict[str, Any] = {"failure": error_text(error)}
    try:
        failure = write_failure(
            root.failure(asset, partition),
            asset=asset,
            partition=partition,
            error=shown["failure"],
            kind=type(error).__name__,
            run_id=context.run.run_id,
        )
        shown["tries"] = failure.tries
    except StorageFailed as unwritten:
        # Most likely a full disk: the event log still shows the failure, and other partitions are still tried.
        context.log.error(f"The failure of {partition} could not be recorded: {unwritten}")
    return shown


def record_metadata(record: StageRecord, folder: Path, *, reused: bool, more: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Metadata of a materialization: outcome and scores first; what they were computed with is under ``details``."""
    from dermatome.web.atlas.places import place_of

    shown: dict[str, Any] = {"outcome": dg.MetadataValue.text(record.outcome)}
    if record.message:
        shown["message"] = dg.MetadataValue.text(record.message)
    shown |= more
    url = f"{RESULTS_URL}/{quote(f'{folder.parent.name}/{folder.name}')}"
    if (folder / PREVIEW_FILE).is_file():  # not every asset has one
        # By address: inside the event it would be shown only after a click, and take more space than all else.
        shown["preview"] = dg.MetadataValue.md(f"![preview]({url}/{PREVIEW_FILE})")
    if place := place_of(record.asset, record.partition):
        web_url = load_settings(DataRoot(folder.parent.parent).settings).platform.web_url
        shown["atlas"] = dg.MetadataValue.url(f"{web_url}{place}")
    for file in sorted((*folder.glob("*.html"), *folder.glob("*.png"))):
        shown[file.name] = dg.MetadataValue.url(f"{url}/{file.name}")
    ranked = {name: _rank(name) for name, value in record.values.items() if value is not None}
    for name in sorted((name for name in ranked if ranked[name] < _HIDDEN), key=ranked.__getitem__):
        shown[name] = _shown(record.values[name])
    hidden = {name: record.values[name] for name, rank in ranked.items() if rank == _HIDDEN}
    seconds = {name: round(value, 3) for name, value in record.seconds.items()}
    details = {
        "settings": record.settings,
        "inputs": record.inputs,
        "technical": hidden,
        "seconds": seconds,
        "libraries": record.libraries,
    }
    shown |= {
        # The UI hides Markdown of 1,000 characters or more behind a click; it shows shorter Markdown and JSON at once.
        "details": dg.MetadataValue.md(f"```json\n{json.dumps(details, indent=1)}\n```".ljust(1000)),
        "folder": dg.MetadataValue.path(str(folder)),
        "reused": dg.MetadataValue.bool(reused),
    }
    return shown


_TECHNICAL = (
    "*sha256", "device", "precision", "backend", "resumed", "seed", "crop_*_px", "i0_*", "http_status", "*bytes",
    "file", "location", "grey_spread", "pages_read",
)  # fmt: skip
_ORIGIN = (
    "weights", "synthetic", "mpp", "*_mpp", "mpp_source", "diameter_source", "height_px", "width_px", "epochs", "steps",
    "encoder", "initial_weights", "loss", "parent", "validation", "one_slide_only", "licence", "attribution",
    "page_url", "release", "stain",
)  # fmt: skip
_HIDDEN = 2


def _rank(name: str) -> int:
    """Sort key of a value: results come first, then what they were computed from, then technical details."""
    if any(fnmatchcase(name, pattern) for pattern in _TECHNICAL):
        return _HIDDEN
    return int(any(fnmatchcase(name, pattern) for pattern in _ORIGIN))


def partition_url(asset: str, partition: str) -> dg.MetadataValue:
    """A link to the page of a partition of an asset in the UI."""
    # Without `view`, the UI shows the latest materialization of any partition.
    return dg.MetadataValue.url(f"/assets/{asset}?view=partitions&partition={quote(partition)}")


def _shown(value: object) -> object:
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return dg.MetadataValue.url(value)
    if isinstance(value, float):
        return round(float(value), 6)
    return value if isinstance(value, int | str) else str(value)  # such as numpy's integers


def error_text(error: Exception) -> str:
    """The text of a failure: the message of an error that a user can act on, the traceback of any other error."""
    if isinstance(error, DermatomeError):
        return str(error)
    return "".join(traceback.format_exception(error))[-4000:]
