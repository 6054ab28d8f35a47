"""Weights of cell networks on disk: safetensors, which cannot run code, with a card that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadWeights, DermatomeError
from dermatome.storage.files import sha256_bytes, write_atomic

if TYPE_CHECKING:
    import torch

CARD_FORMAT = "dermatome-cellpose-1"


@dataclass(frozen=True)
class CellCard:
    """What a cell network is; written beside its weights as JSON and into them.

    Attributes:
        name: short name.
        nbase: channels of the input and of each level, finest first.
        diameter_px: mean diameter of the objects it was trained on, and at which it works best.
        diameter_um: the same in microns; what objects are taken to measure where no diameter is given. ``None`` where
            it is estimated.
        preparation: how its input is made (:data:`dermatome.skin.cells.image.PREPARATION`).
        trained_on: in words.
        settings: of its training.
        scores: of its validation.
        licence: of the weights; it follows from the training images'.
        code_version: of Dermatome.
        steps: optimiser steps it was trained for.
        validation: how the validation images were chosen, in words.
        data_sha256: sha256 over names and contents of the training and validation images and their cells,
            and which is which.
        manifest_sha256: of the manifest of those images, a Parquet file beside the weights.
        parent: sha256 of the weights it started from, if any.
        created_from: patients or slides it was trained on.
        format: of this card.
    """

    name: str
    nbase: tuple[int, ...]
    diameter_px: float
    diameter_um: float | None
    preparation: str
    trained_on: str
    settings: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    licence: str = "MIT"
    code_version: str = ""
    steps: int = 0
    validation: str = ""
    data_sha256: str = ""
    manifest_sha256: str = ""
    parent: str | None = None
    created_from: tuple[str, ...] = ()
    format: str = CARD_FORMAT


def save_cell_network(path: Path, state: Mapping[str, torch.Tensor], card: CellCard) -> str:
    """Writes weights as half floats in safetensors, the card inside and as ``<stem>.json`` beside.

    Returns:
        sha256 of the weights file.
    """
    import torch
    from safetensors.torch import save

    tensors = {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }
    if not all(torch.isfinite(value.float()).all() for value in tensors.values()):
        raise BadWeights(f"The network for {path.name} has weights that half floats cannot hold: train it again.")
    data = save(tensors, metadata={"card": json.dumps(asdict(card), sort_keys=True)})
    write_atomic(path, data)
    sha256 = sha256_bytes(data)
    beside = json.dumps({**asdict(card), "sha256": sha256}, indent=2, sort_keys=True) + "\n"
    write_atomic(path.with_suffix(".json"), beside.encode())
    return sha256


def read_cell_weights(path: Path) -> tuple[dict[str, Any], CellCard]:
    """The tensors and the card of a file of :func:`save_cell_network`.

    Raises:
        BadWeights: it is damaged, or has no card, or one that this version cannot use.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except DermatomeError:
        raise
    except Exception as error:  # safetensors raises its own type, an OSError or a ValueError
        raise BadWeights(f"{path.name} is not a whole safetensors file ({error}): copy or train it again.") from error
    try:
        fields = json.loads(metadata["card"])
        fields |= {"nbase": tuple(int(n) for n in fields["nbase"])}
        fields |= {"created_from": tuple(fields.get("created_from", ()))}
        card = CellCard(**fields)
        usable = card.format == CARD_FORMAT and len(card.nbase) == 5 and 1 <= card.diameter_px <= 1000
        usable = usable and all(1 <= n <= 1024 for n in card.nbase)
    except (KeyError, TypeError, ValueError) as error:
        raise BadWeights(f"{path.name} has no card of a cell network: use a file that Dermatome wrote.") from error
    if not usable:
        raise BadWeights(f"{path.name} has a card this version cannot use: train it again with this version.")
    return tensors, card
