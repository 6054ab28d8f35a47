"""Trained weights on disk: safetensors files, which cannot run code, with a card that describes their use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dermatome import __version__
from dermatome.errors import BadSetting, BadWeights
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.training.encoders import ARCHITECTURES, MEAN, STD, check_encoder
from dermatome.training.settings import TrainingSettings
from dermatome.training.unet import build_network, merge_channels

if TYPE_CHECKING:
    from typing import Self

    import torch

MAX_WEIGHTS_BYTES = 2 * 1024**3
Scale = Annotated[float, Field(gt=0, le=1000)]
"""Microns per pixel."""
SYNTHETIC_WARNING = (
    "The network was trained on synthetic images only: on a real image its results show how the program works, not "
    "what is on the slide."
)


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """Describes a weights file and its origin; stored in the file and, as readable JSON, beside it.

    A subclass adds the fields that describe its network and how to use it, and builds it.

    Attributes:
        name: name of the version or file, for messages and records.
        scores: validation scores by name, for example ``iou_epidermis``; empty without validation.
        validation: description of how the validation samples were chosen.
        data_sha256: sha256 over the training and validation samples and the side that each is on.
        manifest_sha256: sha256 of the manifest of these samples, a Parquet file beside the weights.
        parent: sha256 of the weights that were fine-tuned.
        initial_weights: initial weights of the encoder and their source, as text; empty for random weights.
        created_from: names of the patients, slides or folders of the training samples.
        licence: licence of the weights; it follows from that of the samples.
        synthetic: whether the network was only ever trained on synthetic images; fine-tuning on real images ends this.
    """

    name: str = ""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    validation: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    data_sha256: str = ""
    manifest_sha256: str = ""
    parent: str | None = None
    initial_weights: str = ""
    initial_sha256: str = ""
    created_from: tuple[str, ...] = ()
    code_version: str = __version__
    licence: str = "that of the training samples"
    synthetic: bool = False
    format: str = ""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    same_network: ClassVar[tuple[str, ...]]
    """Fields that a network must share to be fine-tuned from this one, named as in the training settings."""
    optional_tensors: ClassVar[tuple[str, ...]] = ()
    """Name endings of tensors that a file may lack."""

    def build(self) -> torch.nn.Module:
        """Builds the untrained network that the weights fit."""
        raise NotImplementedError

    def inherited_settings(self) -> dict[str, Any]:
        """Training settings that a network fine-tuned from this one inherits."""
        return {name: getattr(self, name) for name in self.same_network}

    @property
    def warning(self) -> str:
        """Warning that every result of the network must carry; empty if none."""
        return SYNTHETIC_WARNING if self.synthetic else ""

    def check(self) -> None:
        """Checks the values of a card that was read.

        Raises:
            ValueError: a value is impossible.
        """

    def to_json(self) -> str:
        """Indented JSON with sorted keys."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Reads a card; ``where`` names its file in errors. Fields that older versions lacked may be missing.

        Raises:
            BadWeights: ``text`` is not such a card.
        """
        expected = next(f.default for f in fields(cls) if f.name == "format")
        try:
            content = json.loads(text)
            if content["format"] != expected:
                raise BadWeights(
                    f"{where} has weights of the format {content['format']!r}, and {expected!r} is read here: train "
                    "again, or use the version of Dermatome that wrote them."
                )
            card: Self = TypeAdapter(cls).validate_python(content)
            card.check()
        except BadSetting as error:
            raise BadWeights(f"{where} has an impossible weights card: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(map(str, first["loc"]))
            raise BadWeights(
                f"{where} has no readable weights card ({name}: {first['msg']}): use a file that Dermatome wrote."
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadWeights(
                f"{where} has no readable weights card ({error!r}): use a file that Dermatome wrote."
            ) from error
        return card


@dataclass(frozen=True)
class UNetCard(WeightsCard):
    """The card of a U-Net of segmentation-models-pytorch.

    Attributes:
        encoder: name of the encoder in segmentation-models-pytorch.
        mpp: microns per pixel that the network was trained at; images are rescaled to it.
        mpp_range: finest and coarsest scale in training, microns per pixel.
        coarse_mpp: microns per pixel of the coarse pass over a slide; inside ``mpp_range``.
        tile_mpp: declared microns per pixel of the training samples.
        tile_px: side of the tiles at prediction, px.
        channels: class of each output channel; empty if the channels are the classes.
        architecture: name of the architecture in segmentation-models-pytorch.
    """

    encoder: str
    decoder_channels: Annotated[tuple[Annotated[int, Field(gt=0, le=2048)], ...], Field(min_length=5, max_length=5)]
    mpp: Scale
    mpp_range: tuple[Scale, Scale]
    coarse_mpp: Scale
    tile_mpp: Scale
    classes: tuple[str, ...] = ()
    tile_px: Annotated[int, Field(gt=0, le=8192)] = 256
    mean: Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=3, max_length=3)] = MEAN
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=3, max_length=3)] = STD
    palette: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    head_kernel_px: Annotated[int, Field(gt=0, le=15)] = 3
    channels: tuple[str, ...] = ()
    architecture: str = "unet"

    same_network = ("encoder", "decoder_channels", "mean", "std")
    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURES
    """Architectures that weights of this kind may have."""
    import_prefix: ClassVar[str] = ""
    """Prefix of the U-Net's tensors in files of other trainings, see :mod:`dermatome.training.weights_import`."""
    ignored_tensors: ClassVar[tuple[str, ...]] = ()
    """Prefixes of tensors in such a file that the network does not use."""
    heads: ClassVar[Mapping[str, tuple[str, ...]]]
    """Labels of the output channels by the name of their layer; the first are :attr:`classes`."""

    def build(self) -> torch.nn.Module:
        """Builds the untrained network that the weights fit."""
        count = len(self.channels or self.classes)
        network = build_network(self.encoder, count, self.decoder_channels, architecture=self.architecture)
        return merge_channels(network, self.classes, self.channels) if self.channels else network

    def check(self) -> None:
        """Checks encoder, architecture and classes.

        Raises:
            BadSetting: there is no such encoder.
            BadWeights: the classes are not those of this kind of network.
            ValueError: a number is impossible.
        """
        check_encoder(self.encoder)
        ours = next(iter(self.heads.values()))
        if self.classes != ours:
            raise BadWeights(
                f"The weights are for the classes {', '.join(self.classes)[:200]}, not {', '.join(ours)}: use weights "
                "trained for these classes."
            )
        if self.architecture not in self.architectures:
            raise ValueError(f"there is no architecture {self.architecture[:80]}")
        if self.channels and (len(self.heads) > 1 or len(self.channels) > 256 or set(self.channels) != set(ours)):
            raise ValueError("its output channels are not those of its classes")
        if self.head_kernel_px % 2 == 0:
            raise ValueError("the side of its heads' kernels is even")
        if not self.mpp_range[0] <= self.mpp <= self.coarse_mpp <= self.mpp_range[1]:
            raise ValueError("its scales do not lie between the finest and the coarsest of its training")


C = TypeVar("C", bound=WeightsCard)


@dataclass(frozen=True)
class LoadedWeights(Generic[C]):
    """A network ready for prediction, and its origin.

    Attributes:
        build: returns the network, in evaluation mode, on the CPU.
    """

    build: Callable[[], torch.nn.Module]
    card: C
    sha256: str
    path: Path

    @cached_property
    def network(self) -> torch.nn.Module:
        """The network, built on first use."""
        return self.build()


def check_same_network(parent: LoadedWeights[Any], settings: TrainingSettings) -> None:
    """Checks that the settings describe the parent's network, so that it can be fine-tuned.

    Raises:
        BadWeights: they describe another network.
    """
    channels, architecture = (getattr(parent.card, name, "") for name in ("channels", "architecture"))
    if channels or architecture not in ("", "unet", "unet_two_heads"):
        what = (
            f"{len(channels)} output channels, several for a class" if channels else f"the architecture {architecture}"
        )
        raise BadWeights(
            f"{parent.path} has {what}, and cannot be fine-tuned: choose other weights, or train from scratch."
        )
    other = {
        name: f"{name} {theirs}, not {ours}"
        for name in parent.card.same_network
        if (theirs := getattr(parent.card, name)) != (ours := getattr(settings, name))
    }
    if other:
        raise BadWeights(
            f"{parent.path} has another network: {'; '.join(other.values())}. Do not set {' and '.join(other)}, or "
            "train from scratch."
        )


def save_weights(path: Path, state: Mapping[str, torch.Tensor], card: WeightsCard, *, half: bool = False) -> str:
    """Writes a network's state dict and its card to ``path``, and the card as readable JSON beside it.

    The same state and card always give the same bytes.

    With ``half``, the numbers are stored as half floats, in half the bytes, and read back as float32.

    Returns:
        The sha256 of the weights file.

    Raises:
            BadWeights: a number is out of the range of half floats.
        StorageFailed: the disk is full or not writable.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise BadWeights(f"The network for {path.name} has weights that half floats cannot hold: train it again.")
    # With several metadata keys, safetensors would write them in no fixed order.
    data = save(tensors, metadata={"card": card.to_json()})
    sha256 = sha256_bytes(data)
    write_atomic(path, data)
    beside = {"weights": path.name, "sha256": sha256, **json.loads(card.to_json())}
    write_atomic(card_path(path), json.dumps(beside, indent=2, ensure_ascii=False).encode() + b"\n")
    return sha256


def card_path(path: Path) -> Path:
    """Path of the readable card of the weights file ``path``."""
    return path.with_suffix(".json")


def read_card(path: Path, kind: type[C]) -> C:
    """The card in the weights file at ``path``, without its tensors.

    Raises:
        BadWeights: there is no such file, it is not a safetensors file, or it has no card of that kind.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadWeights(f"There are no weights at {path}: check the path, or train some first.")
    if path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise BadWeights(f"{path} is larger than {MAX_WEIGHTS_BYTES >> 30} GB: it is no network of Dermatome.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadWeights(_not_safetensors(path, error)) from error
    return kind.from_json(metadata.get("card", ""), str(path))


def load_weights(path: Path, kind: type[C], *, later: bool = False) -> LoadedWeights[C]:
    """Reads weights, checks that they fit their card, and builds their network.

    Args:
        path: file written by :func:`save_weights`.
        kind: class of its card.
        later: whether to build the network and check its tensors only on first use, which takes seconds.

    Raises:
        BadWeights: the file is missing, damaged, not safetensors or of another kind, or its tensors are not exactly
            those of the network in the card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    card = read_card(path, kind)
    data = path.read_bytes()

    def build() -> torch.nn.Module:
        try:
            state = load(data)
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise BadWeights(_not_safetensors(path, error)) from error
        _check_shapes(expected_tensors(card, str(path)), state, str(path), card.optional_tensors)
        return fill_network(card.build(), state, str(path), card.optional_tensors)

    loaded = LoadedWeights(build, card, sha256_bytes(data), path)
    if not later:
        _ = loaded.network
    return loaded


def expected_tensors(card: WeightsCard, where: str) -> dict[str, torch.Tensor]:
    """The tensors of the card's network by name, on the meta device, where they have shapes but use no memory.

    Raises:
        BadWeights: the card does not describe a network.
    """
    import torch

    try:
        with torch.device("meta"):
            return dict(card.build().state_dict())
    except (BadSetting, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise BadWeights(f"{where} has a card that describes no network ({error}): use an unchanged file.") from error


def fill_network(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str, optional: tuple[str, ...] = ()
) -> torch.nn.Module:
    """Loads tensors into a network after checking every name and shape, and freezes it in evaluation mode.

    Half floats are converted to float32. Tensors whose names end with one of ``optional`` may be missing; ``where``
    names the file in errors.

    Raises:
        BadWeights: tensors are missing, unexpected, of another shape or not finite.
    """
    import torch

    expected = network.state_dict()
    _check_shapes(expected, state, where, optional)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise BadWeights(f"{where} contains numbers that are not finite: train again with a lower learning rate.")
    network.load_state_dict({**expected, **state})
    network.requires_grad_(False)
    return network.eval()


def mismatches(
    expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], optional: tuple[str, ...] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Names of the tensors that are missing, that are unexpected, and that have another shape."""
    missing = [name for name in expected if name not in state and not name.endswith(optional)]
    misshapen = [name for name in expected if name in state and expected[name].shape != state[name].shape]
    return sorted(missing), sorted(name for name in state if name not in expected), sorted(misshapen)


def _check_shapes(
    expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], where: str, optional: tuple[str, ...]
) -> None:
    missing, extra, misshapen = mismatches(expected, state, optional)
    if missing or extra:
        raise BadWeights(
            f"{where} does not fit the network of its card: {len(missing)} tensors are missing{_first(missing)} and "
            f"{len(extra)} are unexpected{_first(extra)}; use a complete, unchanged file."
        )
    if misshapen:
        raise BadWeights(
            f"{where} has {len(misshapen)} tensors of another shape than its card's network{_first(misshapen)}: use a "
            "complete, unchanged file."
        )


def _not_safetensors(path: Path, error: Exception) -> str:
    return f"{path} is not a complete safetensors file ({error}): copy it again, or train again."


def _first(names: list[str]) -> str:
    return f" (for example {names[0]})" if names else ""
