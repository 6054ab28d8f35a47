"""Training versions of a data root, put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dermatome.comparison import comparison_html, read_version
from dermatome.data_root import CHAMPION, DataRoot
from dermatome.files import sha256_bytes, write_whole
from dermatome.stage_record import StageResult, read_record

COMPARISON_FILE = "comparison.html"


def compare_versions(root: DataRoot, versions: Sequence[str], folder: Path) -> StageResult:
    """Writes `comparison.html` of these versions into ``folder``.

    Raises:
        MissingInput: there are none, or one is not trained.
    """
    read = []
    for version in versions:
        with root.local("tissue_weights", version) as files:
            read.append(read_version(files))
    champion = read_record(root.record("tissue_champion", CHAMPION))
    page = comparison_html(read, str(champion.values["version"]) if champion else None).encode()
    write_whole(folder / COMPARISON_FILE, page)
    return StageResult(
        outcome="compared",
        data_version=sha256_bytes(page)[:32],
        values={"versions": ", ".join(versions), "bytes": len(page)},
    )
