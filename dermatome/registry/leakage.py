"""Finds leakage between training and test samples: the same patients, slides, files or pictures on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dermatome.registry.lineage import Lineage
from dermatome.registry.manifest import THUMBNAIL_PX, ManifestRow
from dermatome.storage.record import Check

SAME_ABOVE = 0.7
"""Correlation of two thumbnails' detail above which samples count as the same picture.
Measured on 14 real tiles (PAS) and 24 synthetic ones: recompressed, darkened, restained, turned or halved copies have
1.0; different places at most 0.09 (real) and 0.46 (synthetic), and 236 patches of six H&E images at most 0.25. A copy
shifted by 1/64 of its side has 0.65 to 0.8; one shifted further is only found by its slide or patient."""
_FLAT_GREY = 1.5
"""Samples with less detail than this (standard deviation, grey values) are empty background, and always similar."""
_SHOWN = 5


@dataclass(frozen=True)
class Leak:
    """A training sample and a test sample that belong on the same side of the split.

    Attributes:
        learnt: the training sample, with the ancestor's name before it if an ancestor was trained on it.
    """

    learnt: str
    tested: str
    why: str


def find_leaks(rows: Sequence[ManifestRow], ancestors: Mapping[str, Sequence[ManifestRow]] | None = None) -> list[Leak]:
    """Finds all pairs of a training sample and a test sample that share patient, slide, file or picture.

    ``rows`` are the samples of the version and of the hold-out set. Training samples of ``ancestors``, the versions it
    is fine-tuned from, count as its own.

    Returns:
        At most one leak for each test sample and reason.
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


def check_leakage(
    rows: Sequence[ManifestRow], hold_out: Sequence[ManifestRow] = (), lineage: Lineage | None = None
) -> Check:
    """The check ``no_leakage`` of a training version.

    Of an ancestor without a manifest, the training samples are known only by the groups in its card.
    """
    tested = [row for row in (*rows, *hold_out) if row.side != "train"]
    leaks = find_leaks([*rows, *hold_out], lineage.ancestors if lineage else None)
    unknown = lineage is not None and not lineage.all_known
    if lineage is not None:
        found = {leak.tested for leak in leaks}
        groups = set(lineage.weights.card.created_from)
        leaks += [
            Leak(lineage.name, row.name, f"the patient or slide {row.group}")
            for row in tested
            if row.group in groups and row.name not in found
        ]
    touched = {leak.tested for leak in leaks}
    if not tested:
        text = "Nothing is held out, so nothing can leak, and there are no scores."
    elif leaks:
        examples = "; ".join(f"{leak.tested} and {leak.learnt} share {leak.why}" for leak in leaks[:_SHOWN])
        text = (
            f"{len(touched)} of {len(tested)} samples that it is scored on were not hidden from training, so its "
            f"scores are too good: {examples}."
        )
    else:
        text = f"None of the {len(tested)} samples that it is scored on was in training, nor their slides or patients."
    if unknown:
        text += " It is fine-tuned from weights whose training samples are not all known."
    return Check("no_leakage", not leaks, text, {"leaks": len(leaks), "tested": len(tested), "leaking": len(touched)})


def one_slide_only(rows: Sequence[ManifestRow]) -> bool:
    """Whether all samples are of one slide, so that no split can keep the slide out of training."""
    return len({row.group for row in rows if row.side != "hold_out"}) == 1


def _near_identical(learnt: Sequence[tuple[str, ManifestRow]], tested: Sequence[ManifestRow]) -> Iterator[Leak]:
    known = [(where + row.name, detail) for where, row in learnt if (detail := _detail(row)) is not None]
    if not known:
        return
    matrix = np.stack([detail.ravel() for _, detail in known])  # (T, 1024), a row for each training sample
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
    """(32, 32) float32 of unit norm and zero mean: the thumbnail without its large light and dark areas."""
    import cv2

    grey = np.frombuffer(row.thumbnail, np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX).astype(np.float32)
    detail: npt.NDArray[np.float32] = grey - cv2.GaussianBlur(grey, (0, 0), 2.0)
    detail -= detail.mean()
    if detail.std() < _FLAT_GREY:
        return None
    return detail / np.float32(np.linalg.norm(detail))
