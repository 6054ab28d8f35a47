"""Settings of `hpa_images` and of the HPA client, and the licence and attribution that HPA requires for its data."""

from typing import Annotated, Literal

from pydantic import Field

from dermatome.storage.http import HttpLimits
from dermatome.storage.settings_model import Effect

LICENCE_PAGE = "https://www.proteinatlas.org/about/licence"
ATTRIBUTION = "Image credit: Human Protein Atlas, proteinatlas.org; Uhlén M et al., Science 347, 1260419 (2015)"


class HpaSettings(HttpLimits):
    """How data are requested from the Human Protein Atlas (HPA).

    Attributes:
        base_url: Site that is requested first, at ``/<ensembl id>.xml``.
        image: File type of images: ``jpeg``, which the page names, or ``tiff``, the lossless original (about 27 MB) at
            the same address with ``.tif``; if HPA has no TIFF, the JPEG is used.
        archive_urls: Older releases, requested in this order for genes or images that the site no longer has.
        allowed_hosts: Hosts that may be contacted, also by redirects; a leading dot allows all subdomains.
        max_page_bytes: Larger pages are refused, bytes.
        max_image_bytes: Larger images are refused, bytes.
        licence: Recorded with fetched data; the records of a page state the licence of its release.
        attribution: Recorded with fetched data.
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
