"""`hpa_agreement`: HPA's annotation compared with measurements of the cores."""

from pathlib import Path

from assets.skin.profiles_summary import profiles_summary
from dermatome.skin.agreement.settings import AgreementSettings
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult


@profiles_summary("2", "agreement")
def hpa_agreement(root: DataRoot, folder: Path, settings: AgreementSettings) -> StageResult:
    """HPA's intensity, quantity and location for each antibody and tissue, compared with levels read from the cores.

    Files: `agreement.parquet`, `scores.parquet`, `confusion.parquet`, `thresholds.parquet`, `figure.png`, `figure.svg`,
    and the report `agreement.html`, which lists the largest disagreements first.
    """
    from dermatome.skin.agreement.stage import make_agreement

    return make_agreement(root, folder, settings)
