"""Training versions of a data root, put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dermatome.classes import TISSUE_LABELS
from dermatome.registry.promotion import hold_out_record
from dermatome.reports.comparison import comparison_html, read_version
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import Scalar, StageResult, read_record

COMPARISON_FILE = "comparison.html"


def compare_versions(root: DataRoot, versions: Sequence[str], folder: Path) -> StageResult:
    """Writes `comparison.html` of these versions into ``folder``.

    Raises:
        MissingInput: there are none, or one is not trained.
    """
    read = []
    for version in versions:
        files = root.folder("tissue_weights", version)
        read.append(read_version(files))
    champion = read_record(root.record("tissue_champion", CHAMPION))
    scored = {version: record for version in versions if (record := hold_out_record(root, version)) is not None}
    hold_out = {
        version: {label: _number(record.values.get(f"iou_{label}")) for label in TISSUE_LABELS}
        for version, record in scored.items()
    }
    page = comparison_html(read, str(champion.values["version"]) if champion else None, hold_out).encode()
    write_atomic(folder / COMPARISON_FILE, page)
    return StageResult(
        outcome="compared",
        data_version=sha256_bytes(page)[:32],
        values={"versions": ", ".join(versions), "bytes": len(page)},
    )


def _number(value: Scalar) -> float | None:
    return value if isinstance(value, float) else None
