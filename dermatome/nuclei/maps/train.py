"""Training the network of nuclei on patches, with the one loop of :mod:`dermatome.training.loop`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, NUCLEUS_LABELS, TERNARY_LABELS, TernaryClass
from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.inference.predictor import Predictor, Scene
from dermatome.metrics.semantic import ClassScore, Confusion, class_scores, confusion_matrix
from dermatome.nuclei.maps.losses import make_nucleus_loss, ternary_weights
from dermatome.nuclei.maps.network import (
    BACKGROUND_CHANNELS,
    BEFORE_HEADS,
    CHANNELS,
    HEADS,
    SEMANTIC,
    TERNARY,
    NucleusCard,
    build_two_heads,
)
from dermatome.nuclei.maps.training_settings import NucleusTraining
from dermatome.skin.tissue.train import check_parent, ready_encoder
from dermatome.storage.files import sha256_bytes
from dermatome.training.data import BatchSource, split_sha256
from dermatome.training.loop import Validated, learn
from dermatome.training.state import Parent, Parts, TrainingRun
from dermatome.training.unet import MEAN, STD, drop_channels, to_batch

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dermatome.inference.compute import Compute
    from dermatome.training.encoder_weights import EncoderFile
    from dermatome.training.weights import LoadedWeights

_TOGETHER = 64
"""Patches whose pixels are held at once while a network is scored."""


class TrainingPatch(Protocol):
    """A patch to train or to validate on; picklable.

    Attributes:
        name: its own.
        case: the patient it is of.
        sha256: over its pixels and maps.
        semantic_px: (5,) how many of its pixels are of each :class:`~dermatome.classes.NucleusClass`.
        normalised: whether its image was brought to one stain.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def case(self) -> str: ...  # noqa: D102

    @property
    def sha256(self) -> str: ...  # noqa: D102

    @property
    def semantic_px(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def normalised(self) -> bool: ...  # noqa: D102

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB, and (H, W, 2) uint8: its semantic and its ternary map."""
        ...


@dataclass(frozen=True)
class PatchScores:
    """What a network does on patches, over all of their pixels; ignored ones count nowhere.

    Attributes:
        semantic: (5, 5) int64, truth in rows.
        ternary: (3, 3) int64, truth in rows.
    """

    semantic: Confusion
    ternary: Confusion

    @property
    def classes(self) -> list[ClassScore]:
        """Of each :class:`~dermatome.classes.NucleusClass`."""
        return class_scores(self.semantic, NUCLEUS_LABELS)

    @property
    def parts(self) -> list[ClassScore]:
        """Of each :class:`~dermatome.classes.TernaryClass`."""
        return class_scores(self.ternary, TERNARY_LABELS)

    def columns(self) -> dict[str, float | None]:
        """IoU and Dice of every class, by name."""
        found = {f"iou_{score.label}": score.iou for score in self.classes}
        found |= {f"dice_{score.label}": score.f1 for score in self.classes}  # of pixels, Dice is F1
        return found | {f"ternary_dice_{score.label}": score.f1 for score in self.parts}

    def selection(self, settings: NucleusTraining) -> float | None:
        """The score by which the best epoch is kept; ``None`` where neither inside nor boundary is there."""
        inside, boundary = (self.parts[part].f1 for part in (TernaryClass.INSIDE, TernaryClass.BOUNDARY))
        if inside is None or boundary is None:
            return None
        total = settings.inside_share + settings.boundary_share
        return (settings.inside_share * inside + settings.boundary_share * boundary) / total


@dataclass(frozen=True)
class NucleusTask:
    """The U-Net with two heads and the patches it learns from; see :class:`dermatome.training.state.TrainingTask`."""

    patches: tuple[TrainingPatch, ...]
    settings: NucleusTraining
    data_sha256: str
    encoder_file: EncoderFile | None = None

    def build(self, compute: Compute) -> Parts:
        """The network, its patches read, those with immune cells to be drawn more often, and its loss."""
        settings = self.settings
        network = build_two_heads(settings.encoder, settings.decoder_channels, encoder_file=self.encoder_file)
        drop_channels(network.get_submodule(BEFORE_HEADS), settings.dropout)
        pixels = np.array([patch.semantic_px for patch in self.patches], np.int64)
        source = BatchSource(
            self.patches,
            scale=1.0,
            crop_px=settings.crop_px,
            batch=settings.batch,
            augment=settings.augment,
            coarse_factor=1.0,
            seed=settings.seed,
            weights=settings.sampling.weights(pixels).tolist() if settings.sampling.enabled else None,
        )
        weights = ternary_weights(source.pixels(len(TERNARY_LABELS), 1), settings.loss)
        criterion = make_nucleus_loss(settings.loss, weights).to(compute.torch_device)
        return Parts(
            network,
            source,
            lambda images: to_batch(images, MEAN, STD, compute),
            lambda logits, truth: criterion(logits.float(), truth),
        )


@dataclass(frozen=True)
class TrainedNuclei:
    """A trained network.

    Attributes:
        state: its state dict on the CPU: the running mean of the weights at the best epoch.
        card: what :func:`dermatome.training.weights.save_weights` stores with it.
        history: a row for each epoch: epoch, step, seconds, learning_rate, train_loss, score, iou_<class>,
            dice_<class>, ternary_dice_<part>.
        scores: on the validation patches; of no pixels without any.
        resumed: whether it went on from a checkpoint.
    """

    state: dict[str, torch.Tensor]
    card: NucleusCard
    history: pd.DataFrame
    scores: PatchScores
    resumed: bool


def train_nuclei(
    patches: Sequence[TrainingPatch],
    patches_val: Sequence[TrainingPatch],
    settings: NucleusTraining,
    compute: Compute,
    checkpoint_dir: Path | None = None,
    on_epoch: Callable[[dict[str, Any], float], None] | None = None,
    *,
    validation: str = "patches were given for it",
    parent: LoadedWeights | None = None,
    processes: int = 1,
    models_folder: Path | None = None,
) -> TrainedNuclei:
    """Trains the network of nuclei and validates it after each epoch.

    Args:
        patches: to train on.
        patches_val: to validate on, of other patients; without any, the last epoch is kept.
        settings: see :class:`~dermatome.nuclei.maps.training_settings.NucleusTraining`.
        compute: device and precision.
        checkpoint_dir: see :func:`dermatome.training.loop.learn`.
        on_epoch: told each epoch's row of the history, and how much of the run is done, 0 to 1.
        validation: how ``patches_val`` were chosen, for the card.
        parent: weights to go on from instead of random ones, of the same encoder and decoder.
        processes: how many share the passes of each step, on a GPU each.
        models_folder: where the encoder's ready weights are kept, if the settings ask for some.

    Raises:
        BadSetting: there are no training patches, or a setting does not fit.
        FetchFailed: the encoder's ready weights are not there and could not be fetched.
        BadWeights: the parent's network is another than the settings', or a checkpoint is damaged.
        StorageFailed: a checkpoint cannot be written.
    """
    import pandas as pd

    started = time.perf_counter()
    if not patches:
        raise BadSetting("There are no patches to train on: give at least one.")
    if parent is not None:
        check_parent(parent, settings.encoder, settings.decoder_channels)
    data_sha256 = split_sha256(_patches_sha256(patches), _patches_sha256(patches_val))
    begun_with = (
        None if parent is not None else ready_encoder(settings.encoder, settings.encoder_weights, models_folder)
    )

    def validate(run: TrainingRun) -> Validated:
        found = score_patches(run.mean_network, patches_val, compute, batch=settings.batch)
        score = found.selection(settings)
        return Validated(score, {"score": score, **found.columns()})

    learnt = learn(
        NucleusTask(tuple(patches), settings, data_sha256, begun_with),
        compute,
        validate,
        parent=Parent(parent.sha256, parent.network.state_dict()) if parent else None,
        checkpoint_dir=checkpoint_dir,
        on_epoch=on_epoch,
        processes=processes,
        started=started,
    )
    run = learnt.run
    found = score_patches(run.mean_network, patches_val, compute, batch=settings.batch)
    selection = found.selection(settings)
    card = NucleusCard(
        encoder=settings.encoder,
        decoder_channels=tuple(settings.decoder_channels),
        mpp=settings.mpp,
        mpp_range=(settings.mpp / settings.augment.scale, settings.mpp * settings.augment.scale),
        coarse_mpp=settings.mpp,
        tile_mpp=settings.mpp,
        tile_px=settings.crop_px,
        scores={"score": selection, **found.columns()} if patches_val else {},
        validation=validation if patches_val else "nothing was held out",
        settings=json.loads(json.dumps(asdict(settings))),
        steps=run.step,
        data_sha256=data_sha256,
        parent=parent.sha256 if parent else None,
        initial_weights=begun_with.source if begun_with else "",
        initial_sha256=begun_with.sha256 if begun_with else "",
        created_from=tuple(sorted({patch.case for patch in patches}.union(parent.card.created_from if parent else ()))),
        normalised_stain=any(patch.normalised for patch in patches),
    )
    return TrainedNuclei(learnt.state(), card, pd.DataFrame(run.history), found, learnt.resumed)


def _patches_sha256(patches: Sequence[TrainingPatch]) -> str:
    return sha256_bytes("".join(f"{patch.name} {patch.sha256}\n" for patch in patches).encode())


def score_patches(
    network: torch.nn.Module, patches: Sequence[TrainingPatch], compute: Compute, *, batch: int
) -> PatchScores:
    """Confusion of semantic and ternary maps on patches, each seen whole."""
    from dermatome.inference.backends import TorchRunner
    from dermatome.inference.probabilities import Probabilities

    totals = [np.zeros((len(labels),) * 2, np.int64) for labels in (NUCLEUS_LABELS, TERNARY_LABELS)]
    module = Probabilities(network, MEAN, STD, heads=HEADS).eval().to(compute.torch_device)
    runner = TorchRunner(module, compute)
    for first in range(0, len(patches), _TOGETHER):
        read = [patch.read() for patch in patches[first : first + _TOGETHER]]
        side = -(-max(max(image.shape[:2]) for image, _ in read) // 32) * 32
        predictor = Predictor(runner, CHANNELS, side, 0, batch, skip_glass=False, background=BACKGROUND_CHANNELS)
        predictor.run([_scene(image, truth, totals) for image, truth in read])
    return PatchScores(*totals)


def _scene(image: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], totals: list[Confusion]) -> Scene:
    def count(top: int, rows: npt.NDArray[np.float32]) -> None:
        here = truth[top : top + rows.shape[1]]
        for channel, part in enumerate((SEMANTIC, TERNARY)):
            known = here[..., channel] != IGNORED
            predicted = rows[part].argmax(axis=0)
            totals[channel] += confusion_matrix(here[..., channel][known], predicted[known], len(totals[channel]))

    return Scene(Size(*image.shape[:2]), lambda: [image], count)
