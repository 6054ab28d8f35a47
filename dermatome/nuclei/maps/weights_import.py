"""Weights of the source system taken over: a checkpoint of a U-Net with a semantic and a ternary head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import NUCLEUS_LABELS, TERNARY_LABELS
from dermatome.errors import BadWeights
from dermatome.nuclei.maps.network import NucleusCard, build_two_heads
from dermatome.training.unet import MEAN, STD
from dermatome.training.weights import save_weights
from dermatome.training.weights_import import Imported, check_fits, check_said, decoder_channels, read_state_dict

if TYPE_CHECKING:
    import torch

MONUSAC_MPP = 0.25
"""MoNuSAC's images were scanned at 40×."""

_UNUSED = "base.segmentation_head."
_HEADS = ("sem_head", "ter_head")


def import_nucleus_weights(
    file: Path,
    out: Path,
    *,
    encoder: str = "resnet34",
    mpp: float = MONUSAC_MPP,
    classes: Sequence[str] = NUCLEUS_LABELS,
    tile_px: int = 256,
    licence: str = "",
) -> Imported:
    """Reads a checkpoint without running any code in it, and writes weights with a card to ``out``.

    Args:
        file: what ``torch.save`` wrote of a dict with ``model_state``, whose names are ``base.encoder.*``,
            ``base.decoder.*``, ``base.segmentation_head.*`` (which nothing reads, and is left out), ``sem_head.*`` and
            ``ter_head.*``; each head is one convolution. The bare state dict will do as well.
        out: the weights file to write.
        encoder: its encoder's name, which the file does not say.
        mpp: microns per pixel that it was trained at, which the file does not say either.
        classes: labels of its semantic channels in the file's order; they are put into ours.
        tile_px: side of the tiles that it was trained on.
        licence: of the weights.

    Raises:
        BadWeights: the file is none of those, or its tensors are not those of such a network.
        BadSetting: the classes are not ours, or the encoder is unknown.
        StorageFailed: ``out`` cannot be written.
    """
    check_said(classes, NUCLEUS_LABELS, mpp, "those five, in the order of the file's semantic channels")
    state, sha256, left_out = read_state_dict(file)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(_UNUSED)}
    kernels = {_take_head(state, head, file) for head in _HEADS}
    if len(kernels) > 1:
        raise BadWeights(f"{file} has heads with kernels of different sizes: it is not the network this can read.")
    channels = decoder_channels(state, file, "base.")
    card = NucleusCard(
        encoder=encoder,
        decoder_channels=channels,
        mpp=mpp,
        mpp_range=(mpp, mpp),
        coarse_mpp=mpp,
        tile_mpp=mpp,
        tile_px=tile_px,
        head_kernel_px=kernels.pop(),
        validation=f"imported from {file.name}, not validated here",
        settings={"imported_from": file.name, "imported_sha256": sha256, "classes_in_file": list(classes)},
        licence=licence or "not stated when it was imported",
    )
    network = build_two_heads(encoder, channels, head_kernel_px=card.head_kernel_px)
    heads = dict(zip(_HEADS, (NUCLEUS_LABELS, TERNARY_LABELS), strict=True))
    check_fits(network.state_dict(), state, file, encoder, heads)
    order = [list(classes).index(label) for label in NUCLEUS_LABELS]
    for name in ("sem_head.weight", "sem_head.bias"):
        state[name] = state[name][order]
    missing = [
        "Its scores: none are in the file, so score it on annotated slides before it is used.",
        "Its training patches: unknown, so nothing says whether a slide that it is tested on was among them.",
        f"Its normalisation: taken as mean {MEAN} and spread {STD}.",
        f"Its scale: taken as {mpp:g} microns per pixel.",
        *left_out,
    ]
    return Imported(save_weights(out, state, card), card, tuple(missing))


def _take_head(state: dict[str, torch.Tensor], head: str, file: Path) -> int:
    """Names a head's one convolution as ours is named, wherever in a sequence it stood; returns its kernel's side."""
    own = sorted(name for name in state if name.startswith(f"{head}."))
    kinds = [name.rpartition(".")[2] for name in own]
    if kinds != ["bias", "weight"] or state[own[1]].ndim != 4 or state[own[1]].shape[2] != state[own[1]].shape[3]:
        raise BadWeights(
            f"{file} has {len(own)} tensors in {head}, and one convolution with its bias is what can be imported: use "
            "a checkpoint of the network with a semantic and a ternary head."
        )
    for name, kind in zip(own, kinds, strict=True):
        state[f"{head}.{kind}"] = state.pop(name)
    return int(state[f"{head}.weight"].shape[2])
