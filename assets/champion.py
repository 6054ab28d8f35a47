"""Champions: the version of a kind of network that is in use, recorded as an unpartitioned asset."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import record_metadata
from dermatome.storage.layout import CHAMPION, RECORD_FILE, DataRoot
from dermatome.storage.record import StageRecord, StageResult, fingerprint, write_record

if TYPE_CHECKING:
    from dermatome.registry.champion import Choice
    from dermatome.registry.model_kinds import ModelKind


def record_champion(
    context: dg.AssetExecutionContext, root: DataRoot, kind: "ModelKind", choice: "Choice", config: Mapping[str, Any]
) -> dg.MaterializeResult:
    """Writes the champion's record; its data version is the sha256 of its weights.

    Args:
        context: of the asset.
        root: the data root.
        kind: of network.
        choice: the version, and why.
        config: the run config.
    """
    folder = root.folder(kind.champion, CHAMPION)
    inputs = {kind.weights: choice.weights_sha256}
    result = StageResult(outcome="chosen", data_version=choice.weights_sha256[:32], values=vars(choice))
    record = StageRecord(
        asset=kind.champion,
        partition=CHAMPION,
        fingerprint=fingerprint("1", inputs, config),
        code_version="1",
        inputs=inputs,
        settings=dict(config),
        run_id=context.run_id,
        **vars(result),
    )
    write_record(folder / RECORD_FILE, record)
    return dg.MaterializeResult(
        metadata=record_metadata(record, folder, reused=False), data_version=dg.DataVersion(record.data_version)
    )
