"""The hold-out set of nucleus networks: patches of annotated cases, and the scores of a version on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.metrics.panoptic import nucleus_values
from dermatome.nuclei.maps.evaluate import check_stain, evaluate_patches
from dermatome.nuclei.maps.figures import samples_figure
from dermatome.nuclei.maps.network import load_nucleus_weights
from dermatome.nuclei.maps.segment import prepare_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.patches.files import load_patches, patch_manifest_rows
from dermatome.registry.manifest import ManifestRow
from dermatome.slides.preview import preview
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import Scalar

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute


def nucleus_rows(folders: Sequence[Path]) -> list[ManifestRow]:
    """Manifest rows of the patches in folders of the hold-out set."""
    return patch_manifest_rows(load_patches(*folders), "hold_out")


def score_nuclei_version(
    weights: Path, samples: Sequence[Path], folder: Path, *, version: str, compute: Compute, settings: NucleusSettings
) -> dict[str, Scalar]:
    """Scores of a version on the images that the patches of the hold-out set are cut from.

    File: `samples.png`.

    Raises:
        BadSetting: the stain of the patches is normalised and that of the training patches was not, or the reverse.
    """
    loaded, patches = load_nucleus_weights(weights), load_patches(*samples)
    check_stain(version, loaded, patches)
    network = prepare_nuclei(loaded, dataclasses.replace(compute, backend="torch"), settings)
    scales = {mpp: [patch for patch in patches if patch.mpp == mpp] for mpp in {patch.mpp for patch in patches}}
    scores = [image for mpp in sorted(scales) for image in evaluate_patches(scales[mpp], network, mpp, settings)]
    figure = samples_figure(patches, network, patches[0].mpp, settings)
    write_atomic(folder / "samples.png", figure)
    write_atomic(folder / PREVIEW_FILE, preview(figure))
    return dict(nucleus_values(scores))
