"""The tissue task: trains a U-Net on annotated tiles to find background, dermis, epidermis and keratin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from dermatome.classes import TISSUE_LABELS
from dermatome.metrics.semantic import class_scores, score_values
from dermatome.registry.lineage import lineage_of_file
from dermatome.registry.version import VersionTask
from dermatome.skin.tiles.crops import TilePair, load_tiles, manifest_rows, tiles_sha256
from dermatome.skin.tiles.varied import varied_tiles, write_varied_tiles
from dermatome.skin.tissue.evaluate import Evaluation, confusion_on_tiles, evaluate, tile_probabilities
from dermatome.skin.tissue.network import TissueCard, load_tissue_weights
from dermatome.skin.tissue.networks import STARTER, STARTER_WEIGHTS
from dermatome.skin.tissue.report import CONFUSION_FILE, TISSUE_REPORT, report_values, tissue_figures, tissue_tables
from dermatome.training.data import Split, TileBatches
from dermatome.training.encoder_weights import PACKAGED
from dermatome.training.losses import ClassWeighting, LossName, class_weights, make_loss
from dermatome.training.settings import Encoder, EncoderWeights, UNetSettings
from dermatome.training.task import Parts
from dermatome.training.unet import build_network, drop_channels, to_batch

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from dermatome.inference.compute import Compute
    from dermatome.registry.lineage import Lineage
    from dermatome.skin.tissue.evaluate import ProbabilityRows
    from dermatome.storage.record import Scalar
    from dermatome.training.encoder_weights import EncoderFile
    from dermatome.training.trainer import Trained

_REHEARSED = 32
"""Number of synthetic tiles that are drawn for rehearsal; about half a second each."""


class TissueTraining(UNetSettings):
    """Settings of the tissue network's training."""

    # In ten minutes it learns more than a ResNet-18 from scratch: docs/results.md.
    encoder: Encoder = Field(default=PACKAGED[0], description="Encoder, as segmentation-models-pytorch names it.")
    encoder_weights: EncoderWeights = Field(
        default=PACKAGED[1],
        description="Pretrained encoder weights, such as imagenet; fetched once, or brought by the extra encoder. none "
        "starts from random weights.",
    )
    loss: LossName = Field(default="dice_focal", description="Loss: dice_focal, dice, focal, cross_entropy or tversky.")
    dice_weight: float = Field(default=1.0, ge=0, description="Weight of Dice in the loss dice_focal.")
    focal_weight: float = Field(default=1.0, ge=0, description="Weight of the focal loss in dice_focal.")
    class_weighting: ClassWeighting = Field(
        default="equal", description="Class weights: equal, inverse or inverse_root of the number of pixels."
    )
    # Tissues differ in texture and place, not in fine detail: at a quarter of the resolution, a step covers sixteen
    # times the tissue, and training from scratch takes a fraction of the time.
    train_mpp: float | None = Field(
        default=None, gt=0, description="Microns per pixel of the network's input. None uses four times mpp."
    )
    palette: Literal["none", "queensland", "skin_pas", "dermatome"] = Field(
        default="none",
        description="Shipped palette of the masks of folders without palette.json: queensland, skin_pas or dermatome.",
    )
    coarse_factor: float = Field(default=2.0, ge=1, description="Ratio of the coarse pass's mpp to the network's mpp.")
    rehearsal: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Share of crops that show synthetic skin, so that fine-tuning forgets nothing. None: half if the "
        "parent was trained on synthetic images only, else 0.",
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.dice_weight + self.focal_weight == 0:
            raise ValueError("dice_weight and focal_weight must not both be 0")
        return self

    @property
    def network_mpp(self) -> float:
        """Microns per pixel of the network's input."""
        return self.train_mpp or 4 * self.mpp


@dataclass(frozen=True)
class TissueTask(VersionTask[Evaluation]):
    """Tiles with masks and the U-Net that is trained on them; see :class:`dermatome.training.task.Task`."""

    settings: TissueTraining
    split: Split[TilePair]

    settings_class = TissueTraining
    layout = TISSUE_REPORT
    rows = staticmethod(manifest_rows)
    load = staticmethod(load_tissue_weights)
    noun = "tiles"
    parents = "a weights file, or starter"
    best_by = "mean_iou"
    shown = {"mean_iou": "mean IoU", **{f"iou_{label}": label for label in TISSUE_LABELS}}

    @staticmethod
    def read(folders: Sequence[Path], settings: TissueTraining) -> list[TilePair]:
        """The tiles in folders with ``images/`` and ``masks/``; see :func:`load_tiles`."""
        return load_tiles(*folders, palette=None if settings.palette == "none" else settings.palette)

    @staticmethod
    def settle(settings: TissueTraining, lineage: Lineage | None) -> TissueTraining:
        """The settings with the share of crops that rehearse what the parent has learnt."""
        if settings.rehearsal is not None:
            return settings
        forgets = lineage is not None and lineage.weights.card.synthetic and not settings.synthetic
        return settings.changed(rehearsal=0.5 if forgets else 0.0)

    @staticmethod
    def named(name: str, models_folder: Path) -> Lineage | None:
        """The network ``starter``."""
        return lineage_of_file(STARTER_WEIGHTS, load_tissue_weights) if name == STARTER else None

    def data_sha256(self) -> str:
        """One sha256 over the tiles' images, masks, palettes, origins and sides."""
        return self.split.sha256(tiles_sha256)

    def build(self, compute: Compute, encoder_file: EncoderFile | None) -> Parts:
        """Builds the U-Net, its tiles at the training scale, and its loss."""
        settings = self.settings
        network = build_network(settings.encoder, len(TISSUE_LABELS), settings.decoder_channels, encoder_file)
        drop_channels(network.get_submodule("segmentation_head"), settings.dropout)
        scale = [(tile.mpp or settings.mpp) / settings.network_mpp for tile in self.split.train]
        rehearsed, weights = [], None
        if settings.rehearsal:
            rehearsed = varied_tiles(_REHEARSED, settings.network_mpp, settings.seed)
            areas = np.array(
                [tile.class_pixels().sum() * by**2 for tile, by in zip(self.split.train, scale, strict=True)]
            )
            weights = [*(1 - settings.rehearsal) * areas / areas.sum(), *[settings.rehearsal / _REHEARSED] * _REHEARSED]
        source = TileBatches(
            [*self.split.train, *rehearsed],
            scale=[*scale, *[1.0] * len(rehearsed)],
            weights=weights,
            augment=settings.augment,
            coarse_factor=settings.coarse_factor,
            crop_px=settings.crop_px,
            batch=settings.batch,
            seed=settings.seed,
        )
        criterion = make_loss(
            settings.loss,
            dice_weight=settings.dice_weight,
            focal_weight=settings.focal_weight,
            class_weights=class_weights(source.pixels(len(TISSUE_LABELS)), settings.class_weighting),
        ).to(compute.torch_device)
        return Parts(
            network,
            source,
            lambda images: to_batch(images, settings.mean, settings.std, compute),
            lambda logits, truth: criterion(logits.float(), truth),  # (N, 4, H, W), (N, H, W)
        )

    def validate(self, network: torch.nn.Module, compute: Compute) -> dict[str, float | None]:
        """IoU of each class and their mean, over all pixels of the validation tiles."""
        confusion = confusion_on_tiles(self.split.validation, self._probabilities(network, compute))
        scores = score_values(class_scores(confusion, TISSUE_LABELS))
        return {name: scores[name] for name in self.shown}

    def evaluate(self, network: torch.nn.Module, compute: Compute) -> Evaluation:
        """Confusion, calibration, borders, and scores of each tile."""
        return evaluate(self.split.validation, self._probabilities(network, compute), self.settings.mpp)

    def card(self, evaluation: Evaluation, fine_tuned: Any, **common: Any) -> TissueCard:
        """The card with scales and scores of the network."""
        settings = self.settings
        mpp, coarse_mpp = settings.network_mpp, settings.network_mpp * settings.coarse_factor
        return TissueCard(
            encoder=settings.encoder,
            decoder_channels=tuple(settings.decoder_channels),
            mean=tuple(settings.mean),
            std=tuple(settings.std),
            mpp=mpp,
            mpp_range=(mpp / settings.augment.scale, coarse_mpp * settings.augment.scale),
            coarse_mpp=coarse_mpp,
            tile_mpp=settings.mpp,
            tile_px=2 * settings.crop_px,
            scores=score_values(evaluation.scores) if self.split.validation else {},
            created_from=tuple(sorted({tile.group for tile in self.split.train})),
            **common,
        )

    def values(self, trained: Trained[Evaluation]) -> dict[str, Scalar]:
        """Encoder, loss, scales and scores."""
        card, settings = trained.card, self.settings
        assert isinstance(card, TissueCard)
        return {
            "encoder": settings.encoder,
            "initial_weights": card.initial_weights or None,
            "loss": settings.loss,
            "mpp": card.mpp,
            "coarse_mpp": card.coarse_mpp,
            **report_values(trained.evaluation),
        }

    def tables(self, version: str, trained: Trained[Evaluation]) -> dict[str, pa.Table]:
        """Scores by class, confusion, calibration, and scores by tile."""
        return tissue_tables(version, trained.evaluation)

    def figures(self, trained: Trained[Evaluation]) -> dict[str, bytes | None]:
        """Confusion matrix, calibration and samples."""
        return tissue_figures(trained.evaluation)

    def summary(self, trained: Trained[Evaluation]) -> list[str]:
        """IoU of each class."""
        scores = trained.evaluation.scores
        return [f"{score.label:<11} IoU {score.iou:.3f}" for score in scores if score.iou is not None]

    def _probabilities(self, network: torch.nn.Module, compute: Compute) -> ProbabilityRows:
        settings = self.settings
        return tile_probabilities(
            network, compute, settings.mean, settings.std, settings.mpp, settings.network_mpp,
            tile_px=2 * settings.crop_px, batch=settings.batch,
        )  # fmt: skip


def draw_for_training(folder: Path, settings: TissueTraining) -> TissueTraining:
    """Draws the tiles for a training on synthetic skin, in about a tenth of the training's time.

    Args:
        folder: folder for the tiles, see :func:`write_varied_tiles`.
        settings: settings of the training. Tiles are drawn at the network's scale, 1 µm per pixel unless ``train_mpp``
            is set.

    Returns:
        The settings for these tiles.
    """
    mpp = settings.train_mpp or 1.0
    count = int(np.clip(16 * (settings.max_minutes or 30), 16, 480))
    write_varied_tiles(folder, count, mpp, settings.seed)
    return settings.changed(mpp=mpp, train_mpp=mpp, synthetic=True)


def confusion_markdown(folder: Path) -> str:
    """A version's confusion matrix as a Markdown table: ground truth in rows, with pixels and shares of the row."""
    pairs = pq.ParquetFile(folder / CONFUSION_FILE).read().to_pylist()
    pixels = {(pair["truth"], pair["predicted"]): pair["pixels"] for pair in pairs}
    if not any(pixels.values()):
        return "Nothing was held out to validate on."
    lines = [["ground truth \\ predicted", *TISSUE_LABELS], ["---", *["---:"] * len(TISSUE_LABELS)]]
    for truth in TISSUE_LABELS:
        counts = [pixels[truth, predicted] for predicted in TISSUE_LABELS]
        total = sum(counts)
        lines.append([truth, *(f"{count:,} ({count / total:.1%})" if total else "0" for count in counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
