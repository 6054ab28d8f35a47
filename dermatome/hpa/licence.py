"""The licence and the attribution that HPA requires for its data."""

from __future__ import annotations

LICENCE_PAGE = "https://www.proteinatlas.org/about/licence"
ATTRIBUTION = "Image credit: Human Protein Atlas, proteinatlas.org; Uhlén M et al., Science 347, 1260419 (2015)"


def licence_of(release: str) -> str:
    """The licence of an HPA release and the page that states it; only the page for an unknown release.

    Source: the ``about/licence`` page of the releases (``v15.proteinatlas.org/about/licence`` and later ones).
    """
    try:
        number = float(release)
    except ValueError:
        return f"as stated at {LICENCE_PAGE}"
    if number < 16:
        name = "CC BY-NC-ND 4.0"
    elif number < 24:
        name = "CC BY-SA 3.0"
    else:
        name = "CC BY-SA 4.0"
    return f"{name} ({LICENCE_PAGE})"
