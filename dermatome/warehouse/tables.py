"""The tables and views of the metrics store: their columns, the files they are made of, the questions they answer."""

from __future__ import annotations

from dermatome.hpa.records import IMAGE_RECORD_SCHEMA
from dermatome.storage.layout import RECORD_FILE
from dermatome.warehouse.nuclei_tables import NUCLEI_TABLES, NUCLEI_VIEWS
from dermatome.warehouse.table import Table
from dermatome.warehouse.training_tables import TRAINING_TABLES, TRAINING_VIEWS

FAILURES = "failures"
"""No asset: the folder of what failed, with a folder for each asset and a file for each partition."""

_TEXT = "varchar"
_SCALE = {"mpp": "double", "mpp_source": _TEXT}
_CELL_TYPES = "struct(cell_type varchar, staining varchar, intensity varchar, quantity varchar, location varchar)[]"
_NESTED = {
    "age": "smallint",
    "snomed": "struct(code varchar, description varchar)[]",
    "cell_types": _CELL_TYPES,
    "gene_cell_types": "struct(cell_type varchar, level varchar)[]",
}

TABLES: dict[str, Table] = {
    "images": Table(
        "hpa_images",
        "images.parquet",
        {name: _NESTED.get(name, _TEXT) for name in IMAGE_RECORD_SCHEMA.names},
    ),
    "slides": Table(
        "slide_images",
        RECORD_FILE,
        {
            "origin": _TEXT,
            "location": _TEXT,
            "gene": _TEXT,
            "ensembl_id": _TEXT,
            "file": _TEXT,
            "bytes": "bigint",
            "image_sha256": _TEXT,
            "height_px": "integer",
            "width_px": "integer",
            **_SCALE,
            "conversions": _TEXT,
            "http_status": "integer",
            "grey_spread": "double",
        },
        key="slide",
    ),
    "masks": Table(
        "epidermis_masks",
        RECORD_FILE,
        {
            "weights": _TEXT,
            "weights_sha256": _TEXT,
            "device": _TEXT,
            "precision": _TEXT,
            "backend": _TEXT,
            **_SCALE,
            "crop_top_px": "integer",
            "crop_left_px": "integer",
            "crop_bottom_px": "integer",
            "crop_right_px": "integer",
            "mean_confidence": "double",
            "tiles": "integer",
            "background_share": "double",
            "dermis_share": "double",
            "epidermis_share": "double",
            "keratin_share": "double",
            "epidermis_um2": "double",
        },
        key="slide",
    ),
    "cell_masks": Table(
        "cell_masks",
        RECORD_FILE,
        {
            "weights": _TEXT,
            "weights_sha256": _TEXT,
            "mask_weights_sha256": _TEXT,
            "device": _TEXT,
            "backend": _TEXT,
            **_SCALE,
            "cells": "integer",
            "cells_per_mm2": "double",
            "diameter_px": "double",
            "diameter_source": _TEXT,
        },
        key="slide",
    ),
    "cells": Table(
        "cell_masks",
        "cells.parquet",
        {
            "slide": _TEXT,
            "cell_id": "integer",
            "centroid_y_px": "double",
            "centroid_x_px": "double",
            "area_px": "integer",
            "area_um2": "double",
            "equivalent_diameter_px": "double",
            "equivalent_diameter_um": "double",
            "mean_h_od": "double",
            "mean_dab_od": "double",
        },
    ),
    "cell_layers": Table(
        "epidermis_layers",
        "cell_layers.parquet",
        {"slide": _TEXT, "cell_id": "integer", "layer": "integer", "distance_um": "double"},
    ),
    "layers": Table(
        "epidermis_layers",
        "layers.parquet",
        {
            "slide": _TEXT,
            "layer": "integer",
            "distance_from_um": "double",
            "distance_to_um": "double",
            "area_px": "bigint",
            "area_um2": "double",
            "cells": "integer",
            "mean_dab_od": "double",
            "mean_h_od": "double",
            "dab_h_ratio": "double",
            "positive_share": "double",
            "h_score": "double",
        },
    ),
    "layer_slides": Table(
        "epidermis_layers",
        RECORD_FILE,
        {
            **_SCALE,
            "layers": "integer",
            "layer_um": "double",
            "h_score": "double",
            "positive_share": "double",
            "pattern": _TEXT,
            "detached_um2": "double",
        },
        key="slide",
    ),
    **TRAINING_TABLES,
    **NUCLEI_TABLES,
    "failures": Table(
        FAILURES,
        "*/*.parquet",
        {
            "asset": _TEXT,
            "partition": _TEXT,
            "error": _TEXT,
            "kind": _TEXT,
            "run_id": _TEXT,
            "failed_at": "timestamptz",
            "tries": "bigint",
        },
    ),
}

_STAGES = {table.asset: name for name, table in TABLES.items() if table.key == "slide"}
_ASSETS = ", ".join(f"'{asset}'" for asset in _STAGES)
_RECORDS = " union all ".join(
    f"select '{asset}' as asset, slide, data_version, inputs from {name}" for asset, name in _STAGES.items()
)

VIEWS: dict[str, str] = {
    # What each record of a slide was made from, beside what the slide has of that now. Which champion made a mask is
    # another question: slides_not_from_champion answers it.
    "links": f"""
        with made as ({_RECORDS})
        select m.asset, m.slide, i.key as upstream, i.value ->> '$' as version, u.data_version as version_now,
            version is not distinct from version_now as current
        from made m cross join json_each(m.inputs) i left join made u on u.asset = i.key and u.slide = m.slide
        where i.key in ({_ASSETS}) order by all""",
    # A row says what the last stage it has was made from. Where any link is of a version that has been replaced since,
    # it is not current and what was replaced is null: no image or mask is named that a number does not come from.
    "lineage": """
        with held as (
            select slide, bool_and(current) as current, bool_and(current) filter (upstream = 'slide_images') as image,
                bool_and(current) filter (upstream = 'epidermis_masks') as mask,
                bool_and(current) filter (upstream = 'cell_masks') as cells
            from links where upstream in ('slide_images', 'epidermis_masks', 'cell_masks') group by slide)
        select s.slide, s.gene, h.current is not false as current, i.location, i.image_sha256, i.mpp, i.mpp_source,
            m.weights as tissue_weights, m.weights_sha256 as tissue_weights_sha256, m.code_version as mask_code,
            m.run_id as mask_run, k.weights as cell_weights, k.weights_sha256 as cell_weights_sha256,
            k.code_version as cell_code, k.run_id as cell_run, l.code_version as layer_code, l.run_id as layer_run,
            m.settings as mask_settings, k.settings as cell_settings, l.settings as layer_settings
        from slides s left join held h using (slide)
            left join slides i on i.slide = s.slide and h.image is not false
            left join masks m on m.slide = s.slide and h.mask is not false
            left join cell_masks k on k.slide = s.slide and h.cells is not false
            left join layer_slides l on l.slide = s.slide order by s.slide""",
    # An antibody can be on the pages of several genes, and its images then count for each; a slide keeps one gene only.
    # Slides whose layers are not current (see lineage) do not count: a mean of old and new images is of neither.
    "dab_profile_by_gene": """
        with genes as (
            select distinct i.slide, i.gene, i.ensembl_id
            from images i join slides s using (slide) where s.origin is distinct from 'folder'
            union
            select s.slide, s.gene, s.ensembl_id from slides s
            where s.origin = 'folder' or not exists (select 1 from images i where i.slide = s.slide))
        select g.gene, g.ensembl_id, l.layer, count(distinct l.slide) as slides, sum(l.cells) as cells,
            avg(l.mean_dab_od) as mean_dab_od, stddev_samp(l.mean_dab_od) as sd_dab_od, avg(l.mean_h_od) as mean_h_od,
            avg(l.dab_h_ratio) as dab_h_ratio, avg(l.h_score) as h_score
        from layers l semi join (select slide from lineage where current) using (slide) join genes g using (slide)
        group by all order by gene, layer""",
    "slides_not_from_champion": """
        select m.slide, m.weights, m.weights_sha256, c.version as champion, c.weights_sha256 as champion_sha256
        from masks m cross join champion c where m.weights_sha256 <> c.weights_sha256 order by slide""",
    **TRAINING_VIEWS,
    "cells_by_slide": """
        with replaced as (
            select distinct slide, false as current
            from links where not current and asset in ('epidermis_masks', 'cell_masks'))
        select s.slide, s.gene, coalesce(r.current, k.slide is not null) as current, k.outcome,
            coalesce(k.cells, 0) as cells, k.cells_per_mm2, avg(c.area_um2) as mean_area_um2,
            avg(c.mean_dab_od) as mean_dab_od
        from slides s left join cell_masks k using (slide) left join cells c using (slide)
            left join replaced r using (slide)
        group by all order by s.slide""",
    **NUCLEI_VIEWS,
}
