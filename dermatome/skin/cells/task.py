"""The cell task: trains a network of Cellpose's architecture on annotated cells.

Network, targets and loss are Cellpose's (Stringer et al., 2021). Its input is prepared by the functions that
segmentation uses, at the scale at which the median cell of the training images has the network's cell diameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from dermatome.registry.report import SAMPLES_FIGURE
from dermatome.registry.version import VersionTask
from dermatome.skin.cells.annotations import AnnotatedCells, annotated_sha256, cell_manifest_rows, find_annotated
from dermatome.skin.cells.crops import PreparedCells, prepare_cells, random_crop
from dermatome.skin.cells.cyto2 import fetch_cyto2
from dermatome.skin.cells.figures import cell_samples_figure, precision_figure
from dermatome.skin.cells.image import PREPARATION
from dermatome.skin.cells.network import CYTO2_DIAMETER_PX, CYTO2_NBASE, CellCard, build_cpnet, open_cells
from dermatome.skin.cells.report import CELL_REPORT, IMAGE_SCORES_FILE, PRECISION_FIGURE, image_scores
from dermatome.skin.cells.scores import CellScores, mean_precision, score_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.training.data import CropBatches, Split
from dermatome.training.settings import TrainingSettings
from dermatome.training.task import Parts

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from dermatome.inference.compute import Compute
    from dermatome.registry.lineage import Lineage
    from dermatome.storage.record import Scalar
    from dermatome.training.data import Batch
    from dermatome.training.encoder_weights import EncoderFile
    from dermatome.training.trainer import Trained


class CellTraining(TrainingSettings):
    """Settings of a cell network's training."""

    epoch_steps: int = Field(default=50, ge=1, description="Smallest number of optimiser steps that count as an epoch.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Weight decay of AdamW (Loshchilov and Hutter, 2019).")
    validation_share: float = Field(
        default=0.2, ge=0, lt=1, description="Share of the images held out for validation, whole groups only."
    )
    nbase: tuple[int, ...] = Field(
        default=CYTO2_NBASE,
        description="Channels of the input (2) and of the four levels, finest first; cyto2's by default.",
    )
    diameter_px: float = Field(
        default=CYTO2_DIAMETER_PX, ge=5, le=100, description="Cell diameter at the network's scale, px."
    )
    crop_px: int = Field(default=224, ge=32, multiple_of=16, description="Side of a crop at the network's scale, px.")
    mpp: float = Field(default=0.5, gt=0, description="Microns per pixel of images whose files state no scale.")
    zoom: float = Field(default=0.3, ge=0, description="Crops are scaled by up to this share up or down.")
    gain: float = Field(default=0.25, ge=0, lt=1, description="Largest relative change of brightness.")
    noise: float = Field(default=0.03, ge=0, description="Standard deviation of pixel noise; nuclei are about 1.")

    @model_validator(mode="after")
    def _channels(self) -> Self:
        if len(self.nbase) != 5 or self.nbase[0] != 2 or not all(1 <= n <= 1024 for n in self.nbase):
            raise ValueError(f"nbase is {self.nbase}: give five numbers, 2 first, then each level's channels")
        return self


@dataclass(frozen=True)
class CellTask(VersionTask[list[CellScores]]):
    """Annotated images and the network that is trained on them; see :class:`dermatome.training.task.Task`.

    Attributes:
        cells: how cells are segmented in validation images; the diameter is that of the training images.
    """

    settings: CellTraining
    split: Split[AnnotatedCells]
    cells: CellSettings = field(default_factory=CellSettings)

    settings_class = CellTraining
    layout = CELL_REPORT
    rows = staticmethod(cell_manifest_rows)
    load = staticmethod(open_cells)
    noun = "images"
    parents = "a file, cyto2 or toy"
    best_by = "ap_50"
    shown = {"ap_50": "AP at IoU 0.5", "ap_75": "0.75", "ap_90": "0.9"}
    half = True
    compares_parent = True

    @staticmethod
    def read(folders: Sequence[Path], settings: CellTraining) -> list[AnnotatedCells]:
        """The images in folders with their cells beside them (:mod:`dermatome.skin.cells.annotations`)."""
        return find_annotated(*folders, declared_mpp=settings.mpp)

    @staticmethod
    def named(name: str, models_folder: Path) -> Lineage | None:
        """``cyto2``, which is fetched if it is missing, or ``toy``."""
        from dermatome.registry.lineage import Lineage

        if name not in ("cyto2", "toy"):
            return None
        weights = fetch_cyto2(models_folder) if name == "cyto2" else name
        # The training data of toy is synthetic. That of cyto2 is unknown, and may include the validation images.
        return Lineage(name, open_cells(weights), {}, name == "toy")

    @cached_property
    def diameter(self) -> tuple[float, int]:
        """Median diameter of the training images' cells, µm (of a disc of the same area), and the number of cells."""
        found = []
        for image in self.split.train:
            slide, labels = image.read()
            areas = np.bincount(labels.ravel())[1:]
            found.append(2 * np.sqrt(areas / np.pi) * slide.mpp)
        diameters = np.concatenate(found)
        return float(np.median(diameters)), int(diameters.size)

    def data_sha256(self) -> str:
        """One sha256 over the images, their cells, scales and origins, and sides."""
        return self.split.sha256(annotated_sha256)

    def build(self, compute: Compute, encoder_file: EncoderFile | None) -> Parts:
        """Builds the network, its prepared images, and Cellpose's loss."""
        settings, images = self.settings, []
        network = build_cpnet(settings.nbase, settings.diameter_px)
        for image in self.split.train:
            slide, labels = image.read()
            scale = settings.diameter_px * slide.mpp / self.diameter[0]
            everywhere = np.ones(labels.shape, dtype=np.bool_)
            images.append(prepare_cells(slide.whole(), everywhere, labels, slide.mpp, scale, self.cells.margin_um))
        return cell_parts(network, images, settings, compute)

    def validate(self, network: torch.nn.Module, compute: Compute) -> dict[str, float | None]:
        """Average precision on the validation images, the mean over images."""
        return mean_precision(self.evaluate(network, compute))

    def evaluate(self, network: torch.nn.Module, compute: Compute) -> list[CellScores]:
        """Average precision of each validation image."""
        cells = self.cells.changed(diameter_um=self.diameter[0])
        return score_cells(self.split.validation, network, self.settings.diameter_px, cells, compute)

    def card(self, evaluation: list[CellScores], fine_tuned: Any, **common: Any) -> CellCard:
        """The card with architecture, scale and scores of the network."""
        diameter_um, count = self.diameter
        return CellCard(
            nbase=self.settings.nbase,
            diameter_px=self.settings.diameter_px,
            diameter_um=diameter_um,
            preparation=PREPARATION,
            trained_on=f"{count:,} cells of {len(self.split.train)} annotated images",
            scores={name: value for name, value in mean_precision(evaluation).items() if value is not None},
            created_from=tuple(sorted({image.group for image in self.split.train})),
            **common,
        )

    def values(self, trained: Trained[list[CellScores]]) -> dict[str, Scalar]:
        """Diameter, and average precision after and before training."""
        return {
            "diameter_um": self.diameter[0],
            "diameter_px": self.settings.diameter_px,
            "images_train": len(self.split.train),
            "images_validation": len(self.split.validation),
            **mean_precision(trained.evaluation),
            **{f"{name}_before": value for name, value in mean_precision(trained.before or []).items()},
        }

    def tables(self, version: str, trained: Trained[list[CellScores]]) -> dict[str, pa.Table]:
        """Scores of each image, after and before training."""
        return {IMAGE_SCORES_FILE: image_scores(version, trained.before or [], trained.evaluation)}

    def figures(self, trained: Trained[list[CellScores]]) -> dict[str, bytes | None]:
        """Precision by IoU, and samples."""
        before, after = trained.before or [], trained.evaluation
        return {
            PRECISION_FIGURE: precision_figure(before, after) if after else None,
            SAMPLES_FIGURE: cell_samples_figure(after) if after else None,
        }

    def summary(self, trained: Trained[list[CellScores]]) -> list[str]:
        """Average precision after and before training."""
        before, after = mean_precision(trained.before or []), mean_precision(trained.evaluation)
        return [
            f"AP at IoU {int(name[-2:]) / 100:<4} {value:.3f}"
            + ("" if before[name] is None else f"  (before {before[name]:.3f})")
            for name, value in after.items()
            if value is not None
        ]


def cell_parts(
    network: torch.nn.Module, images: Sequence[PreparedCells], settings: CellTraining, compute: Compute
) -> Parts:
    """Combines a cell network, training images, and Cellpose's loss."""
    import torch

    def crop(image: PreparedCells, rng: np.random.Generator) -> Batch:
        return random_crop(image, settings.crop_px, rng, zoom=settings.zoom, gain=settings.gain, noise=settings.noise)

    source = CropBatches(
        images,
        [image.shown.size for image in images],
        crop,
        crop_px=settings.crop_px,
        batch=settings.batch,
        seed=settings.seed,
    )

    def to_input(shown: Any) -> torch.Tensor:
        # Cellpose's second channel, nuclei in addition to a cell stain, is empty here.
        first = torch.from_numpy(shown).to(compute.torch_device)  # (N, H, W)
        return torch.stack([first, torch.zeros_like(first)], dim=1).contiguous(memory_format=torch.channels_last)

    return Parts(network, source, to_input, lambda found, truth: cell_loss(found[0], truth))


def cell_loss(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cellpose's loss: half the mean squared error of the flows, plus the cross entropy of being inside a cell.

    As in ``cellpose.train`` (Stringer et al., 2021).

    Args:
        found: (N, 3, H, W): five times the flow down and right, and the logit of being inside a cell.
        truth: (N, 3, H, W) float32, ground truth: 1 inside cells, and the flow down and right.
    """
    from torch.nn import functional

    found = found.float()
    flows = functional.mse_loss(found[:, :2], 5.0 * truth[:, 1:])
    return flows / 2 + functional.binary_cross_entropy_with_logits(found[:, 2], truth[:, 0])
