"""Finds stale results: those that a run would recompute, as settings, code, inputs or weights have changed."""

from collections.abc import Callable, Mapping
from typing import Any

from dermatome.errors import DermatomeError, StorageFailed
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import StageRecord, fingerprint, read_record

InputsNow = Callable[[StageRecord], Mapping[str, str]]
"""Returns, for a record, the present versions of inputs that are not upstream results of the same key."""


def stale_partitions(
    root: DataRoot,
    asset: str,
    code_version: str,
    settings: Mapping[str, Any],
    inputs_now: InputsNow | None = None,
) -> dict[str, str]:
    """The partitions of an asset that a run would recompute, each with a description of what changed.

    Only records are read, and what ``inputs_now`` reads: a run also finds files that are missing or damaged.

    ``inputs_now`` returns the versions of inputs that are neither partitions of the same key nor champions: an image, a
    weights file, the slides of a gene. Inputs that it omits count as unchanged.
    """
    champions: dict[str, str | None] = {}
    stale: dict[str, str] = {}
    for key in root.partitions(asset):
        try:
            record = read_record(root.record(asset, key))
        except StorageFailed:
            stale[key] = "its record is damaged"
            continue
        if record is None:
            continue
        for upstream in record.inputs:
            if upstream not in champions:
                champions[upstream] = _version(root, upstream, CHAMPION)
        now = {name: _version(root, name, key) or champions[name] or then for name, then in record.inputs.items()}
        try:
            now |= inputs_now(record) if inputs_now is not None else {}
        except DermatomeError as error:
            stale[key] = str(error)
            continue
        changed = [name for name, then in record.inputs.items() if now[name] != then]
        if changed:
            stale[key] = f"changed: {', '.join(changed)}"
        elif record.fingerprint != fingerprint(code_version, record.inputs, settings):
            stale[key] = "changed: settings or code"
    return stale


def _version(root: DataRoot, asset: str, partition: str) -> str | None:
    """Data version of a partition; None if it is not materialized."""
    try:
        record = read_record(root.record(asset, partition))
    except StorageFailed:
        return None
    return None if record is None else record.data_version
