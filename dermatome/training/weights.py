"""Trained weights on disk: safetensors, which cannot run code, with a card that says what they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome import __version__
from dermatome.classes import TISSUE_LABELS, TissueClass
from dermatome.errors import BadWeights
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.training.unet import MEAN, STD, build_network

if TYPE_CHECKING:
    import torch

FORMAT = "dermatome-tissue-1"
# Cards of earlier versions lack these, and are as good.
_LATER = ("manifest_sha256", "palette", "initial_weights", "initial_sha256", "normalised_stain")
MAX_WEIGHTS_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class WeightsCard:
    """What a weights file holds and how to use it; stored inside the file and, readable, beside it.

    Attributes:
        encoder: the encoder's name in segmentation-models-pytorch.
        decoder_channels: of the U-Net.
        classes: labels of the output channels, in order.
        mpp: microns per pixel that the network was trained at and sees; images are rescaled to it.
        mpp_range: finest and coarsest scale that training showed it.
        coarse_mpp: scale for the first, coarse look at a slide; inside ``mpp_range``.
        tile_mpp: microns per pixel that the training tiles were declared to have.
        tile_px: side of its tiles at prediction.
        mean: of the normalisation, on the scale 0 to 1.
        std: likewise.
        scores: validation scores by name, for example ``iou_epidermis``; empty where nothing was validated.
        validation: how the validation tiles were chosen, in words.
        settings: of the training.
        steps: optimiser steps it was trained for.
        data_sha256: sha256 over names and contents of the training and validation tiles,
            and which is which.
        manifest_sha256: of the manifest of those tiles, a Parquet file beside the weights.
        palette: the colour each class is drawn in.
        parent: sha256 of the weights it started from, if any.
        initial_weights: what its encoder began with and where that is from, in words; empty where it began at random.
        initial_sha256: of that file.
        created_from: the names of the tiles' slides or folders.
        code_version: of Dermatome.
        licence: of the weights; it follows from the tiles'.
        architecture: ``unet``.
        format: of this card.
    """

    encoder: str
    decoder_channels: tuple[int, ...]
    mpp: float
    mpp_range: tuple[float, float]
    coarse_mpp: float
    tile_mpp: float
    classes: tuple[str, ...] = TISSUE_LABELS
    tile_px: int = 256
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    scores: Mapping[str, float | None] = field(default_factory=dict)
    validation: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    data_sha256: str = ""
    manifest_sha256: str = ""
    palette: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {c.label: c.colour for c in TissueClass})
    parent: str | None = None
    initial_weights: str = ""
    initial_sha256: str = ""
    created_from: tuple[str, ...] = ()
    code_version: str = __version__
    licence: str = "that of the training tiles"
    architecture: str = "unet"
    format: str = FORMAT

    def to_json(self) -> str:
        """Indented JSON with sorted keys."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> WeightsCard:
        """The card in ``text``; ``where`` names its file in errors.

        Raises:
            BadWeights: it is not such a card.
        """
        try:
            content = json.loads(text)
            if content["format"] != cls.format or content["architecture"] != cls.architecture:
                raise BadWeights(
                    f"{where} has weights of the format {content['format']!r} ({content['architecture']!r}), and "
                    f"{cls.format!r} is read here: train again, or use the version of Dermatome that wrote them."
                )
            known = {f.name: content[f.name] for f in fields(cls) if f.name not in _LATER or f.name in content}
            if "palette" in known:
                known["palette"] = {label: tuple(colour) for label, colour in known["palette"].items()}
            known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
            card = cls(**known)
            if not (card.mpp > 0 and card.coarse_mpp > 0 and card.tile_px > 0 and len(card.mean) == len(card.std) == 3):
                raise ValueError("a scale or size is not positive")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadWeights(
                f"{where} has no readable weights card ({error!r}): use a file that Dermatome wrote."
            ) from error
        return card

    def build(self) -> torch.nn.Module:
        """The untrained network that the weights belong to."""
        return build_network(self.encoder, len(self.classes), self.decoder_channels)


@dataclass(frozen=True)
class LoadedWeights:
    """A network ready for prediction, and where it came from.

    Attributes:
        network: in evaluation mode, on the CPU.
        card: what it is for.
        sha256: of the weights file.
        path: of the weights file.
    """

    network: torch.nn.Module
    card: WeightsCard
    sha256: str
    path: Path

    @property
    def decided(self) -> dict[str, Any]:
        """The training settings that a network which goes on from it shares."""
        card = self.card
        return {"encoder": card.encoder, "decoder_channels": card.decoder_channels, "train_mpp": card.mpp}


def save_weights(path: Path, state: Mapping[str, torch.Tensor], card: WeightsCard, *, half: bool = False) -> str:
    """Writes a network's state dict and its card to ``path``, and the card as readable JSON beside it.

    The same state and card always give the same bytes.

    Args:
        path: of the weights file.
        state: of the network.
        card: what it is for.
        half: whether to write half floats, in half the bytes; they are read as single ones again.

    Returns:
        The sha256 of the weights file.

    Raises:
        BadWeights: half floats cannot hold the numbers.
        StorageFailed: the disk is full or not writable.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise BadWeights(f"The network for {path.name} has weights that half floats cannot hold: write it whole.")
    # One metadata key only: safetensors writes several in no fixed order.
    data = save(tensors, metadata={"card": card.to_json()})
    sha256 = sha256_bytes(data)
    write_atomic(path, data)
    beside = {"weights": path.name, "sha256": sha256, **json.loads(card.to_json())}
    write_atomic(card_path(path), json.dumps(beside, indent=2, ensure_ascii=False).encode() + b"\n")
    return sha256


def card_path(path: Path) -> Path:
    """Where the readable card of the weights at ``path`` is."""
    return path.with_suffix(".json")


def read_card(path: Path, kind: type[WeightsCard] = WeightsCard) -> WeightsCard:
    """The card inside the weights file at ``path``, of that kind of network, without its tensors.

    Raises:
        BadWeights: there is no such file, it is no safetensors file or has no card.
    """
    from safetensors import SafetensorError, safe_open

    _check_there(path)
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadWeights(_not_safetensors(path, error)) from error
    return kind.from_json(metadata.get("card", ""), str(path))


def load_weights(path: Path, kind: type[WeightsCard] = WeightsCard) -> LoadedWeights:
    """Reads weights, checks that they fit their card, and builds their network.

    Args:
        path: of a file that :func:`save_weights` wrote.
        kind: of its card; its classes are those that the output channels must have.

    Raises:
        BadWeights: the file is missing, damaged, not safetensors, for other classes, or its tensors are not exactly
            those of the network that the card names.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    card = read_card(path, kind)
    if card.classes != kind.classes:
        raise BadWeights(
            f"{path} is for the classes {', '.join(card.classes)}, not {', '.join(kind.classes)}: use weights trained "
            "for these classes."
        )
    data = path.read_bytes()
    try:
        state = load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise BadWeights(_not_safetensors(path, error)) from error
    network = card.build()
    expected = network.state_dict()
    missing, extra = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or extra:
        raise BadWeights(
            f"{path} does not fit the network of its card: {len(missing)} tensors are missing"
            f"{_first(missing)} and {len(extra)} are not its own{_first(extra)}; use a whole, unchanged file."
        )
    misshapen = [name for name, tensor in expected.items() if tensor.shape != state[name].shape]
    if misshapen:
        raise BadWeights(
            f"{path} has {len(misshapen)} tensors of another shape than its card's network{_first(misshapen)}: use a "
            "whole, unchanged file."
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise BadWeights(f"{path} holds numbers that are not finite: train again with a lower learning rate.")
    network.load_state_dict(state)
    network.requires_grad_(False)
    return LoadedWeights(network.eval(), card, sha256_bytes(data), path)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise BadWeights(f"There are no weights at {path}: check the path, or train some first.")
    if path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise BadWeights(f"{path} is larger than {MAX_WEIGHTS_BYTES >> 30} GB: it is no network of Dermatome.")


def _not_safetensors(path: Path, error: Exception) -> str:
    return f"{path} is not a whole safetensors file ({error}): copy it again, or train again."


def _first(names: Any) -> str:
    return f" (for example {min(names)})" if names else ""
