"""Training of nuclei from folders of patches: which are learnt from, and which are held out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermatome.errors import BadSetting
from dermatome.nuclei.maps.training_settings import NucleusTraining
from dermatome.nuclei.patches.cut import split_patches
from dermatome.nuclei.patches.files import Patch, load_patches
from dermatome.training.weights import LoadedWeights


@dataclass(frozen=True)
class PatchSplit:
    """Patches to train and to validate on, and in words how they were told apart."""

    train: tuple[Patch, ...]
    validation: tuple[Patch, ...]
    how: str


def choose_patches(
    folders: Sequence[Path],
    validation_folders: Sequence[Path],
    settings: NucleusTraining,
    parent: LoadedWeights | None = None,
) -> PatchSplit:
    """The patches in folders; where their manifests do not say which are held out, whole patients are drawn.

    Args:
        folders: of patches to train on.
        validation_folders: of patches to validate on; without any, a share of the first is held out.
        settings: share, seed and scale.
        parent: the weights it goes on from; whom those were trained on cannot validate it.

    Raises:
        MissingInput: a folder has no patches.
        BadAnnotation: a manifest is damaged.
        BadSetting: there is one patient only, or none that the parent did not learn from, the patches are not of the
            settings' scale, or some are normalised only.
    """
    patches = load_patches(*folders)
    held = load_patches(*validation_folders) if validation_folders else []
    _check_alike([*patches, *held], settings.mpp)
    learnt = parent.card.created_from if parent else ()
    if held:
        _check_unseen(held, learnt)
        return PatchSplit(tuple(patches), tuple(held), "patches were given for it")
    if any(patch.row.side for patch in patches):
        rows, how = [patch.row for patch in patches], "as the manifest of the patches says"
    else:
        rows, how = split_patches([patch.row for patch in patches], settings.validation_share, settings.seed, learnt)
    held_out = {row.name for row in rows if row.side == "validation"}
    validation = tuple(patch for patch in patches if patch.name in held_out)
    _check_unseen(validation, learnt)
    return PatchSplit(tuple(patch for patch in patches if patch.name not in held_out), validation, how)


def _check_unseen(validation: Sequence[Patch], learnt: Collection[str]) -> None:
    seen = sorted({patch.case for patch in validation}.intersection(learnt))
    if seen:
        raise BadSetting(
            f"{len(seen)} patients are held out that the weights it goes on from were trained on, {seen[0]} for one, "
            "so its scores would be too good: hold out others, or start from scratch."
        )


def _check_alike(patches: Sequence[Patch], mpp: float) -> None:
    other = [patch for patch in patches if not 0.8 <= patch.row.mpp / mpp <= 1.25]
    if other:
        raise BadSetting(
            f"{len(other)} patches have another scale than {mpp:g} µm per pixel, {other[0].name} {other[0].row.mpp:g}: "
            "set mpp to theirs, or leave them out."
        )
    normalised = [patch.normalised for patch in patches]
    if len(set(normalised)) > 1:
        raise BadSetting(
            f"{sum(normalised)} of {len(patches)} patches are of images whose stain was normalised: cut all with "
            "normalise_stain, or all without."
        )
