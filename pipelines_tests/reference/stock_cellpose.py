"""Cells as stock Cellpose 3 finds them: its own ``CellposeModel.eval``, the same prepared image, the same weights.

This is what ours is measured against, in numbers and in time; nothing of ours but the preparation is used in it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box
from dermatome.skin.cells.image import CellImage
from dermatome.skin.cells.network import CYTO2_NBASE, TOY_WEIGHTS, CellCard, build_cpnet
from dermatome.skin.cells.settings import CellSettings
from dermatome.training.weights import read_card, save_weights


def cyto2_sized_weights(folder: Path) -> tuple[Path, Path]:
    """The demo's network as one of the size of ``cyto2``: the same outputs, at the cost that real weights have.

    Cellpose can only load networks of that size. The channels added hold zeros and change nothing.

    Returns:
        A file for :func:`dermatome.skin.cells.network.load_cell_network`, and a plain state dict for Cellpose.
    """
    import torch
    from safetensors.torch import load_file

    small = load_file(TOY_WEIGHTS)
    card = replace(read_card(TOY_WEIGHTS, CellCard), nbase=CYTO2_NBASE)
    model = build_cpnet(CYTO2_NBASE, card.diameter_px)
    tensors = {}
    for name, empty in model.state_dict().items():
        tensors[name] = torch.ones_like(empty) if name.endswith("running_var") else torch.zeros_like(empty)
        tensors[name][tuple(slice(side) for side in small[name].shape)] = small[name].to(empty.dtype)
    model.load_state_dict(tensors)
    save_weights(folder / "large.safetensors", model.state_dict(), card, half=True)
    torch.save(model.state_dict(), folder / "large_state_dict")
    return folder / "large.safetensors", folder / "large_state_dict"


def stock_model(state_dict: Path) -> Any:
    """Cellpose's model on the CPU, as it is by default (MKL-DNN where it has it)."""
    import torch
    from cellpose.models import CellposeModel

    return CellposeModel(gpu=False, pretrained_model=str(state_dict), device=torch.device("cpu"))


def stock_cells(
    model: Any, image: CellImage, region: Box, diameter_px: float, settings: CellSettings, min_area_px: int
) -> npt.NDArray[np.int32]:
    """(h, w) int32: the cells of a region of the epidermis; those most of whose pixels lie outside it are dropped."""
    labels = model.eval(
        image.network_input(region),
        batch_size=settings.batch,
        channels=[0, 0],
        normalize=False,
        diameter=diameter_px,
        flow_threshold=settings.flow_threshold,
        cellprob_threshold=settings.cellprob_threshold,
        min_size=min_area_px,
        max_size_fraction=1.0,
        tile_overlap=settings.tile_overlap,
        resample=True,
        augment=False,
    )[0].astype(np.int32)
    sizes = np.bincount(labels.ravel())
    within = np.bincount(labels[image.read_epidermis(region)], minlength=sizes.size)
    keep = 2 * within > sizes
    keep[0] = False
    return np.asarray(np.where(keep[labels], labels, 0), dtype=np.int32)
