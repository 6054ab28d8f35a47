"""Networks for benchmarks: small trainings on toy slides, since agreement means nothing on random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.skin.tissue.network import TissueWeights


def trained_tissue(
    folder: Path,
    compute: Compute,
    *,
    encoder: str,
    decoder: tuple[int, ...],
    train_mpp: float | None = None,
    steps: int,
) -> TissueWeights:
    """A tissue network trained on four toy slides for ``steps`` of eight crops of 128 px, as a weights file."""
    from dermatome.skin.tissue.task import TissueTraining
    from pipelines_tests.toy_network import trained

    settings = TissueTraining(
        encoder=encoder,
        encoder_weights=None,
        decoder_channels=decoder,
        train_mpp=train_mpp,
        epochs=1,
        epoch_steps=steps,
        warmup_share=0.2,
    )
    return trained(folder, compute, settings)


def tissue_network(folder: Path, toy: bool) -> TissueWeights:
    """The platform's tissue network, trained briefly on the CPU; at toy size a small one of random weights."""
    from dermatome.inference.compute import choose_compute

    if toy:
        return untrained_tissue(folder, mpp=2.0)
    return trained_tissue(folder, choose_compute("cpu"), encoder="resnet18", decoder=(128, 64, 32, 24, 16), steps=40)


def untrained_tissue(folder: Path, *, mpp: float) -> TissueWeights:
    """A small tissue network that has learnt nothing, as a weights file in ``folder``: for toy sizes."""
    import torch

    from dermatome.classes import TissueClass
    from dermatome.skin.tissue.network import TissueCard, load_tissue_weights
    from dermatome.training.unet import build_network
    from dermatome.training.weights import save_weights

    decoder = (16, 16, 8, 8, 8)
    card = TissueCard("resnet18", decoder, mpp, (mpp / 2, mpp * 2), 2 * mpp, mpp, tile_px=128)
    state = build_network("resnet18", 4, decoder).state_dict()
    # It takes everything for epidermis: cells are only looked for there, and random weights might leave none.
    state["segmentation_head.0.bias"] += 20 * torch.eye(4)[TissueClass.EPIDERMIS]
    save_weights(folder / "weights.safetensors", state, card)
    return load_tissue_weights(folder / "weights.safetensors")
