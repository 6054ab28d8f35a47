"""The origin of a skin slide as metadata of its assets: gene, antibody, patient, image, upstream results."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import dagster as dg

from assets.materialize import partition_url
from dermatome.errors import DermatomeError
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import read_record

_UPSTREAM = ("slide_images", "epidermis_masks", "cell_masks")


def origin_of(root: DataRoot, slides: Sequence[str]) -> Callable[[str], Mapping[str, Any]]:
    """The origin of each slide as metadata; of a slide of one's own, only its image."""
    from dermatome.hpa.records import gene_images
    from dermatome.slides.register import read_sources

    sources = read_sources(root.slide_sources, slides)

    @cache
    def images(ensembl_id: str) -> dict[str, dict[str, str | None]]:
        try:
            rows = gene_images(root, ensembl_id)
        except (DermatomeError, OSError):  # the slide's own results do not depend on it
            return {}
        return {row["slide"]: row for row in rows}

    def origin(slide: str) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        if (source := sources.get(slide)) is not None and source.origin == "hpa":
            row = images(source.ensembl_id).get(slide, {})
            shown |= {"gene": source.gene, "ensembl_id": source.ensembl_id}
            shown |= {name: str(row[name]) for name in ("antibody", "patient_id") if row.get(name)}
            shown["image_url"] = dg.MetadataValue.url(source.location)
            shown["hpa_images"] = partition_url("hpa_images", source.ensembl_id)
        elif source is not None:
            shown["image_file"] = dg.MetadataValue.path(source.location)
        for asset, kind in (("epidermis_masks", "tissue_weights"), ("cell_masks", "cell_weights")):
            if (record := read_record(root.record(asset, slide))) is not None and "weights" in record.values:
                shown[kind] = str(record.values["weights"])
        return shown | {asset: partition_url(asset, slide) for asset in _UPSTREAM}

    return origin
