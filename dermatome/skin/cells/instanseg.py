"""Nuclei by InstanSeg, a network that gives instances itself; its TorchScript file holds network and post-processing.

Goldsborough et al. 2024, https://doi.org/10.48550/arXiv.2408.15954. The file takes (1, 3, H, W) RGB at its own pixel
size, each channel stretched between two percentiles of the slide, and gives (1, D, H, W) instances. TorchScript is a
program: only a file that was taken over as trusted is loaded (:func:`dermatome.registry.published.trusted_program`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dermatome.classes import Instances
from dermatome.errors import BadSetting, BadWeights
from dermatome.geometry import Box, Size
from dermatome.inference.segmenter import Segmenter
from dermatome.registry.published import trusted_program
from dermatome.skin.cells.image import CellImage
from dermatome.slides.resize import resize_image

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

_PERCENTILES = (0.1, 99.9)
_LEAST_PX = 128
"""The smallest side that its description allows."""
_MOST_ENLARGED = 4.0
_SAMPLED_PATCHES = 16


def load(path: Path, compute: Compute) -> Segmenter:
    """The network at ``path``, on the device; it takes the percentiles of the slide's patches with most epidermis.

    Raises:
        BadWeights: the file is not the one that was trusted, or no InstanSeg network of RGB images.
        BadSetting: of a slide: it is far coarser than the network's scale.
    """
    import cv2
    import torch

    entry = trusted_program(path)
    try:
        network = torch.jit.load(str(path), map_location=compute.torch_device).eval()  # type: ignore[no-untyped-call]
        network_mpp = float(network.pixel_size)
        with torch.inference_mode():
            shape = network(torch.zeros(1, 3, _LEAST_PX, _LEAST_PX, device=compute.torch_device)).shape
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise BadWeights(
            f"{path} is no InstanSeg network of RGB images ({str(error)[:200]}): use its own file."
        ) from error
    if len(shape) != 4 or tuple(shape[2:]) != (_LEAST_PX, _LEAST_PX) or not 0.01 <= network_mpp <= 100:
        raise BadWeights(f"{path} gives no instances of its input, or has no scale: use InstanSeg's own file.")

    def on(image: CellImage, mpp: float) -> Callable[[Box], Instances]:
        if mpp / network_mpp > _MOST_ENLARGED:
            raise BadSetting(
                f"The slide has {mpp:g} µm per pixel and InstanSeg works at {network_mpp:g}, more than "
                f"{_MOST_ENLARGED:g} times finer: use a finer scan, or declare its true scale."
            )
        sample = np.concatenate([image.read_rgb(box).reshape(-1, 3) for box in image.full_patches(_SAMPLED_PATCHES)])
        low, high = np.percentile(sample, _PERCENTILES, axis=0).astype(np.float32)
        span = np.maximum(high - low, 1e-3)

        def segment(box: Box) -> Instances:
            rgb = image.read_rgb(box)
            height_px, width_px = (max(1, round(side * mpp / network_mpp)) for side in rgb.shape[:2])
            pixels = (resize_image(rgb, Size(height_px, width_px)).astype(np.float32) - low) / span
            below, beyond = max(0, _LEAST_PX - height_px), max(0, _LEAST_PX - width_px)
            pixels = np.pad(pixels, ((0, below), (0, beyond), (0, 0)), constant_values=1.0)
            tensor = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).to(compute.torch_device)
            with torch.inference_mode():
                found = network(tensor)[0, 0].cpu().numpy()  # (H, W): the first output, nuclei
            labels = np.rint(found[:height_px, :width_px]).astype(np.int32)
            size = (rgb.shape[1], rgb.shape[0])
            back: Instances = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
            return back

        return segment

    return Segmenter(
        entry.name, entry.sha256, entry.licence, on, device_name=compute.device_name, backend="torchscript",
        precision="fp32",
    )  # fmt: skip
