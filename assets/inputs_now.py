"""The present versions of the inputs that are not upstream results of the same key, by which stale results are found.

Belongs here: source files, networks, and the slides or genes that a summary is computed from. Upstream results of the
same key and champions are compared in `dermatome.pipeline.staleness`.
"""

from collections.abc import Callable

from dermatome.errors import BadWeights, MissingInput
from dermatome.nuclei.maps.networks import find_nucleus_weights
from dermatome.pipeline.staleness import InputsNow
from dermatome.registry.champion import Weights
from dermatome.registry.model_kinds import CELLS, NUCLEI, ModelKind
from dermatome.settings import Settings
from dermatome.skin.cells.networks import find_cell_weights
from dermatome.slides.register import read_sources
from dermatome.slides.source import inbox_sources, sources_now
from dermatome.storage.layout import DataRoot


def inputs_now(asset: str, root: DataRoot, settings: Settings) -> InputsNow | None:
    """What :func:`dermatome.pipeline.staleness.stale_partitions` takes; None if all inputs are upstream results."""
    match asset:
        case "slide_images":
            return sources_now(read_sources(root.slide_sources), root.path, "hpa_images")
        case "nuclei_slides":
            return sources_now(inbox_sources(root.nuclei_inbox), root.path, "nuclei_inbox")
        case "cell_masks":
            named, segmenter = settings.cell_weights, settings.cells.segmenter
            # The published network never changes, and finding it would download it.
            if (named, segmenter) == ("cyto2", "cellpose"):
                return None
            return _network(CELLS, lambda: find_cell_weights(root, named, segmenter))
        case "nucleus_maps":
            return _network(NUCLEI, lambda: find_nucleus_weights(root, settings.nuclei_weights))
        case "gene_profiles":
            from dermatome.skin.profiles.stage import gene_inputs

            return lambda record: gene_inputs(root, record.partition)
        case "skin_atlas" | "hpa_agreement":
            from dermatome.skin.profiles.stage import profiles_version

            return lambda record: profiles_version(root)
    return None


def _network(kind: ModelKind, find: Callable[[], Weights]) -> InputsNow | None:
    try:
        weights = find()
    except (MissingInput, BadWeights):
        return None
    now = {kind.champion: weights.data_version, "weights_sha256": weights.sha256}
    return lambda record: now
