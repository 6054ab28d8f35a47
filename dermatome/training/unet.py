"""U-Nets of segmentation-models-pytorch and their input."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadSetting
from dermatome.inference.torch_setup import import_smp
from dermatome.training.encoder_weights import EncoderFile, load_encoder
from dermatome.training.encoders import check_encoder

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute


def build_network(
    encoder: str,
    classes: int,
    decoder_channels: Sequence[int],
    encoder_file: EncoderFile | None = None,
    architecture: str = "unet",
) -> torch.nn.Module:
    """A U-Net (Ronneberger et al., 2015) of segmentation-models-pytorch with ``classes`` output channels of logits.

    Args:
        encoder: one of :data:`~dermatome.training.encoders.ENCODERS`, for example ``resnet34``.
        classes: number of output channels.
        decoder_channels: channels of the five decoder stages, coarsest first.
        encoder_file: pretrained weights of the encoder; None starts from random weights.
        architecture: one of :data:`~dermatome.training.encoders.ARCHITECTURES`; all but the U-Net have the library's
            default decoder.

    Raises:
        BadSetting: there is no such encoder, or it does not fit the architecture.
        BadWeights: the pretrained weights do not fit the encoder.
    """
    import torch

    check_encoder(encoder)
    smp = import_smp()
    # The encoders mit_* read values of tensors while they are built, which tensors on the meta device lack.
    place = torch.device("cpu") if encoder.startswith("mit_") else nullcontext()
    try:
        with place:
            network: torch.nn.Module = smp.create_model(
                architecture,
                encoder_name=encoder,
                encoder_weights=None,  # the library would download them unchecked
                classes=classes,
                in_channels=3,
                **({"decoder_channels": tuple(decoder_channels)} if architecture == "unet" else {}),
            )
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise BadSetting(
            f"The encoder {encoder!r} with decoder channels {tuple(decoder_channels)} cannot form a {architecture} "
            f"({error}): choose another encoder or five channel numbers."
        ) from error
    if encoder_file is not None:
        load_encoder(network.get_submodule("encoder"), encoder_file)
    return network


def merge_channels(network: torch.nn.Module, classes: Sequence[str], channels: Sequence[str]) -> torch.nn.Module:
    """Makes a U-Net with several output channels per class return one logit per class.

    This logit is the logarithm of the summed exponentials of the channels, so the softmax over classes is the sum of
    the channels' probabilities. The names of the weights stay those of the U-Net.

    ``channels`` is the class of each output channel. The network is changed in place.
    """
    import torch

    members = [[k for k, label in enumerate(channels) if label == name] for name in classes]

    class Merge(torch.nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:  # (N, channels, H, W) → (N, classes, H, W)
            return torch.cat([torch.logsumexp(logits[:, own], dim=1, keepdim=True) for own in members], dim=1)

    head: Any = network.get_submodule("segmentation_head")
    head.append(Merge())
    return network


def drop_channels(head: torch.nn.Module, share: float) -> None:
    """Adds spatial dropout before ``head`` as a hook, so that the names of the weights stay unchanged."""
    import torch

    def drop(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.nn.functional.dropout2d(inputs[0], share, module.training),)

    if share > 0:
        head.register_forward_pre_hook(drop)


def to_batch(images: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], compute: Compute) -> Any:
    """Normalises (N, H, W, 3) uint8 images to an (N, 3, H, W) float32 tensor in channels-last memory format."""
    import torch

    batch = torch.from_numpy(np.ascontiguousarray(images)).to(compute.torch_device)
    centre = torch.tensor(mean, device=batch.device) * 255
    spread = torch.tensor(std, device=batch.device) * 255
    normalised = (batch.float() - centre) / spread
    # (N, H, W, 3) permuted is already channels-last, so nothing is copied.
    return normalised.permute(0, 3, 1, 2)
