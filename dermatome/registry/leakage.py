"""Whether what a version is tested on was hidden from its training: patients, slides, files, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.registry.manifest import THUMBNAIL_PX, ManifestRow
from dermatome.storage.record import Check

SAME_ABOVE = 0.7
"""Correlation of two thumbnails' detail from which tiles count as the same picture.

Measured on 14 real tiles (PAS) and 24 toys: recompressed, darkened, restained, turned or halved copies lie at 1.0;
different places at most at 0.09 (real) and 0.46 (toys). A copy shifted by a sixty-fourth of its side lies at 0.65 to
0.8; one shifted further is not found by its picture, only by its slide or patient."""
_FLAT_GREY = 1.5
"""Tiles with less detail than this (standard deviation, grey values) are empty glass: all look alike."""
_SHOWN = 5


@dataclass(frozen=True)
class Leak:
    """A tile that was trained on and one that is tested on, which should not be on two sides.

    Attributes:
        learnt: the tile that was trained on, with the ancestor's name before it where an ancestor was.
        tested: the tile that is validated, or of the hold-out set.
        why: what they share.
    """

    learnt: str
    tested: str
    why: str


def find_leaks(rows: Sequence[ManifestRow], ancestors: Mapping[str, Sequence[ManifestRow]] | None = None) -> list[Leak]:
    """Every pair of a tile trained on and a tile tested on that share patient, slide, file or picture.

    Args:
        rows: of the version's manifest, and of the hold-out set.
        ancestors: manifests of the versions it goes on from, by name: what they learnt is in its weights.

    Returns:
        At most one leak for a tile tested on and each reason.
    """
    learnt = [("", row) for row in rows if row.side == "train"]
    for name, theirs in (ancestors or {}).items():
        learnt += [(f"{name}: ", row) for row in theirs if row.side == "train"]
    tested = [row for row in rows if row.side != "train"]
    leaks: list[Leak] = []
    for what in ("patient", "slide", "image_sha256"):
        first = {str(getattr(row, what)): where + row.name for where, row in reversed(learnt) if getattr(row, what)}
        for row in tested:
            shared = str(getattr(row, what))
            if shared in first:
                why = "the same file" if what == "image_sha256" else f"the {what} {shared}"
                leaks.append(Leak(first[shared], row.name, why))
    same_file = {leak.tested for leak in leaks if leak.why == "the same file"}
    leaks += [leak for leak in _near_identical(learnt, tested) if leak.tested not in same_file]
    return leaks


def leakage_check(rows: Sequence[ManifestRow], leaks: Sequence[Leak], *, unknown_ancestor: bool = False) -> Check:
    """The verdict on ``leaks`` in a sentence.

    Args:
        rows: of the version's manifest.
        leaks: what :func:`find_leaks` found.
        unknown_ancestor: whether it goes on from weights of which nobody knows the tiles.
    """
    tested = {row.name for row in rows if row.side != "train"}
    touched = {leak.tested for leak in leaks}
    if not tested:
        text = "Nothing is held out, so nothing can leak: there are no scores either."
    elif leaks:
        examples = "; ".join(f"{leak.tested} and {leak.learnt} share {leak.why}" for leak in leaks[:_SHOWN])
        text = (
            f"{len(touched)} of {len(tested)} tiles that it is scored on were not hidden from training, so scores are "
            f"too good: {examples}."
        )
    else:
        text = f"None of the {len(tested)} tiles that it is scored on was seen in training, nor its slide or patient."
    if unknown_ancestor:
        text += " It goes on from weights whose own training tiles are not known."
    values: dict[str, Any] = {"leaks": len(leaks), "tiles_tested": len(tested), "tiles_leaking": len(touched)}
    return Check("no_leakage", not leaks, text, values)


def one_slide_only(rows: Sequence[ManifestRow]) -> bool:
    """Whether all tiles are of one slide, so that no split can hide it."""
    return len({row.group for row in rows if row.side != "hold_out"}) == 1


def _near_identical(learnt: Sequence[tuple[str, ManifestRow]], tested: Sequence[ManifestRow]) -> Iterator[Leak]:
    known = [(where + row.name, detail) for where, row in learnt if (detail := _detail(row)) is not None]
    if not known:
        return
    # (T, 1024): a row for each tile that was learnt.
    matrix = np.stack([detail.ravel() for _, detail in known])
    for row in tested:
        detail = _detail(row)
        if detail is None:
            continue
        turned = np.stack([np.rot90(side, k).ravel() for side in (detail, detail[:, ::-1]) for k in range(4)])
        alike = (turned @ matrix.T).max(axis=0)
        best = int(alike.argmax())
        if alike[best] >= SAME_ABOVE:
            yield Leak(known[best][0], row.name, f"their picture (correlation {alike[best]:.2f})")


def _detail(row: ManifestRow) -> npt.NDArray[np.float32] | None:
    """(32, 32) float32 of unit norm and no mean: what a tile shows beyond its large areas of light and dark."""
    import cv2

    grey = np.frombuffer(row.thumbnail, np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX).astype(np.float32)
    detail: npt.NDArray[np.float32] = grey - cv2.GaussianBlur(grey, (0, 0), 2.0)
    detail -= detail.mean()
    if detail.std() < _FLAT_GREY:
        return None
    return detail / np.float32(np.linalg.norm(detail))
