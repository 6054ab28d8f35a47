"""Which network nuclei are found with, as it is sent to workers, which load it for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.errors import BadWeights, MissingInput
from dermatome.nuclei.maps.network import load_nucleus_weights
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import require_record

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.training.weights import LoadedWeights

TOY_WEIGHTS = Path(__file__).parents[2] / "synthetic" / "nuclei_toy.safetensors"
"""The small network that ships; it was trained on toys (:mod:`dermatome.synthetic.train_nuclei`)."""
ASSET = "nuclei_weights"


def weights_path(weights: str) -> Path:
    """The file that a person names: ``toy`` is the one that ships."""
    return TOY_WEIGHTS if weights == "toy" else Path(weights)


@dataclass(frozen=True)
class NucleusWeights:
    """The network that finds nuclei.

    Attributes:
        root: the data root.
        weights: ``toy``, a training version or the path of a weights file.
        sha256: of the weights file.
    """

    root: DataRoot
    weights: str
    sha256: str

    @classmethod
    def of(cls, root: DataRoot, weights: str) -> NucleusWeights:
        """The network of that name or path; the training version that was made last where ``weights`` is empty.

        Raises:
            MissingInput: no version is trained yet.
            BadWeights: there is no such version or file.
        """
        made = root.partitions(ASSET)
        if not weights:
            if not made:
                raise MissingInput(
                    "There is no network of nuclei yet: materialize nuclei_weights for a training version, or set "
                    "nuclei_weights in settings.toml to a weights file, or to 'toy', the one for toy slides."
                )
            weights = max(made, key=lambda version: require_record(root, ASSET, version).made_at)
        if weights in made:
            return cls(root, weights, str(require_record(root, ASSET, weights).values["weights_sha256"]))
        path = weights_path(weights)
        if not path.is_file():
            raise BadWeights(
                f"There are no weights of nuclei named {weights!r}: name a training version "
                f"({', '.join(made) or 'none so far'}), a weights file, or 'toy'."
            )
        return cls(root, weights, sha256_file(path))

    @property
    def data_version(self) -> str:
        """Of the training version's record; ``NULL``, as Dagster says of what it has not made, for a file."""
        made = self.weights in self.root.partitions(ASSET)
        return require_record(self.root, ASSET, self.weights).data_version if made else "NULL"

    def load(self, compute: Compute) -> LoadedWeights:
        """The network on the device.

        Raises:
            BadWeights: the file is gone, damaged or not the one of :attr:`sha256`.
        """
        if self.weights in self.root.partitions(ASSET):
            loaded = load_nucleus_weights(self.root.folder(ASSET, self.weights) / WEIGHTS_FILE)
        else:
            loaded = load_nucleus_weights(weights_path(self.weights))
        if loaded.sha256 != self.sha256:
            raise BadWeights(
                f"The weights {self.weights} were replaced while the run went on (sha256 {loaded.sha256[:12]}… instead "
                f"of {self.sha256[:12]}…): materialize nucleus_maps again."
            )
        loaded.network.to(compute.torch_device)
        return loaded
