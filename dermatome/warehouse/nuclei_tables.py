"""The tables of nuclei: versions of their network, slides, every nucleus, and TIL; and what those were made from."""

from __future__ import annotations

from dermatome.classes import NUCLEUS_LABELS, TERNARY_LABELS, UNCLASSIFIED
from dermatome.storage.layout import RECORD_FILE
from dermatome.warehouse.table import Table

_TEXT = "varchar"
_SCALE = {"mpp": "double", "mpp_source": _TEXT}
_KINDS = NUCLEUS_LABELS[1:]
_INSTANCE_SCORES = (
    *("pq_binary", "dq_binary", "sq_binary", "pq_classes", *(f"pq_{label}" for label in _KINDS)),
    *("aji", "f1_detection", "class_accuracy", "dice_mean_micro", "dice_mean_macro", "iou_mean_micro"),
    *("iou_mean_macro", *(f"dice_{label}_micro" for label in _KINDS)),
)
_EPOCH = ("seconds", "learning_rate", "train_loss", "score")
_PIXEL_SCORES = (
    *(f"{score}_{label}" for score in ("iou", "dice") for label in NUCLEUS_LABELS),
    *(f"ternary_dice_{label}" for label in TERNARY_LABELS),
)

NUCLEI_TABLES: dict[str, Table] = {
    "nuclei_training": Table(
        "nuclei_weights",
        RECORD_FILE,
        {
            **dict.fromkeys(("weights_sha256", "parent", "parent_sha256", "encoder"), _TEXT),
            **dict.fromkeys(("boundary_weighting", "immune_sampling", "resumed"), "boolean"),
            "seed": "bigint",
            **dict.fromkeys(("epochs", "steps", "patches", "patches_validated"), "integer"),
            **dict.fromkeys(("images_validated", "nuclei_validated"), "integer"),
            "mpp": "double",
            **dict.fromkeys(("patches_sha256", "manifest_sha256", "validation", "device", "precision"), _TEXT),
            "score": "double",
            **{f"ternary_dice_{label}": "double" for label in TERNARY_LABELS},
            **dict.fromkeys(_INSTANCE_SCORES, "double"),
        },
        key="version",
    ),
    "nuclei_training_epochs": Table(
        "nuclei_weights",
        "history.parquet",
        {
            "version": _TEXT,
            "epoch": "integer",
            "step": "integer",
            **dict.fromkeys((*_EPOCH, *_PIXEL_SCORES), "double"),
        },
    ),
    "nuclei_slides": Table(
        "nuclei_slides",
        RECORD_FILE,
        {
            **dict.fromkeys(("origin", "location", "file"), _TEXT),
            "bytes": "bigint",
            "image_sha256": _TEXT,
            "height_px": "integer",
            "width_px": "integer",
            **_SCALE,
            "conversions": _TEXT,
            "grey_spread": "double",
        },
        key="slide",
    ),
    "nucleus_maps": Table(
        "nucleus_maps",
        RECORD_FILE,
        {
            **dict.fromkeys(("weights", "weights_sha256", "device", "precision", "backend"), _TEXT),
            "height_px": "integer",
            "width_px": "integer",
            **_SCALE,
            "stain": _TEXT,
            "tiles": "integer",
            "nuclei": "integer",
            "tissue_mm2": "double",
            "nuclei_per_mm2": "double",
            **dict.fromkeys((*_KINDS, UNCLASSIFIED), "integer"),
        },
        key="slide",
    ),
    "nuclei": Table(
        "nucleus_maps",
        "nuclei.parquet",
        {
            "slide": _TEXT,
            "nucleus_id": "integer",
            "centroid_y_px": "double",
            "centroid_x_px": "double",
            "area_px": "integer",
            **dict.fromkeys(("area_um2", "equivalent_diameter_um", "major_axis_um", "minor_axis_um"), "double"),
            **dict.fromkeys(("eccentricity", "orientation"), "double"),
            "class": _TEXT,
            "class_probability": "double",
            **{f"probability_{label}": "double" for label in _KINDS},
        },
    ),
    "til_scores": Table(
        "til_scores",
        RECORD_FILE,
        {
            "weights": _TEXT,
            "weights_sha256": _TEXT,
            **_SCALE,
            "tissue_mm2": "double",
            **dict.fromkeys(_KINDS, "integer"),
            "lymphocytes_per_mm2": "double",
            "immune_share": "double",
            "near_epithelium_share": "double",
            "infiltrated_share": "double",
        },
        key="slide",
    ),
    "til_squares": Table(
        "til_scores",
        "til_map.parquet",
        {
            "slide": _TEXT,
            **dict.fromkeys(("top_um", "left_um", "side_um"), "double"),
            **dict.fromkeys(("nuclei", "lymphocytes"), "integer"),
            "lymphocytes_per_mm2": "double",
        },
    ),
}

NUCLEI_VIEWS: dict[str, str] = {
    # As the view lineage. TIL does not record its image, so that is named only where every link is current.
    "nuclei_lineage": """
        with held as (
            select slide, bool_and(current) as current, bool_and(current) filter (upstream = 'nucleus_maps') as maps
            from links where upstream in ('nuclei_slides', 'nucleus_maps') group by slide)
        select s.slide, h.current is not false as current, i.location, i.image_sha256, i.mpp, i.mpp_source,
            coalesce(t.weights, m.weights) as weights, coalesce(t.weights_sha256, m.weights_sha256) as weights_sha256,
            m.code_version as map_code, m.run_id as map_run, t.code_version as til_code, t.run_id as til_run,
            m.settings as map_settings, t.settings as til_settings
        from nuclei_slides s left join held h using (slide)
            left join nuclei_slides i on i.slide = s.slide and h.current is not false
            left join nucleus_maps m on m.slide = s.slide and h.maps is not false
            left join til_scores t on t.slide = s.slide order by s.slide""",
}
