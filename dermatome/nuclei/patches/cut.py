"""Training patches of nuclei: cut from annotated images, and split by patient."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, NUCLEUS_LABELS, TERNARY_LABELS, NucleusClass, RgbImage
from dermatome.errors import BadAnnotation
from dermatome.geometry import Box, Size
from dermatome.imaging.overlay import draw_borders, tint
from dermatome.imaging.stain_normalisation import AS_IT_IS, fit_slide
from dermatome.labels.annotation_files import in_words
from dermatome.labels.drawn_maps import NucleusMaps
from dermatome.nuclei.patches.annotated import Annotated, AnnotatedImage, annotated_images, read_annotated
from dermatome.nuclei.patches.files import Patch, patches_sha256, write_manifest
from dermatome.nuclei.patches.settings import PatchSettings
from dermatome.reports.figures import SAMPLES_SHOWN, png_bytes, preview_samples
from dermatome.slides.slide import Slide
from dermatome.storage.files import safe_id, write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import StageResult
from dermatome.training.data import split_samples


def make_patches(case: Path, folder: Path, settings: PatchSettings) -> StageResult:
    """Cuts all annotated images of a case into ``folder``.

    Raises:
        MissingInput: there is no annotated image.
        BadImage: an image cannot be read.
        BadAnnotation: an annotation cannot be read or does not fit its image.
    """
    images = annotated_images(case)
    patches, left_out = cut_case(images, folder, settings)
    write_manifest(folder, patches)
    pixels = {kind: sum(patch.semantic_px[kind] for patch in patches) for kind in list(NucleusClass)[1:]}
    shares = {kind: count / max(1, sum(pixels.values())) for kind, count in pixels.items()}
    if patches:
        fullest = sorted(patches, key=lambda patch: -patch.nuclei)[:SAMPLES_SHOWN]
        shown = [_drawn(patch) for patch in fullest]
        facts = [(f"{kind.label} {share:.0%}", kind.colour) for kind, share in shares.items()]
        counted = f"{len(patches)} patches of {len(images)} images; nuclei by area:"
        write_atomic(folder / PREVIEW_FILE, preview_samples(shown, case.name, [counted, *facts]))
    return StageResult(
        outcome="patches" if patches else "no_foreground",
        data_version=patches_sha256(patches)[:32],
        message=one_class(images, patches) if patches else f"No patch of {case.name} has enough pixels in nuclei.",
        values={
            "patches": len(patches),
            "images": len(images),
            **{f"{kind.label}_share_of_nuclei": share for kind, share in shares.items()},
            "patients": ", ".join(sorted({patch.case for patch in patches})) or None,
            **{f"{label}_px": sum(patch.semantic_px[n] for patch in patches) for n, label in enumerate(NUCLEUS_LABELS)},
            "ignored_px": sum(patch.ignored_px for patch in patches),
            "stain": ", ".join(sorted({patch.stain for patch in patches})) or None,
            "left_out": left_out or None,
        },
    )


def _drawn(patch: Patch) -> RgbImage:
    rgb, maps = patch.read()
    semantic = np.where(maps[..., 0] < len(NUCLEUS_LABELS), maps[..., 0], 0)
    return draw_borders(tint(rgb, semantic, [kind.colour for kind in NucleusClass]), patch.instances())


def one_class(images: Sequence[AnnotatedImage], patches: Sequence[Patch]) -> str:
    """A sentence if class images hold but 0 and 1, which masks of any nucleus do too; else empty."""
    if not any(image.classes for image in images) or any(any(patch.semantic_px[2:]) for patch in patches):
        return ""
    return (
        f"The class images hold no class but 1, so every nucleus counts as {NUCLEUS_LABELS[1]}: if they are masks of "
        "any nucleus, put them into nuclei/."
    )


def cut_case(
    images: Sequence[AnnotatedImage], folder: Path, settings: PatchSettings, mpp_given: bool = False
) -> tuple[list[Patch], str]:
    """Cuts annotated images into ``folder``; a small image makes one patch, mirrored beyond its edges.

    ``mpp_given`` means that a person declared the scale, which then overrides a stated objective.

    Returns:
        The patches, and in words which objects of the annotations are left out, such as ``2 × Point``.

    Raises:
        BadImage: an image cannot be read.
        BadAnnotation: an annotation cannot be read, does not fit, or has more nuclei than patches can number.
    """
    patches: list[Patch] = []
    left_out: Counter[str] = Counter()
    for image in images:
        read = read_annotated(image, settings.declared_mpp, settings.boundary_px, mpp_given=mpp_given)
        patches += _cut_image(image, read, folder, settings)
        left_out.update(read.maps.left_out)
    return patches, in_words(left_out)


def _cut_image(image: AnnotatedImage, read: Annotated, folder: Path, settings: PatchSettings) -> list[Patch]:
    if read.maps.instances.max() > np.iinfo(np.uint16).max:
        raise BadAnnotation(
            f"{image.image} has {read.maps.instances.max():,} nuclei, and patches number up to 65,535: cut the image "
            "into parts."
        )
    rgb, stain = read.rgb, AS_IT_IS
    if settings.normalise_stain:
        fit = fit_slide(Slide(image.name, rgb, read.mpp, read.mpp_source, ""))
        rgb, stain = fit.normalise(rgb), fit.outcome.value
    patches = []
    for box in Box.whole(Size(*rgb.shape[:2])).squares(settings.size_px, settings.stride_px):
        arrays = _cut(rgb, read.maps, box, settings.size_px)
        ternary = arrays["ternary"]
        if np.isin(ternary, (1, 2)).mean() < settings.least_foreground:
            continue
        name = safe_id(f"{image.name}_{box.top_px}_{box.left_px}", "The patch")
        digest = hashlib.sha256(stain.encode())
        for kind, array in arrays.items():
            digest.update(array.tobytes())
            write_atomic(folder / kind / f"{name}.png", png_bytes(array))
        patches.append(
            Patch(
                folder,
                name=name,
                case=image.patient,
                image=image.name,
                kind=image.kind,
                top_px=box.top_px,
                left_px=box.left_px,
                height_px=box.size.height_px,
                width_px=box.size.width_px,
                mpp=read.mpp,
                mpp_source=str(read.mpp_source),
                nuclei=np.setdiff1d(arrays["instances"], 0).size,
                semantic_px=_counts(arrays["semantic"], len(NUCLEUS_LABELS)),
                ternary_px=_counts(ternary, len(TERNARY_LABELS)),
                ignored_px=int((ternary == IGNORED).sum()),
                stain=stain,
                sha256=digest.hexdigest(),
                left_out=in_words(read.maps.left_out),
            )
        )
    return patches


def split_patches(
    patches: Sequence[Patch], share: float, seed: int, learnt: Collection[str] = ()
) -> tuple[list[Patch], str]:
    """Puts about ``share`` of the patches on the validation side, whole patients at a time.

    Patients in ``learnt``, which the weights to fine-tune were trained on, are never put there.

    Returns:
        The patches with their side, and in words how it was chosen.

    Raises:
        BadSetting: ``share`` is not in [0, 1), there is only one patient, or all of them are in ``learnt``.
    """
    split = split_samples(patches, share, seed, dict.fromkeys(learnt, "train"), noun="patches")
    held = {patch.name for patch in split.validation}
    sided = [replace(patch, side="validation" if patch.name in held else "train") for patch in patches]
    return sided, split.how + (", none that the weights before had learnt" if learnt and share else "")


def _cut(rgb: RgbImage, maps: NucleusMaps, box: Box, side: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a patch with a side of ``side`` px."""
    beyond = [(0, side - box.size.height_px), (0, side - box.size.width_px)]
    return {
        "rgb": np.pad(rgb[box.slices], [*beyond, (0, 0)], mode="symmetric"),
        "semantic": np.pad(maps.semantic[box.slices], beyond, constant_values=IGNORED),
        "ternary": np.pad(maps.ternary[box.slices], beyond, constant_values=IGNORED),
        "instances": np.pad(maps.instances[box.slices].astype(np.uint16), beyond),
    }


def _counts(values: npt.NDArray[np.uint8], classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(values.ravel(), minlength=classes)[:classes].tolist())
