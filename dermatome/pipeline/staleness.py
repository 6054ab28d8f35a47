"""Which results are stale: a run would compute them again, as settings, code, inputs or weights are others now."""

from collections.abc import Callable, Mapping
from typing import Any

from dermatome.errors import DermatomeError, StorageFailed
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import StageRecord, fingerprint, read_record

InputsNow = Callable[[StageRecord], Mapping[str, str]]
"""Gives the present versions of inputs of a partition that are not its upstream results of the same key."""


def stale_partitions(
    root: DataRoot,
    asset: str,
    code_version: str,
    settings: Mapping[str, Any],
    inputs_now: InputsNow | None = None,
) -> dict[str, str]:
    """Partitions of an asset that a run would compute again, each with what changed since they were computed.

    Only records are read, and what ``inputs_now`` reads: files that are missing or damaged are found by a run.

    ``inputs_now`` gives inputs that are neither partitions of the same key nor champions: an image, a weights file, the
    slides of a gene. Those that it leaves out count as unchanged.
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
    """Data version of a partition; None if there is none."""
    try:
        record = read_record(root.record(asset, partition))
    except StorageFailed:
        return None
    return None if record is None else record.data_version
