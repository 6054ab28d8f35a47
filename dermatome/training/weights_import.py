"""Imports weights trained by other programs: plain state dicts of a U-Net of segmentation-models-pytorch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting, BadWeights
from dermatome.storage.files import sha256_bytes
from dermatome.training.encoders import MEAN, STD, check_encoder
from dermatome.training.weights import UNetCard, expected_tensors, mismatches, save_weights

if TYPE_CHECKING:
    import torch

_KERAS = (".h5", ".hdf5", ".keras", ".pb")
_WRAPPED_IN = ("state_dict", "model_state_dict", "model_state", "model")
_PREFIXES = ("module.", "model.", "network.")
_DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""Tensors of segmentation-models-pytorch's U-Net that cards of other networks list as unused."""


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        not_carried_over: sentences on what the file did not contain.
    """

    sha256: str
    card: UNetCard
    not_carried_over: tuple[str, ...]


def import_weights(
    kind: type[UNetCard],
    file: Path,
    out: Path,
    *,
    encoder: str,
    mpp: float,
    classes: Sequence[str] | None = None,
    tile_px: int = 256,
    architecture: str = "",
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
    licence: str = "",
    name: str = "",
    source: str = "",
    data: bytes | None = None,
) -> Imported:
    """Reads a ``.pt`` or ``.pth`` file without running code in it, and writes weights with a card to ``out``.

    Args:
        kind: card of the network that the file is for; it names the layers of its heads.
        file: a state dict, or a checkpoint that contains one. Each head is one convolution, alone or in a sequence. The
            decoder's channels are read from its tensors.
        out: weights file to write.
        encoder: name of the encoder, which the file does not state.
        mpp: microns per pixel that it was trained at, which the file does not state either.
        classes: for each output channel of the first head, in the file's order, the label of the corresponding class;
            if several have the same class, their probabilities are added. None for this package's order.
        tile_px: side of the tiles that it was trained on, px.
        architecture: one of the kind's architectures; empty for a U-Net.
        mean: mean of its normalisation, on the scale 0 to 1.
        std: standard deviation of its normalisation, on the same scale.
        licence: licence of the weights.
        name: name of the network, for its card.
        source: where the file comes from, as text for its card.
        data: the file's bytes, if they were already read.

    Raises:
        BadWeights: the file is neither of these, or its tensors are not those of such a network.
        BadSetting: the classes are unknown, the scale is not positive, or the encoder is unknown.
        StorageFailed: ``out`` cannot be written.
    """
    first, ours = next(iter(kind.heads.items()))
    classes = list(ours if classes is None else classes)
    merged = len(classes) > len(ours) and len(kind.heads) == 1
    if set(classes) != set(ours) or (len(classes) != len(ours) and not merged):
        more = ", or one of them for each of more channels" if len(kind.heads) == 1 else ""
        raise BadSetting(
            f"The classes {', '.join(classes)} are not {', '.join(ours)} in some order: give those {len(ours)}, in the "
            f"order of the file's output channels{more}."
        )
    check_encoder(encoder)
    architecture = architecture or kind.architecture
    if architecture not in kind.architectures:
        raise BadSetting(f"There is no architecture {architecture!r} here: use one of {', '.join(kind.architectures)}.")
    if not mpp > 0:
        raise BadSetting(f"The scale is {mpp} microns per pixel: give the one the weights were trained at, above 0.")
    data = _read(file) if data is None else data
    state, left_out = _state_dict(data, file)
    state = {name: value for name, value in state.items() if not name.startswith(kind.ignored_tensors)}
    kernels = {_take_head(state, head, file) for head in kind.heads}
    if len(kernels) > 1:
        raise BadWeights(f"{file} has heads with kernels of different sizes, which cannot be imported.")
    card = kind(
        encoder=encoder,
        decoder_channels=_decoder_channels(state, file, kind.import_prefix)
        if architecture in ("unet", "unet_two_heads")
        else _DECODER_CHANNELS,
        architecture=architecture,
        mpp=mpp,
        # Only one scale is known, so the coarse pass over a slide uses it too.
        mpp_range=(mpp, mpp),
        coarse_mpp=mpp,
        tile_mpp=mpp,
        tile_px=tile_px,
        mean=tuple(mean),
        std=tuple(std),
        head_kernel_px=kernels.pop(),
        channels=tuple(classes) if merged else (),
        name=name,
        initial_weights=source,
        validation=f"imported from {file.name}, not validated here",
        settings={"imported_from": file.name, "imported_sha256": sha256_bytes(data), "classes_in_file": classes},
        licence=licence or "not stated when it was imported",
    )
    _check_fits(card, state, file)
    if not merged:
        order = [classes.index(label) for label in ours]
        for tensor in (f"{first}.weight", f"{first}.bias"):
            state[tensor] = state[tensor][order]
    missing = (
        "Its scores: the file has none, so evaluate it on annotated slides before you use it.",
        "Its training samples: unknown, so no check of leakage can cover them.",
        f"Its normalisation: assumed to be mean {card.mean} and standard deviation {card.std}.",
        f"Its scales: assumed to be only {mpp:g} microns per pixel, so the coarse pass is as fine as the fine one.",
        *left_out,
    )
    return Imported(save_weights(out, state, card), card, missing)


def _read(file: Path) -> bytes:
    if file.suffix.lower() in _KERAS:
        raise BadWeights(
            f"{file} holds Keras weights, whose layers, their order and their padding differ from those of this "
            "network, so they cannot be imported: train again on the same tiles."
        )
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadWeights(f"{file} cannot be read ({error.strerror}): check the path.") from error


def _state_dict(data: bytes, file: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors as float32 by name, without prefixes of wrappers; and sentences on what else the file contained."""
    import io

    import torch

    try:
        content: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails with many classes of errors
        raise BadWeights(
            f"{file} is not a plain PyTorch file that can be read without running code ({type(error).__name__}): save "
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
        raise BadWeights(f"{file} contains no state dict: save it with torch.save(model.state_dict(), path).")
    state = {str(name): tensor for name, tensor in content.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values() if tensor.is_floating_point()):
        raise BadWeights(f"{file} contains numbers that are not finite: use another checkpoint of that training.")
    other = (torch.float16, torch.bfloat16, torch.float64)
    return {name: t.float() if t.dtype in other else t for name, t in state.items()}, left_out


def _take_head(state: dict[str, torch.Tensor], head: str, file: Path) -> int:
    """Renames a head's only convolution to ``head``, wherever it is in a sequence; returns its kernel's side, px."""
    own = sorted(name for name in state if name.startswith(f"{head}."))
    kinds = [name.rpartition(".")[2] for name in own]
    if kinds != ["bias", "weight"] or state[own[1]].ndim != 4 or state[own[1]].shape[2] != state[own[1]].shape[3]:
        raise BadWeights(
            f"{file} has {len(own)} tensors in {head}, but only one convolution with its bias can be imported: it is "
            "not a U-Net of segmentation-models-pytorch with this head."
        )
    for name, kind in zip(own, kinds, strict=True):
        state[f"{head}.{kind}"] = state.pop(name)
    return int(state[f"{head}.weight"].shape[2])


def _decoder_channels(state: Mapping[str, torch.Tensor], file: Path, prefix: str) -> tuple[int, ...]:
    """Channels of the five decoder blocks of a U-Net, coarsest first."""
    found: dict[int, int] = {}
    for name, tensor in state.items():
        if block := re.fullmatch(re.escape(prefix) + r"decoder\.blocks\.(\d+)\.conv1\.0\.weight", name):
            found[int(block[1])] = int(tensor.shape[0])
    if sorted(found) != list(range(5)):
        raise BadWeights(
            f"{file} is not a U-Net of segmentation-models-pytorch with five decoder blocks ({len(found)} found): only "
            "such U-Nets can be imported."
        )
    return tuple(found[number] for number in range(5))


def _check_fits(card: UNetCard, state: Mapping[str, torch.Tensor], file: Path) -> None:
    first = next(iter(card.heads))
    for head, ours in card.heads.items():
        labels = card.channels if head == first and card.channels else ours
        if (found := state[f"{head}.bias"].shape[0]) != len(labels):
            raise BadWeights(
                f"{file} has {found} output channels, but this network has {len(labels)} classes "
                f"({', '.join(labels)}): it was trained for something else."
            )
    missing, extra, shapes = mismatches(expected_tensors(card, str(file)), state)
    if missing or extra or shapes:
        example = (missing + extra + shapes)[0]
        network = "U-Net" if card.architecture in ("unet", "unet_two_heads") else card.architecture
        raise BadWeights(
            f"{file} is not a {network} with the encoder {card.encoder}: {len(missing)} tensors are missing, "
            f"{len(extra)} are unexpected and {len(shapes)} have another shape (for example {example}); name the "
            "encoder it was built with."
        )
