"""The nucleus network as a method that finds cells in skin: instances of a window (`[cells] segmenter = "nuclei"`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dermatome.classes import Instances, RgbImage
from dermatome.errors import BadWeights
from dermatome.geometry import Box
from dermatome.inference.segmenter import Segmenter
from dermatome.nuclei.maps.network import load_nucleus_weights
from dermatome.nuclei.maps.networks import weights_path
from dermatome.nuclei.maps.segment import prepare_nuclei, segment_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.slides.slide import MppSource, Slide

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

# Whether a tile is background would be decided in its window, and differ at the edges of windows.
_SETTINGS = NucleusSettings(skip_background=False, only_tissue=False)


class _Readable(Protocol):
    def read_rgb(self, box: Box) -> RgbImage: ...


def load(path: Path, compute: Compute) -> Segmenter:
    """The network at ``path``, or the shipped one if it is ``toy``.

    Raises:
        BadWeights: the file is missing or damaged, or its patches were stain-normalised, which windows are not.
    """
    weights = load_nucleus_weights(weights_path(str(path)))
    card = weights.card
    if card.normalised_stain:
        raise BadWeights(f"{path} was trained on stain-normalised patches and cannot find cells here: use another.")
    network = prepare_nuclei(weights, compute, _SETTINGS)

    def on(image: _Readable, mpp: float) -> Callable[[Box], Instances]:
        def segment(box: Box) -> Instances:
            slide = Slide("window", image.read_rgb(box), mpp, MppSource.DECLARED, "")
            (found,) = segment_nuclei([slide], network, _SETTINGS)
            instances: Instances = found.instances.whole()
            return instances

        return segment

    return Segmenter(
        card.name or weights.path.stem, weights.sha256, card.licence, on, warning=card.warning,
        device_name=compute.device_name, backend=network.runner.backend, precision=network.runner.precision,
    )  # fmt: skip
