"""Other methods than Cellpose's to find cells: a method returns the instances of a window, and seams are handled here.

A :class:`~dermatome.inference.segmenter.Segmenter` is a network or an algorithm. Windows overlap by twice its
``halo_um``, and a window keeps the objects whose centre lies in its core, so seams neither cut nor double cells. The
following steps (selection by epidermis, numbers, table, checks and files) are the same for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dermatome.classes import Instances
from dermatome.errors import BadSetting, BadWeights
from dermatome.geometry import Box, Size
from dermatome.inference.segmenter import Segmenter
from dermatome.registry.published import trusted_program
from dermatome.skin.cells.blocks import CellPixels
from dermatome.skin.cells.image import PREPARATION, CellImage
from dermatome.slides.resize import resize_image
from dermatome.storage.files import sha256_bytes

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

INSTANSEG = "instanseg_brightfield_nuclei"
CORE_PX = 1024
"""Side of the core of a window, px."""


def segmenter_file(models: Path, named: str, method: str) -> Path:
    """The file of a method's network: the one imported into ``models``, or the one at the path ``named``.

    Raises:
        BadSetting: the method needs a network, but none is named.
    """
    if method == "watershed":
        return models
    if method == "instanseg":
        return models / f"{INSTANSEG}.pt" if named in ("", "cyto2", INSTANSEG) else Path(named)
    if named == "toy":
        return Path(__file__).parents[2] / "synthetic" / "nuclei_toy.safetensors"
    if named in ("", "cyto2"):
        raise BadSetting(
            "Cells are to be found by a network for nuclei, but none is named: set cell_weights to a weights file of "
            "'nuclei train'."
        )
    return Path(named)


def load_segmenter(path: Path, compute: Compute, method: str) -> Segmenter:
    """Loads the method, with its network from ``path``, on the device.

    Raises:
        BadWeights: the file is missing, damaged or not a network of that method.
    """
    if method == "watershed":
        return Segmenter(method, WATERSHED_SHA256, "", _watershed, backend="opencv")
    if method == "instanseg":
        return _load_instanseg(path, compute)
    # What is for skin does not import what is for nuclei: it only names it.
    segmenter: Segmenter = import_module("dermatome.nuclei.maps.window").load(path, compute)
    return segmenter


def cells_by_window(
    segment: Callable[[Box], Instances],
    image: CellImage,
    region: Box,
    *,
    halo_px: int,
    min_area_px: int,
    say: Callable[[str], None],
) -> Iterator[tuple[CellPixels, int]]:
    """Finds the cells of a region, one row of windows after another.

    Yields:
        The cells of a window, and the row of the slide above which no later window has a cell's pixel.
    """
    whole = Box.whole(image.size)
    for top in range(region.top_px, region.bottom_px, CORE_PX):
        bottom = min(top + CORE_PX, region.bottom_px)
        for left in range(region.left_px, region.right_px, CORE_PX):
            core = Box(top, left, bottom, min(left + CORE_PX, region.right_px))
            window = core.padded(halo_px).common(whole)
            if image.may_be_near(window):
                say(f"window at row {top}, column {left}")
                yield _owned(segment(window), window, core, min_area_px), top - halo_px
        image.forget_above(bottom - halo_px)


def seams(region: Box) -> list[list[float]]:
    """Rows, and columns, of the slide at which windows of :func:`cells_by_window` meet."""
    sides = ((region.top_px, region.bottom_px), (region.left_px, region.right_px))
    return [[float(at) for at in range(first + CORE_PX, last, CORE_PX)] for first, last in sides]


def _owned(labels: Instances, window: Box, core: Box, min_area_px: int) -> CellPixels:
    """The objects whose centre lies in the core of a window."""
    rows, columns = np.nonzero(labels)
    _, numbers = np.unique(labels[rows, columns], return_inverse=True)
    area = np.bincount(numbers)
    y, x = (np.bincount(numbers, places) / area for places in (rows, columns))
    numbered = np.zeros(labels.shape, np.int32)
    numbered[rows, columns] = numbers + 1
    return CellPixels.owned(numbered, y, x, window, core, area >= min_area_px)


_SMOOTH_UM = 0.5
_THRESHOLD = 0.5
"""Threshold on the equalised hematoxylin, which is about 0 to 1."""
_PEAK_DISTANCE_UM = 2.5
WATERSHED_SHA256 = sha256_bytes(f"watershed-1 {PREPARATION} {_SMOOTH_UM} {_THRESHOLD} {_PEAK_DISTANCE_UM}".encode())
"""Of what defines the watershed on hematoxylin, which needs no network: networks are compared with it."""


def _watershed(image: CellImage, mpp: float) -> Callable[[Box], Instances]:
    """Threshold, distance transform and watershed from its peaks (Vincent and Soille, 1991), with fixed numbers."""
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    def segment(box: Box) -> Instances:
        dark = cv2.GaussianBlur(image.network_input(box), (0, 0), _SMOOTH_UM / mpp)
        inside = (dark > _THRESHOLD).astype(np.uint8)
        inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
        depth = cv2.GaussianBlur(cv2.distanceTransform(inside, cv2.DIST_L2, 5), (0, 0), _SMOOTH_UM / mpp)
        nearest_px = max(1, round(_PEAK_DISTANCE_UM / mpp))
        peaks = peak_local_max(depth, min_distance=nearest_px, exclude_border=False, labels=inside)
        markers = np.zeros(depth.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        found: Instances = watershed(-depth, markers, mask=inside.astype(bool)).astype(np.int32)
        return found

    return segment


_PERCENTILES = (0.1, 99.9)
_LEAST_PX = 128
"""Smallest side that the network's description allows, px."""
_MOST_ENLARGED = 4.0
_SAMPLED_PATCHES = 16


def _load_instanseg(path: Path, compute: Compute) -> Segmenter:
    """InstanSeg, which gives instances itself; its TorchScript file holds network and post-processing.

    Goldsborough et al. 2024, https://doi.org/10.48550/arXiv.2408.15954. The file takes (1, 3, H, W) RGB at its own
    pixel size, each channel stretched between two percentiles of the slide, and gives (1, D, H, W) instances. The
    percentiles are those of the slide's patches with most epidermis. TorchScript is a program: only a file that was
    taken over as trusted is loaded (:func:`dermatome.registry.published.trusted_program`).

    Raises:
        BadWeights: the file is not the trusted one, or not an InstanSeg network for RGB images.
        BadSetting: raised for a slide that is far coarser than the network's scale.
    """
    import torch

    entry = trusted_program(path)
    try:
        network = torch.jit.load(str(path), map_location=compute.torch_device).eval()  # type: ignore[no-untyped-call]
        network_mpp = float(network.pixel_size)
        with torch.inference_mode():
            shape = network(torch.zeros(1, 3, _LEAST_PX, _LEAST_PX, device=compute.torch_device)).shape
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise BadWeights(
            f"{path} is not an InstanSeg network for RGB images ({str(error)[:200]}): use InstanSeg's own file."
        ) from error
    if len(shape) != 4 or tuple(shape[2:]) != (_LEAST_PX, _LEAST_PX) or not 0.01 <= network_mpp <= 100:
        raise BadWeights(f"{path} returns no instances, or states no scale: use InstanSeg's own file.")

    def on(image: CellImage, mpp: float) -> Callable[[Box], Instances]:
        if mpp / network_mpp > _MOST_ENLARGED:
            raise BadSetting(
                f"The slide has {mpp:g} µm per pixel but InstanSeg works at {network_mpp:g}, more than "
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
