"""The nuclei task: trains a U-Net with a semantic and a ternary head on patches of annotated images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from dermatome.classes import IGNORED, NUCLEUS_LABELS, TERNARY_LABELS, TernaryClass
from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.imaging.augmentation import AugmentSettings
from dermatome.inference.predictor import Predictor, Scene
from dermatome.metrics.panoptic import ImageScores, nucleus_values
from dermatome.metrics.semantic import ClassScore, Confusion, class_scores, confusion_matrix
from dermatome.nuclei.maps.evaluate import evaluate_patches
from dermatome.nuclei.maps.figures import samples_figure
from dermatome.nuclei.maps.losses import ImmuneSampling, NucleusLoss, make_nucleus_loss, ternary_weights
from dermatome.nuclei.maps.network import (
    BACKGROUND_CHANNELS,
    BEFORE_HEADS,
    CHANNELS,
    DECODER_CHANNELS,
    HEADS,
    SEMANTIC,
    TERNARY,
    NucleusCard,
    build_two_heads,
    load_nucleus_weights,
)
from dermatome.nuclei.maps.networks import TOY_WEIGHTS
from dermatome.nuclei.maps.report import CLASSES_FILE, INSTANCE_SCORES, NUCLEUS_REPORT
from dermatome.nuclei.maps.segment import prepare_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.patches.cut import split_patches
from dermatome.nuclei.patches.files import Patch, load_patches, patch_manifest_rows
from dermatome.registry.report import SAMPLES_FIGURE
from dermatome.registry.version import VersionTask
from dermatome.storage.files import sha256_bytes
from dermatome.training.data import Split, TileBatches
from dermatome.training.settings import EPOCHS_WITHOUT_LIMIT, UNetSettings
from dermatome.training.task import Parts
from dermatome.training.unet import drop_channels, to_batch
from dermatome.training.weights import LoadedWeights

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute
    from dermatome.registry.lineage import Lineage
    from dermatome.storage.record import Scalar
    from dermatome.training.encoder_weights import EncoderFile
    from dermatome.training.trainer import Trained

AUGMENT = AugmentSettings(scale=1.15, coarse_share=0.0, elastic_px=3.0)
"""Weaker deformations than for tissue, as stronger ones would destroy the boundary, which is three pixels wide."""
_SOURCE = {
    "encoder": "resnet34", "batch": 8, "learning_rate": 3e-4, "loss": NucleusLoss(boundary_weighting=True)
}  # fmt: skip
"""Settings of the source system that differ from the defaults."""
_TOGETHER = 64
"""Number of patches whose pixels are in memory at the same time during validation."""


class NucleusTraining(UNetSettings):
    """Settings of the nucleus network's training.

    The defaults scored best in ten minutes on two CPU cores (`docs/results.md`). ``recipe: source`` uses those of the
    source system instead, which also started from an encoder trained on ImageNet (``encoder_weights``).
    """

    recipe: Literal["default", "source"] = Field(
        default="default",
        description="Defaults of unset settings: default, or source for those of the source system.",
    )
    batch: int = Field(default=4, ge=2, description="Crops in a micro-batch; batch normalisation needs at least 2.")
    decoder_channels: tuple[int, ...] = Field(
        default=DECODER_CHANNELS, description="Channels of the five decoder blocks, coarsest first."
    )
    dropout: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of the decoder's last channels dropped in a step (Tompson et al., 2015).",
    )
    crop_px: int = Field(default=256, ge=32, multiple_of=32, description="Side of a crop of a patch, px.")
    weight_decay: float = Field(default=3e-4, ge=0, description="Weight decay of AdamW (Loshchilov and Hutter, 2019).")
    mpp: float = Field(default=0.25, gt=0, description="Microns per pixel of the patches.")
    validation_share: float = Field(
        default=0.2, ge=0, lt=1, description="Share of the patches held out, whole patients only."
    )
    augment: AugmentSettings = Field(default=AUGMENT, description="How crops differ from patches.")
    warmup_epochs: float = Field(
        default=5.0,
        ge=0,
        description="Epochs in which the learning rate rises; out of 40 if only a time limit ends the run.",
    )
    loss: NucleusLoss = Field(default=NucleusLoss(), description="Loss of the two heads.")
    sampling: ImmuneSampling = Field(default=ImmuneSampling(), description="Sampling of patches with immune cells.")
    inside_share: float = Field(default=0.7, ge=0, description="Weight of Dice of the inside in the score of an epoch.")
    boundary_share: float = Field(
        default=0.3, ge=0, description="Weight of Dice of the boundary in the score of an epoch."
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: dict[str, Any]) -> dict[str, Any]:
        return (_SOURCE if values.get("recipe") == "source" else {}) | values

    @model_validator(mode="after")
    def _some_score(self) -> Self:
        if self.inside_share + self.boundary_share == 0:
            raise ValueError("inside_share and boundary_share must not both be 0")
        return self

    @property
    def warm_share(self) -> float:
        """Share of the run in which the learning rate rises, at most half of it."""
        return min(0.5, self.warmup_epochs / (self.epochs or EPOCHS_WITHOUT_LIMIT))

    @property
    def keeps_best(self) -> bool:
        """The best epoch is kept, however the run ends."""
        return True


@dataclass(frozen=True)
class NucleusEvaluation:
    """Results of a network on validation patches; ignored pixels are not counted.

    Attributes:
        semantic: (5, 5) int64 confusion of pixels, ground truth in rows.
        ternary: (3, 3) int64 confusion of pixels, ground truth in rows.
        images: scores of nuclei on the images that the patches were cut from.
        samples: PNG of validation patches with their maps.
    """

    semantic: Confusion
    ternary: Confusion
    images: tuple[ImageScores, ...] = ()
    samples: bytes | None = None

    @property
    def classes(self) -> list[ClassScore]:
        """Scores of each :class:`~dermatome.classes.NucleusClass`."""
        return class_scores(self.semantic, NUCLEUS_LABELS)

    @property
    def parts(self) -> list[ClassScore]:
        """Scores of each :class:`~dermatome.classes.TernaryClass`."""
        return class_scores(self.ternary, TERNARY_LABELS)

    def columns(self, settings: NucleusTraining) -> dict[str, float | None]:
        """The score that chooses the best epoch, and IoU and Dice of every class."""
        found = {"score": self._score(settings)} | {f"iou_{score.label}": score.iou for score in self.classes}
        found |= {f"dice_{score.label}": score.f1 for score in self.classes}  # of pixels, Dice is F1
        return found | {f"ternary_dice_{score.label}": score.f1 for score in self.parts}

    def _score(self, settings: NucleusTraining) -> float | None:
        inside, boundary = (self.parts[part].f1 for part in (TernaryClass.INSIDE, TernaryClass.BOUNDARY))
        if inside is None or boundary is None:
            return None
        total = settings.inside_share + settings.boundary_share
        return (settings.inside_share * inside + settings.boundary_share * boundary) / total


@dataclass(frozen=True)
class NucleusTask(VersionTask[NucleusEvaluation]):
    """Patches and the U-Net with two heads that is trained on them; see :class:`dermatome.training.task.Task`."""

    settings: NucleusTraining
    split: Split[Patch]

    settings_class = NucleusTraining
    layout = NUCLEUS_REPORT
    rows = staticmethod(patch_manifest_rows)
    load = staticmethod(load_nucleus_weights)
    noun = "patches"
    parents = "a file or toy"
    best_by = "score"
    shown = {"score": "score", "ternary_dice_inside": "inside", "ternary_dice_boundary": "boundary"}

    @staticmethod
    def read(folders: Sequence[Path], settings: NucleusTraining) -> list[Patch]:
        """The patches in folders."""
        return load_patches(*folders)

    @classmethod
    def divide(
        cls, samples: Sequence[Patch], held_out: Sequence[Patch], settings: NucleusTraining, lineage: Lineage | None
    ) -> Split[Patch]:
        """Divides patches as their manifests say; if those name no side, whole patients are held out.

        Raises:
            BadSetting: there is one patient only, or none that the parent was not trained on, the patches are not of
                the settings' scale, or only some are stain-normalised.
        """
        _check_alike([*samples, *held_out], settings.mpp)
        learned = lineage.weights.card.created_from if lineage else ()
        how = "patches were given for it"
        if not held_out:
            own, how = samples, "as the manifest of the patches says"
            if not any(patch.side for patch in own):
                own, how = split_patches(own, settings.validation_share, settings.seed, learned)
            held_out = [patch for patch in own if patch.side == "validation"]
            samples = [patch for patch in own if patch.side != "validation"]
        _check_unseen({patch.case for patch in held_out}, learned)
        return Split(tuple(samples), tuple(held_out), how)

    @staticmethod
    def named(name: str, models_folder: Path) -> Lineage | None:
        """``toy``, the network that is shipped."""
        from dermatome.registry.lineage import lineage_of_file

        return lineage_of_file(TOY_WEIGHTS, load_nucleus_weights) if name == "toy" else None

    def data_sha256(self) -> str:
        """One sha256 over the patches' pixels and maps, and sides."""
        return self.split.sha256(
            lambda side: sha256_bytes("".join(f"{patch.name} {patch.sha256}\n" for patch in side).encode())
        )

    def build(self, compute: Compute, encoder_file: EncoderFile | None) -> Parts:
        """Builds the network, its patches (those with immune cells are sampled more often), and its loss."""
        settings = self.settings
        network = build_two_heads(settings.encoder, settings.decoder_channels, encoder_file=encoder_file)
        drop_channels(network.get_submodule(BEFORE_HEADS), settings.dropout)
        pixels = np.array([patch.semantic_px for patch in self.split.train], np.int64)  # (P, 5)
        source = TileBatches(
            self.split.train,
            scale=1.0,
            augment=settings.augment,
            coarse_factor=1.0,
            crop_px=settings.crop_px,
            batch=settings.batch,
            seed=settings.seed,
            weights=settings.sampling.weights(pixels).tolist() if settings.sampling.enabled else None,
        )
        weights = ternary_weights(source.pixels(len(TERNARY_LABELS), 1), settings.loss)
        criterion = make_nucleus_loss(settings.loss, weights).to(compute.torch_device)
        return Parts(
            network,
            source,
            lambda images: to_batch(images, settings.mean, settings.std, compute),
            lambda logits, truth: criterion(logits.float(), truth),  # (N, 8, H, W), (N, H, W, 2)
        )

    def validate(self, network: torch.nn.Module, compute: Compute) -> dict[str, float | None]:
        """The score of the ternary map, and IoU and Dice of every class, over all pixels."""
        return self.evaluate(network, compute).columns(self.settings)

    def evaluate(self, network: torch.nn.Module, compute: Compute) -> NucleusEvaluation:
        """Confusion of the semantic and the ternary map on the validation patches."""
        return confusion_on_patches(network, self.split.validation, compute, self.settings)

    def complete(self, trained: Trained[NucleusEvaluation], compute: Compute) -> Trained[NucleusEvaluation]:
        """Scores nuclei on the images that the validation patches were cut from, segmented like slides."""
        patches, card = self.split.validation, trained.card
        assert isinstance(card, NucleusCard)
        if not patches:
            return trained
        segmentation = NucleusSettings(tile_px=max(card.tile_px, 64))
        network = card.build()
        network.load_state_dict(trained.state)
        network.eval().requires_grad_(False)
        loaded = LoadedWeights(lambda: network, card, "", Path())
        ready = prepare_nuclei(loaded, replace(compute, backend="torch"), segmentation)
        images = tuple(evaluate_patches(patches, ready, card.mpp, segmentation))
        samples = samples_figure(patches, ready, card.mpp, segmentation)
        return replace(
            trained,
            evaluation=replace(trained.evaluation, images=images, samples=samples),
            card=replace(card, scores={**card.scores, **nucleus_values(list(images))}),
        )

    def card(self, evaluation: NucleusEvaluation, fine_tuned: LoadedWeights[Any] | None, **common: Any) -> NucleusCard:
        """The card with scales, scores and patients of the network."""
        settings, split = self.settings, self.split
        cases = {patch.case for patch in split.train}.union(fine_tuned.card.created_from if fine_tuned else ())
        return NucleusCard(
            encoder=settings.encoder,
            decoder_channels=tuple(settings.decoder_channels),
            mean=tuple(settings.mean),
            std=tuple(settings.std),
            mpp=settings.mpp,
            mpp_range=(settings.mpp / settings.augment.scale, settings.mpp * settings.augment.scale),
            coarse_mpp=settings.mpp,
            tile_mpp=settings.mpp,
            tile_px=settings.crop_px,
            scores=evaluation.columns(settings) if split.validation else {},
            created_from=tuple(sorted(cases)),
            normalised_stain=any(patch.normalised for patch in split.train),
            has_classes=any(any(patch.semantic_px[1:]) for patch in split.train)
            or (fine_tuned is not None and fine_tuned.card.has_classes),
            **common,
        )

    def lacks(self) -> str | None:
        """A sentence if no patch has classes, so that the semantic head is trained on background alone."""
        if any(any(patch.semantic_px[1:]) for patch in self.split.train):
            return None
        return "No training patch has a nucleus of a known class: add cases with classes, such as MoNuSAC's."

    def values(self, trained: Trained[NucleusEvaluation]) -> dict[str, Scalar]:
        """Encoder, sampling, sizes and scores of maps and nuclei."""
        settings, found = self.settings, trained.evaluation
        nuclei = nucleus_values(list(found.images)) if found.images else {}
        columns = found.columns(settings)
        return {
            "encoder": settings.encoder,
            "boundary_weighting": settings.loss.boundary_weighting,
            "immune_sampling": settings.sampling.enabled,
            "mpp": settings.mpp,
            "patches": len(self.split.train),
            "patches_validated": len(self.split.validation),
            "images_validated": len(found.images),
            "nuclei_validated": sum(image.nuclei for image in found.images),
            "score": columns["score"],
            **{name: value for name, value in columns.items() if name.startswith("ternary_dice_")},
            **{name: nuclei.get(name) for name in INSTANCE_SCORES},
        }

    def tables(self, version: str, trained: Trained[NucleusEvaluation]) -> dict[str, pa.Table]:
        """Scores by class of the semantic and of the ternary map."""
        maps = (("semantic", trained.evaluation.classes), ("ternary", trained.evaluation.parts))
        rows = [{"version": version, "map": name, **asdict(score)} for name, scores in maps for score in scores]
        return {CLASSES_FILE: pa.Table.from_pylist(rows)}

    def figures(self, trained: Trained[NucleusEvaluation]) -> dict[str, bytes | None]:
        """Samples."""
        return {SAMPLES_FIGURE: trained.evaluation.samples}

    def summary(self, trained: Trained[NucleusEvaluation]) -> list[str]:
        """Dice of the parts and of the classes."""
        scores = (*trained.evaluation.parts, *trained.evaluation.classes[1:])
        return [f"{score.label:<11} Dice {score.f1:.3f}" for score in scores if score.f1 is not None]


def confusion_on_patches(
    network: torch.nn.Module, patches: Sequence[Patch], compute: Compute, settings: NucleusTraining
) -> NucleusEvaluation:
    """Confusion of semantic and ternary maps on patches, each predicted as one tile."""
    from dermatome.inference.backends import TorchRunner
    from dermatome.inference.probabilities import Probabilities

    totals = [np.zeros((len(labels),) * 2, np.int64) for labels in (NUCLEUS_LABELS, TERNARY_LABELS)]
    module = Probabilities(network, settings.mean, settings.std, heads=HEADS).eval().to(compute.torch_device)
    runner = TorchRunner(module, compute)
    for first in range(0, len(patches), _TOGETHER):
        read = [patch.read() for patch in patches[first : first + _TOGETHER]]
        side = -(-max(max(image.shape[:2]) for image, _ in read) // 32) * 32
        predictor = Predictor(
            runner, CHANNELS, side, 0, settings.batch, skip_background=False, background=BACKGROUND_CHANNELS
        )
        predictor.run([_scene(image, truth, totals) for image, truth in read])
    return NucleusEvaluation(totals[0], totals[1])


def _scene(image: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], totals: list[Confusion]) -> Scene:
    def count(top: int, rows: npt.NDArray[np.float32]) -> None:
        here = truth[top : top + rows.shape[1]]
        for channel, part in enumerate((SEMANTIC, TERNARY)):
            known = here[..., channel] != IGNORED
            predicted = rows[part].argmax(axis=0)
            totals[channel] += confusion_matrix(here[..., channel][known], predicted[known], len(totals[channel]))

    return Scene(Size(*image.shape[:2]), lambda: [image], count)


def _check_unseen(cases: Collection[str], learned: Collection[str]) -> None:
    if seen := sorted(set(cases).intersection(learned)):
        raise BadSetting(
            f"{len(seen)} held-out patients, such as {seen[0]}, were used to train the weights to fine-tune, so "
            "its scores would be too good: hold out others, or train from scratch."
        )


def _check_alike(patches: Sequence[Patch], mpp: float) -> None:
    other = [patch for patch in patches if not 0.8 <= patch.mpp / mpp <= 1.25]
    if other:
        raise BadSetting(
            f"{len(other)} patches have another scale than {mpp:g} µm per pixel, {other[0].name} {other[0].mpp:g}: "
            "set mpp to theirs, or leave them out."
        )
    normalised = [patch.normalised for patch in patches]
    if len(set(normalised)) > 1:
        raise BadSetting(
            f"{sum(normalised)} of {len(patches)} patches are of images whose stain was normalised: cut all with "
            "normalise_stain, or all without."
        )
