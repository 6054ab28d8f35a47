"""Settings of `hpa_images` and of the HPA client; the licence and the attribution that HPA requires for its data."""

from typing import Annotated, Literal

from pydantic import Field

from dermatome.storage.http import HttpLimits
from dermatome.storage.settings_model import Effect

LICENCE_PAGE = "https://www.proteinatlas.org/about/licence"
ATTRIBUTION = "Image credit: Human Protein Atlas, proteinatlas.org; Uhlén M et al., Science 347, 1260419 (2015)"


class HpaSettings(HttpLimits):
    """How data are requested from the Human Protein Atlas (HPA).

    Attributes:
        base_url: Site whose ``/<ensembl id>.xml`` is asked first.
        image: Which file of an image is fetched: ``jpeg``, which the page names, or ``tiff``, the lossless original at
            the same address with ``.tif`` (some 27 MB); the JPEG where HPA has no TIFF.
        archive_urls: Older releases, asked in turn for a gene or for images that the site no longer has.
        allowed_hosts: Hosts that may be asked, redirects included; a leading dot allows all names below it.
        max_page_bytes: A larger page is refused.
        max_image_bytes: A larger image is refused.
        licence: Recorded with what is fetched; the records of a page name the licence of its release.
        attribution: Recorded with what is fetched.
    """

    base_url: str = "https://www.proteinatlas.org"
    image: Literal["jpeg", "tiff"] = "jpeg"
    archive_urls: tuple[str, ...] = ("https://v19.proteinatlas.org",)
    allowed_hosts: Annotated[tuple[str, ...], Effect.LIMIT] = (".proteinatlas.org",)
    max_page_bytes: Annotated[int, Effect.LIMIT] = Field(default=16 * 1024 * 1024, ge=1, le=1 << 31)
    max_image_bytes: Annotated[int, Effect.LIMIT] = Field(default=128 * 1024 * 1024, ge=1, le=1 << 33)
    licence: str = f"as stated at {LICENCE_PAGE}"
    attribution: str = ATTRIBUTION


def licence_of(release: str) -> str:
    """The licence of an HPA release and the page that states it; only the page for an unknown release.

    Source: the ``about/licence`` page of the releases (``v15.proteinatlas.org/about/licence`` and later ones).
    """
    try:
        number = float(release)
    except ValueError:
        return f"as stated at {LICENCE_PAGE}"
    name = "CC BY-NC-ND 4.0" if number < 16 else "CC BY-SA 3.0" if number < 24 else "CC BY-SA 4.0"
    return f"{name} ({LICENCE_PAGE})"
