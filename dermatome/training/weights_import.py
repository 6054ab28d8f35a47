"""Weights of others' trainings taken over: plain state dicts of segmentation-models-pytorch's U-Net.

What reads and checks such a file serves the network of nuclei too (:mod:`dermatome.nuclei.maps.weights_import`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.classes import TISSUE_LABELS
from dermatome.errors import BadSetting, BadWeights
from dermatome.storage.files import sha256_bytes
from dermatome.training.unet import MEAN, STD, build_network
from dermatome.training.weights import WeightsCard, save_weights

if TYPE_CHECKING:
    import torch

_KERAS = (".h5", ".hdf5", ".keras", ".pb")
_WRAPPED_IN = ("state_dict", "model_state_dict", "model_state", "model")
_PREFIXES = ("module.", "model.", "network.")
_HEAD = "segmentation_head.0"


@dataclass(frozen=True)
class Imported:
    """What was taken over.

    Attributes:
        sha256: of the weights file that was written.
        card: of it.
        not_carried_over: what the file could not give, a sentence each.
    """

    sha256: str
    card: WeightsCard
    not_carried_over: tuple[str, ...]


def import_state_dict(
    file: Path,
    out: Path,
    *,
    encoder: str,
    mpp: float,
    classes: Sequence[str] = TISSUE_LABELS,
    tile_px: int = 256,
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
    licence: str = "",
) -> Imported:
    """Reads a ``.pt`` or ``.pth`` file without running any code in it, and writes weights with a card to ``out``.

    Args:
        file: a state dict of ``segmentation_models_pytorch.Unet``, or a checkpoint that holds one under ``state_dict``.
        out: the weights file to write.
        encoder: its encoder's name, which the file does not say. The decoder's channels are read off its tensors.
        mpp: microns per pixel that it was trained at, which the file does not say either.
        classes: labels of its output channels in the file's order; they are put into ours.
        tile_px: side of the tiles that it was trained on.
        mean: of its normalisation, on the scale 0 to 1.
        std: likewise.
        licence: of the weights.

    Raises:
        BadWeights: the file is none of those, or its tensors are not those of such a U-Net.
        BadSetting: the classes are not ours, or the encoder is unknown.
        StorageFailed: ``out`` cannot be written.
    """
    check_said(classes, TISSUE_LABELS, mpp, "those four, in the order of the file's output channels")
    state, sha256, left_out = read_state_dict(file)
    channels = decoder_channels(state, file)
    network = build_network(encoder, len(classes), channels)
    check_fits(network.state_dict(), state, file, encoder, {_HEAD: TISSUE_LABELS})
    order = [list(classes).index(label) for label in TISSUE_LABELS]
    for name in (f"{_HEAD}.weight", f"{_HEAD}.bias"):
        state[name] = state[name][order]
    card = WeightsCard(
        encoder=encoder,
        decoder_channels=channels,
        mpp=mpp,
        # One scale is all that is known of it, so the first look at a slide takes the same.
        mpp_range=(mpp, mpp),
        coarse_mpp=mpp,
        tile_mpp=mpp,
        tile_px=tile_px,
        mean=tuple(mean),
        std=tuple(std),
        validation=f"imported from {file.name}, not validated here",
        settings={"imported_from": file.name, "imported_sha256": sha256, "classes_in_file": list(classes)},
        licence=licence or "not stated when it was imported",
    )
    missing = [
        "Its scores: none are in the file, so compare it on the hold-out set before it makes masks.",
        "Its training tiles: unknown, so the check no_leakage cannot speak for it.",
        f"Its normalisation: taken as mean {card.mean} and spread {card.std}.",
        f"Its scales: taken as {mpp:g} microns per pixel alone, so the first look at a slide is as fine as the second.",
        *left_out,
    ]
    return Imported(save_weights(out, state, card), card, tuple(missing))


def check_said(classes: Sequence[str], ours: Sequence[str], mpp: float, give: str) -> None:
    """What a file does not say of itself must be said, and make sense.

    Args:
        classes: labels of its channels, as they were given.
        ours: those that a network of its kind has.
        mpp: microns per pixel, as given.
        give: which labels in which order, for the message.

    Raises:
        BadSetting: the classes are not ours, or the scale is none.
    """
    if sorted(classes) != sorted(ours):
        raise BadSetting(f"The classes {', '.join(classes)} are not {', '.join(ours)} in some order: give {give}.")
    if not mpp > 0:
        raise BadSetting(f"The scale is {mpp} microns per pixel: give the one the weights were trained at, above 0.")


def read_state_dict(file: Path) -> tuple[dict[str, torch.Tensor], str, list[str]]:
    """The tensors of a ``.pt`` or ``.pth`` file, read without running any code in it.

    Returns:
        The tensors by name, half floats as single ones, prefixes of wrappers taken off; the file's sha256; and
        sentences on what else was in it.

    Raises:
        BadWeights: the file is none of those, or holds numbers that are not finite.
    """
    data = _read(file)
    state, left_out = _state_dict(data, file)
    return state, sha256_bytes(data), left_out


def _read(file: Path) -> bytes:
    if file.suffix.lower() in _KERAS:
        raise BadWeights(
            f"{file} holds Keras weights, whose layers, their order and their padding differ from those of this "
            "network: they cannot be carried over; train again on the same tiles."
        )
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadWeights(f"{file} cannot be read ({error.strerror}): check the path.") from error


def _state_dict(data: bytes, file: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors by smp's names, and sentences on what else was in the file."""
    import io

    import torch

    try:
        content: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # pickles fail in many ways
        raise BadWeights(
            f"{file} is no plain PyTorch file that can be read without running its code ({type(error).__name__}): save "
            "it again with torch.save(model.state_dict(), path)."
        ) from error
    left_out = []
    if isinstance(content, dict):
        for key in _WRAPPED_IN:
            if isinstance(content.get(key), dict):
                others = sorted(str(name) for name in content if name != key)
                if others:
                    left_out.append(f"What else the checkpoint held: {', '.join(others)}.")
                content = content[key]
                break
    if not isinstance(content, dict) or not content or not all(torch.is_tensor(value) for value in content.values()):
        raise BadWeights(f"{file} holds no state dict: save it with torch.save(model.state_dict(), path).")
    state = {str(name): tensor for name, tensor in content.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values() if tensor.is_floating_point()):
        raise BadWeights(f"{file} holds numbers that are not finite: use another checkpoint of that training.")
    halves = (torch.float16, torch.bfloat16, torch.float64)
    return {name: t.float() if t.dtype in halves else t for name, t in state.items()}, left_out


def decoder_channels(state: Mapping[str, torch.Tensor], file: Path, within: str = "") -> tuple[int, ...]:
    """Channels of the five blocks of a U-Net's decoder, coarsest first, whose names begin with ``within``.

    Raises:
        BadWeights: it has no such five blocks.
    """
    found: dict[int, int] = {}
    for name, tensor in state.items():
        if block := re.fullmatch(re.escape(within) + r"decoder\.blocks\.(\d+)\.conv1\.0\.weight", name):
            found[int(block[1])] = int(tensor.shape[0])
    if sorted(found) != list(range(5)):
        raise BadWeights(
            f"{file} is no U-Net of segmentation-models-pytorch with five decoder blocks ({len(found)} found): only "
            "those can be imported."
        )
    return tuple(found[number] for number in range(5))


def check_fits(
    expected: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    file: Path,
    encoder: str,
    heads: Mapping[str, Sequence[str]],
) -> None:
    """Checks that ``state`` is that of the network whose state dict is ``expected``.

    Args:
        expected: of the network, untrained.
        state: the file's.
        file: named in errors.
        encoder: likewise.
        heads: the labels of the output channels by the name of the layer that gives them.

    Raises:
        BadWeights: a tensor is missing, is not its own, or has another shape.
    """
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [name for name in expected if name in state and expected[name].shape != state[name].shape]
    for head, labels in heads.items():
        if (found := state.get(f"{head}.bias")) is not None and found.shape[0] != len(labels):
            raise BadWeights(
                f"{file} has {found.shape[0]} output channels, and this network has {len(labels)} classes "
                f"({', '.join(labels)}): it was trained for something else."
            )
    if missing or extra or shapes:
        example = (missing + extra + shapes)[0]
        raise BadWeights(
            f"{file} is no U-Net with the encoder {encoder}: {len(missing)} tensors are missing, {len(extra)} are not "
            f"its own and {len(shapes)} have another shape (for example {example}); name the encoder it was built with."
        )
