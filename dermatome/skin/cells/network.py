"""Loads Cellpose 3 networks without replacing, completing or downloading anything silently.

Cellpose's own loader downloads another model if a path does not exist, and accepts files with missing keys; its
downloader switches TLS verification off. So this module uses only its network and dynamics, and reads files itself.
Stringer et al. 2021, "Cellpose: a generalist algorithm for cellular segmentation";
Pachitariu and Stringer 2022, "Cellpose 2.0".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dermatome.errors import BadWeights
from dermatome.inference.backends import Runner
from dermatome.inference.compute import Compute
from dermatome.inference.kept import prepare_kept
from dermatome.registry.published import published_named
from dermatome.skin.cells.cyto2 import NETWORK_FILE, SizeModel, read_cyto2
from dermatome.skin.cells.image import PREPARATION
from dermatome.training.weights import LoadedWeights, WeightsCard, fill_network, load_weights

if TYPE_CHECKING:
    import torch

CYTO2_NBASE = (2, 32, 64, 128, 256)
CYTO2_DIAMETER_PX = 30.0
TILE_PX = 224  # side of the tiles that Cellpose's networks are trained and run with
TOY_WEIGHTS = Path(__file__).parents[2] / "synthetic" / "cells_toy.safetensors"


@dataclass(frozen=True)
class CellCard(WeightsCard):
    """Describes a cell weights file and how to use it.

    Attributes:
        nbase: number of channels of the input and of each level, finest first.
        diameter_px: mean diameter, px, of the objects it was trained on, at which it works best.
        diameter_um: the same in microns, used if no diameter is given. None if it is estimated.
        preparation: name of the preparation of its input (:data:`dermatome.skin.cells.image.PREPARATION`).
        trained_on: description of its training data.
    """

    nbase: tuple[int, ...]
    diameter_px: float
    diameter_um: float | None
    preparation: str
    trained_on: str
    _: KW_ONLY
    licence: str = "MIT"
    format: str = "dermatome-cellpose-1"

    same_network = ("nbase", "diameter_px")
    # Two numbers that Cellpose's older files lack, and batch counters that it never reads.
    optional_tensors = ("diam_mean", "diam_labels", "num_batches_tracked")

    def build(self) -> torch.nn.Module:
        """Builds the untrained network that the weights fit."""
        return build_cpnet(self.nbase, self.diameter_px)

    def check(self) -> None:
        """Checks channels and diameter."""
        usable = len(self.nbase) == 5 and all(1 <= n <= 1024 for n in self.nbase) and 1 <= self.diameter_px <= 1000
        if not usable:
            raise ValueError("its channels or diameter are impossible")


def build_cpnet(nbase: tuple[int, ...], diameter_px: float) -> torch.nn.Module:
    """An untrained Cellpose network with three outputs: flow down, flow right, cell logit.

    Its MKL-DNN flag stays off, as it would convert the layers irreversibly and be slower than channels-last.
    """
    import torch
    from cellpose.resnet_torch import CPnet

    class MeanStyle(torch.nn.Module):
        """As in Cellpose, without a pooling window that depends on the image size, which OpenVINO cannot convert."""

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            style = features.mean(dim=(2, 3))
            return style / torch.sum(style**2, dim=1, keepdim=True) ** 0.5

    network: torch.nn.Module = CPnet(
        nbase=list(nbase), nout=3, sz=3, mkldnn=False, conv_3D=False, max_pool=True, diam_mean=diameter_px
    )
    network.make_style = MeanStyle()
    return network


@dataclass(frozen=True)
class LoadedCells(LoadedWeights[CellCard]):
    """A cell network read from a file.

    Attributes:
        size_model: model that estimates the cell diameter, if there is one.
    """

    size_model: SizeModel | None = None


@dataclass(frozen=True)
class CellNetwork:
    """A network prepared for inference.

    Attributes:
        name: name of the weights.
        sha256: sha256 of the weights file.
        diameter_px: diameter, px, to which objects are scaled for the network.
        diameter_um: default diameter of objects, µm; None if the network has none.
        runner: runs it on (N, 2, 224, 224) float32; returns flows down and right and cell logits (N, 3, 224, 224), and
            styles (N, S).
        compute: device, precision and threads that it runs with.
        size_model: model that estimates the cell diameter, if there is one.
        warning: warning from its card.
        licence: licence of the weights.
    """

    name: str
    sha256: str
    diameter_px: float
    diameter_um: float | None
    runner: Runner
    compute: Compute
    size_model: SizeModel | None = None
    warning: str = ""
    licence: str = ""

    @property
    def device_name(self) -> str:
        """Name of the device that it runs on."""
        return self.compute.device_name

    @property
    def backend(self) -> str:
        """Library that runs it."""
        return self.runner.backend

    @property
    def precision(self) -> str:
        """Number format that it runs in."""
        return self.runner.precision


def load_cell_network(weights: Path | str, compute: Compute, kept: Path | None = None) -> CellNetwork:
    """Loads a network and prepares it to run, or reads it from the folder ``kept``; see :func:`prepare_kept`.

    Other arguments, and errors, are those of :func:`open_cells`.
    """
    read = open_cells(weights, later=True)
    runner = cell_runner(lambda: read.network, compute, read.sha256, kept)
    card = read.card
    return CellNetwork(
        card.name, read.sha256, card.diameter_px, card.diameter_um, runner, compute, read.size_model, card.warning,
        card.licence,
    )  # fmt: skip


def open_cells(weights: Path | str, *, later: bool = False) -> LoadedCells:
    """Reads a network's file (:class:`CellCard`), or those of Cellpose's ``cyto2``.

    Args:
        weights: a ``.safetensors`` file; ``"toy"``, the demo's (:data:`TOY_WEIGHTS`); or the folder that has
            ``cyto2torch_0`` and ``size_cyto2torch_0.npy`` (:func:`dermatome.skin.cells.cyto2.fetch_cyto2`).
        later: builds the network, and checks its tensors, when it is first used, which takes seconds.

    Raises:
        BadWeights: the file is missing, damaged, has missing, unexpected or misshapen entries, no card, or was
            trained on input prepared another way.
    """
    path = TOY_WEIGHTS if weights == "toy" else Path(weights)
    if path.is_dir():
        tensors, sha256, size_model = read_cyto2(path, CYTO2_NBASE[-1])

        def build() -> torch.nn.Module:
            untrained = build_cpnet(CYTO2_NBASE, CYTO2_DIAMETER_PX)
            return fill_network(untrained, tensors, NETWORK_FILE, CellCard.optional_tensors)

        card = CellCard(
            CYTO2_NBASE, CYTO2_DIAMETER_PX, None, PREPARATION, "Cellpose's own images", name="cyto2",
            licence=published_named("cyto2").licence,
        )  # fmt: skip
        cyto2 = LoadedCells(build, card, sha256, path / NETWORK_FILE, size_model)
        if not later:
            _ = cyto2.network
        return cyto2
    if not path.is_file():
        raise BadWeights(f"There are no cell network weights at {path}: check the path, or name 'cyto2' or 'toy'.")
    loaded = load_weights(path, CellCard, later=later)
    if loaded.card.preparation != PREPARATION:
        raise BadWeights(
            f"{path.name} was trained on input prepared as {loaded.card.preparation!r}, but this version prepares "
            f"{PREPARATION!r}: train it again with 'dermatome cells train'."
        )
    return LoadedCells(lambda: loaded.network, loaded.card, loaded.sha256, path)


def cell_runner(
    network: Callable[[], torch.nn.Module], compute: Compute, name: str = "", kept: Path | None = None
) -> Runner:
    """Prepares Cellpose's ``CPnet`` to run on batches of tiles; it returns flows with logits, and styles.

    ``name`` and ``kept`` are those of :func:`prepare_kept`.
    """

    def build() -> torch.nn.Module:
        import torch

        class FlowsAndStyle(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network()

            def forward(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                flows, style = self.network(tiles)[:2]
                return flows, style

        return FlowsAndStyle().eval()

    example = np.zeros((8, 2, TILE_PX, TILE_PX), dtype=np.float32)
    # Blobs of the size of nuclei, 0 to 1, similar to real input.
    example[:, 0] = 0.5 + 0.5 * np.outer(*2 * [np.sin(np.arange(TILE_PX) / 5)])
    return prepare_kept(build, example, compute, name, kept)
