"""Records that stand in tests for those of a run."""

from typing import Any

from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageRecord, write_record


def record_of(asset: str, partition: str, **fields: Any) -> StageRecord:
    """A record with these fields; the others have values that no test looks at."""
    given = {"outcome": "made", "data_version": "v", "fingerprint": "f", "code_version": "1"}
    return StageRecord(
        asset=asset, partition=partition, **({"values": {}, "inputs": {}, "settings": {}} | given | fields)
    )


def put_record(root: DataRoot, asset: str, partition: str, **fields: Any) -> StageRecord:
    """Writes such a record to its place in a data root."""
    record = record_of(asset, partition, **fields)
    write_record(root.record(asset, partition), record)
    return record
