"""The addresses of the atlas's pages; Dagster's results link to them."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from dermatome.skin.agreement.stage import REPORT_FILE
from dermatome.skin.atlas.stage import ATLAS_FILE
from dermatome.skin.profiles.stage import CARD_FILE
from dermatome.storage.layout import CHAMPION

REPORTS = {"skin_atlas": ATLAS_FILE, "hpa_agreement": REPORT_FILE, "gene_profiles": CARD_FILE}
SLIDE_ASSETS = ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers")


def report_place(asset: str, partition: str = CHAMPION) -> str:
    """Address of the page of a report of the platform."""
    return f"/atlas/reports/{asset}/{quote(partition)}/{REPORTS[asset]}"


def slide_place(slide: str) -> str:
    """Address of the page of a slide."""
    return f"/atlas/slide/{quote(slide)}"


def explain_place(slide: str, part: str, row: int | None, column: str) -> str:
    """Address of the page that explains a value of a slide; see :func:`dermatome.skin.explain.explain_value`."""
    given = {"part": part} | ({} if row is None else {"row": row}) | {"column": column}
    return f"{slide_place(slide)}/explain?{urlencode(given)}"


def place_of(asset: str, partition: str) -> str:
    """Address of the page of an asset's partition; empty if it has none."""
    if asset in REPORTS:
        return report_place(asset, partition)
    return slide_place(partition) if asset in SLIDE_ASSETS else ""
