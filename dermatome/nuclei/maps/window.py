"""The network of nuclei as a way to find the cells of skin: instances of a window (`[cells] segmenter = "nuclei"`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dermatome.classes import Instances, RgbImage
from dermatome.errors import BadWeights
from dermatome.geometry import Box
from dermatome.nuclei.maps.network import load_nucleus_weights
from dermatome.nuclei.maps.networks import weights_path
from dermatome.nuclei.maps.segment import NucleusNetwork, prepare_nuclei, segment_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.slides.slide import MppSource, Slide

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

# Whether a tile is background is decided in its window, and would differ at the edges of windows.
_SETTINGS = NucleusSettings(skip_background=False, only_tissue=False)


class _Readable(Protocol):
    def read_rgb(self, box: Box) -> RgbImage: ...


@dataclass(frozen=True)
class WindowNuclei:
    """Finds nuclei in windows; the attributes are those of the skin's segmenters."""

    name: str
    sha256: str
    licence: str
    warning: str
    device_name: str
    backend: str
    precision: str
    network: NucleusNetwork
    halo_um: float = 40.0

    def on(self, image: _Readable, mpp: float) -> Callable[[Box], Instances]:
        """A function that gives the nuclei in a box, (h, w) int32."""

        def segment(box: Box) -> Instances:
            slide = Slide("window", image.read_rgb(box), mpp, MppSource.DECLARED, "")
            (found,) = segment_nuclei([slide], self.network, _SETTINGS)
            instances: Instances = found.instances.whole()
            return instances

        return segment


def load(path: Path, compute: Compute) -> WindowNuclei:
    """The network at ``path``, or the shipped one if it is ``toy``.

    Raises:
        BadWeights: the file is missing or damaged, or its patches were stain-normalised, which windows are not.
    """
    weights = load_nucleus_weights(weights_path(str(path)))
    card = weights.card
    if card.normalised_stain:
        raise BadWeights(f"{path} learnt from stain-normalised patches and cannot find cells here: use another.")
    network = prepare_nuclei(weights, compute, _SETTINGS)
    name = card.name or weights.path.stem
    device, runner = compute.device_name, network.runner
    return WindowNuclei(
        name, weights.sha256, card.licence, card.warning, device, runner.backend, runner.precision, network
    )
