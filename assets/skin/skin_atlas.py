"""`skin_atlas`: all gene profiles in one searchable HTML file, and literature markers as a control."""

from pathlib import Path

from assets.skin.profiles_summary import profiles_summary
from dermatome.skin.atlas.settings import AtlasSettings
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult


@profiles_summary(
    "3",
    "atlas",
    checks={
        "markers_as_expected": "Basal, suprabasal and granular marker genes stain where the literature says they do.",
    },
)
def skin_atlas(root: DataRoot, folder: Path, settings: AtlasSettings) -> StageResult:
    """All genes by relative depth: a clustered heatmap, a searchable table of patterns, and a check on known markers.

    `atlas.html` needs no other file; its links lead to the genes' cards in the data root.
    """
    from dermatome.skin.atlas.stage import make_atlas

    return make_atlas(root, folder, settings)
