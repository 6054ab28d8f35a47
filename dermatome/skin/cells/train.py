"""Training a network of Cellpose's form on annotated cells, by the one loop (:mod:`dermatome.training.loop`).

Network, targets and loss are Cellpose's (Stringer et al., 2021); its input is made by the functions that segmentation
uses, at the scale at which the median cell of the training images measures what the network takes for a cell.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome import __version__
from dermatome.errors import BadSetting, BadWeights
from dermatome.skin.cells.annotations import AnnotatedCells, annotated_sha256
from dermatome.skin.cells.card import CellCard
from dermatome.skin.cells.image import PREPARATION
from dermatome.skin.cells.network import CYTO2_DIAMETER_PX, CYTO2_NBASE, LoadedCells, build_cpnet
from dermatome.skin.cells.scores import CellScores, mean_precision, score_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.cells.views import CellPicture, CellSource, ViewSettings, cell_picture
from dermatome.training.data import split_sha256
from dermatome.training.loop import Validated, learn
from dermatome.training.losses import cell_loss
from dermatome.training.settings import LoopSettings
from dermatome.training.state import Parent, Parts, TrainingRun

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dermatome.inference.compute import Compute


@dataclass(frozen=True)
class CellTrainSettings(LoopSettings):
    """How a cell network is trained; what the loop goes by is :class:`LoopSettings`'.

    Attributes:
        nbase: channels of the input and of each level, finest first; cyto2's by default.
        diameter_px: what a cell measures where the network sees it.
        crop_px: side of a view, at that scale.
        validation_share: of the images, held out.
        views: how views differ from images.
    """

    epoch_steps: int = 50
    weight_decay: float = 1e-4
    nbase: tuple[int, ...] = CYTO2_NBASE
    diameter_px: float = CYTO2_DIAMETER_PX
    crop_px: int = 224
    validation_share: float = 0.2
    views: ViewSettings = field(default_factory=ViewSettings)

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if len(self.nbase) != 5 or self.nbase[0] != 2 or not all(1 <= n <= 1024 for n in self.nbase):
            raise BadSetting(f"The channels are {self.nbase}: give five numbers, 2 first, then each level's.")
        if not 5 <= self.diameter_px <= 100:
            raise BadSetting(f"The network's cell diameter is {self.diameter_px} px: set it between 5 and 100.")
        if self.crop_px < 32 or self.crop_px % 16:
            raise BadSetting(f"The crop is {self.crop_px} px: use a multiple of 16, at least 32.")
        if min(self.views.zoom, self.views.gain, self.views.noise) < 0 or self.views.gain >= 1:
            raise BadSetting("Zoom, gain and noise of views must not be below 0, and the gain below 1.")


def given_cell_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What :class:`CellTrainSettings` takes, from plain values of a run config; other names are left out."""
    known = {each.name for each in fields(CellTrainSettings)}
    given = {name: value for name, value in plain.items() if name in known}
    if "nbase" in given:
        given["nbase"] = tuple(given["nbase"])
    if views := {each.name: plain[each.name] for each in fields(ViewSettings) if each.name in plain}:
        given["views"] = ViewSettings(**views)
    return given


@dataclass(frozen=True)
class CellTask:
    """A cell network and the images it learns from; see :class:`dermatome.training.state.TrainingTask`."""

    images: tuple[AnnotatedCells, ...]
    settings: CellTrainSettings
    diameter_um: float
    margin_um: float
    data_sha256: str

    def build(self, compute: Compute) -> Parts:
        """The network, its images prepared, and Cellpose's loss."""
        settings = self.settings
        network = build_cpnet(settings.nbase, settings.diameter_px)
        pictures = []
        for image in self.images:
            slide, labels = image.read()
            scale = settings.diameter_px * slide.mpp / self.diameter_um
            whole = np.ones(labels.shape, dtype=np.bool_)
            pictures.append(cell_picture(slide.whole(), whole, labels, slide.mpp, scale, self.margin_um))
        return cell_parts(network, pictures, settings, compute)


def cell_parts(
    network: torch.nn.Module, pictures: Sequence[CellPicture], settings: CellTrainSettings, compute: Compute
) -> Parts:
    """A cell network, pictures to learn from, and Cellpose's loss, as the loop takes them."""
    import torch

    source = CellSource(
        pictures, crop_px=settings.crop_px, batch=settings.batch, views=settings.views, seed=settings.seed
    )

    def to_input(shown: Any) -> torch.Tensor:
        # Cellpose's second channel, nuclei beside a cell stain, is empty here.
        first = torch.from_numpy(shown).to(compute.torch_device)
        return torch.stack([first, torch.zeros_like(first)], dim=1).contiguous(memory_format=torch.channels_last)

    return Parts(network, source, to_input, lambda found, truth: cell_loss(found[0], truth))


@dataclass(frozen=True)
class CellTrainResult:
    """A trained cell network.

    Attributes:
        state: its state dict on the CPU, rounded to the half floats that are written.
        card: what :func:`dermatome.skin.cells.network.save_cell_network` stores with it.
        history: a row for each epoch: epoch, step, seconds, learning_rate, train_loss, ap_50, ap_75 and ap_90.
        before: of the weights it started from, on the held-out images at the same cell diameter; empty from scratch.
        after: of what was learnt.
        resumed: whether it went on from a checkpoint.
    """

    state: dict[str, torch.Tensor]
    card: CellCard
    history: pd.DataFrame
    before: list[CellScores]
    after: list[CellScores]
    resumed: bool


def train_cells(
    images_train: Sequence[AnnotatedCells],
    images_val: Sequence[AnnotatedCells],
    settings: CellTrainSettings,
    compute: Compute,
    *,
    name: str,
    cells: CellSettings | None = None,
    checkpoint_dir: Path | None = None,
    on_epoch: Callable[[Mapping[str, Any], float], None] | None = None,
    validation: str = "images were given for it",
    parent: LoadedCells | None = None,
    processes: int = 1,
) -> CellTrainResult:
    """Trains a cell network on annotated images and returns the running mean of its weights.

    Args:
        images_train: to train on.
        images_val: to validate on; may be empty.
        settings: see :class:`CellTrainSettings`.
        compute: device and precision.
        name: of the weights.
        cells: how cells are found in the images that are held out; the diameter is the training images'.
        checkpoint_dir: see :func:`dermatome.training.loop.learn`.
        on_epoch: told each epoch's row of the history, and how much of the run is done, 0 to 1.
        validation: how ``images_val`` were chosen, for the card.
        parent: weights to go on from instead of random ones, of the same channels and diameter.
        processes: how many share the passes of each step.

    Raises:
        BadSetting: there are no training images, or a setting does not fit.
        BadWeights: the parent's network is another than the settings', or a checkpoint is damaged.
        BadImage: an image cannot be read.
        BadAnnotation: a file of cells does not fit.
        StorageFailed: a checkpoint cannot be written.
    """
    import pandas as pd

    started = time.perf_counter()
    if not images_train:
        raise BadSetting("There are no annotated images to train on: give at least one.")
    if parent is not None:
        _check_parent(parent, settings)
    diameter_um, count = median_diameter(images_train)
    cells = (cells or CellSettings()).changed(diameter_um=diameter_um)
    data_sha256 = split_sha256(annotated_sha256(images_train), annotated_sha256(images_val))

    def scores_of(network: torch.nn.Module) -> list[CellScores]:
        return score_cells(images_val, network, settings.diameter_px, cells, compute)

    def validate(run: TrainingRun) -> Validated:
        columns = mean_precision(scores_of(run.mean_network))
        return Validated(columns["ap_50"], columns)

    before = scores_of(parent.network.to(compute.torch_device)) if parent is not None else []
    learnt = learn(
        CellTask(tuple(images_train), settings, diameter_um, cells.margin_um, data_sha256),
        compute,
        validate,
        parent=Parent(parent.sha256, parent.network.state_dict()) if parent else None,
        checkpoint_dir=checkpoint_dir,
        on_epoch=on_epoch,
        processes=processes,
        started=started,
    )
    run = learnt.run
    for value in run.mean_network.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())
    after = scores_of(run.mean_network)
    card = CellCard(
        name=name,
        nbase=settings.nbase,
        diameter_px=settings.diameter_px,
        diameter_um=diameter_um,
        preparation=PREPARATION,
        trained_on=f"{count:,} cells of {len(images_train)} annotated images",
        settings=json.loads(json.dumps(asdict(settings))),
        scores={column: value for column, value in mean_precision(after).items() if value is not None},
        licence="that of the training images",
        code_version=__version__,
        steps=run.step,
        validation=validation if images_val else "nothing was held out",
        data_sha256=data_sha256,
        parent=parent.sha256 if parent else None,
        created_from=tuple(sorted({image.group for image in images_train})),
    )
    return CellTrainResult(learnt.state(), card, pd.DataFrame(run.history), before, after, learnt.resumed)


def median_diameter(images: Sequence[AnnotatedCells]) -> tuple[float, int]:
    """The median diameter of the cells in ``images``, µm (of a disc of the same area), and how many cells there are."""
    found = []
    for image in images:
        slide, labels = image.read()
        areas = np.bincount(labels.ravel())[1:]
        found.append(2 * np.sqrt(areas / np.pi) * slide.mpp)
    diameters = np.concatenate(found)
    return float(np.median(diameters)), int(diameters.size)


def _check_parent(parent: LoadedCells, settings: CellTrainSettings) -> None:
    here, there = (settings.nbase, settings.diameter_px), (parent.card.nbase, parent.card.diameter_px)
    if here != there:
        raise BadWeights(
            f"{parent.path} is a network of the channels {there[0]} for cells of {there[1]:g} px, not of {here[0]} for "
            f"{here[1]:g} px: leave nbase and diameter_px out, or start from scratch."
        )
