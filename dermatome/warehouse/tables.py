"""The tables of the metrics store: which file of which asset each is filled from, and its columns.

A number that is not declared here is kept, too: its column is added with the type that it has in the file. Declare it
nevertheless, so that the column is there when no file has it and its type does not depend on the first file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from dermatome.classes import NUCLEUS_LABELS, TERNARY_LABELS, TISSUE_LABELS, UNCLASSIFIED
from dermatome.storage.layout import FAILURES, RECORD_FILE

RECORD_COLUMNS = (
    "outcome varchar, message varchar, data_version varchar, fingerprint varchar, code_version varchar, inputs json, "
    "settings json, seconds json, libraries json, checks json, run_id varchar, made_at timestamptz"
)
"""Columns that every record has; see :class:`dermatome.storage.record.StageRecord`."""


@dataclass(frozen=True)
class Table:
    """One table of the store.

    Attributes:
        asset: Asset whose partitions fill the table. Partitions without a record do not count.
        file: File in each partition's folder that holds the rows.
        own_columns: Column definitions in SQL.
        key: Name of the partition's column if the table is filled from records, one row for each.
    """

    asset: str
    file: str
    own_columns: str
    key: str | None = None

    @property
    def columns(self) -> str:
        """All column definitions, including the record columns if the table is filled from records."""
        return f"{self.key} varchar, {RECORD_COLUMNS}, {self.own_columns}" if self.key else self.own_columns


def _of(names: Iterable[str], kind: str = "double") -> str:
    return ", ".join(f"{name} {kind}" for name in names)


def _record(asset: str, key: str, columns: str) -> Table:
    return Table(asset, RECORD_FILE, columns, key)


_SCALE = "mpp double, mpp_source varchar"
_LIGHT = "i0_red double, i0_green double, i0_blue double, i0_source varchar"
_DYES = "stain_source varchar, hematoxylin_rgb varchar, dab_rgb varchar"
_IMAGE = f"file varchar, bytes bigint, image_sha256 varchar, height_px integer, width_px integer, {_SCALE}"
_STAINS = (
    "area_px bigint, mean_dab_od double, mean_h_od double, dab_h_ratio double, positive_share double, h_score double"
)
_WEIGHTS = "weights varchar, weights_sha256 varchar, synthetic boolean"
_PARENT = "weights_sha256 varchar, parent varchar, parent_sha256 varchar"
_LENGTH = "epochs integer, steps integer"
_EPOCH = "version varchar, epoch integer, step integer, seconds double, learning_rate double, train_loss double"
_PIXEL_SCORES = ("iou", "f1", "precision", "recall", "mcc", "boundary_f1")
_MEAN_SCORES = (
    f"{_of(f'mean_{score}' for score in _PIXEL_SCORES)}, accuracy double, calibration_error double, "
    f"{_of(f'{score}_{label}' for score in _PIXEL_SCORES for label in TISSUE_LABELS)}"
)
_IOU = _of(f"iou_{label}" for label in TISSUE_LABELS)
_AP = ("ap_50", "ap_75", "ap_90")
_AP_BOTH = _of([*_AP, *(f"{score}_before" for score in _AP)])
_HOLD_OUT = "hold_out_sha256 varchar, samples integer, sources varchar"
_HOLD_OUT_SCORES = "weights_sha256 varchar, hold_out_sha256 varchar, hold_out_leaks integer, margin double"
_CHAMPION = "version varchar, weights_sha256 varchar, chosen_by varchar, score double, despite_drop boolean"
_NUCLEI = NUCLEUS_LABELS[1:]
_TERNARY = _of(f"ternary_dice_{label}" for label in TERNARY_LABELS)
_MICRO_MACRO = (*_NUCLEI, "mean")
_HOLD_OUT_NUCLEI = (
    *(f"{score}_{label}_{how}" for score in ("iou", "dice") for label in _MICRO_MACRO for how in ("micro", "macro")),
    *("dice_inside", "dice_boundary", "pq_binary", "dq_binary", "sq_binary", "pq_binary_macro", "pq_classes"),
    *(f"pq_{label}" for label in _NUCLEI),
    *("aji", "aji_micro", "f1_detection", "class_accuracy"),
)
_INSTANCE_SCORES = _of(
    [
        *("pq_binary", "dq_binary", "sq_binary", "pq_classes", *(f"pq_{label}" for label in _NUCLEI)),
        *("aji", "f1_detection", "class_accuracy", "dice_mean_micro", "dice_mean_macro", "iou_mean_micro"),
        *("iou_mean_macro", *(f"dice_{label}_micro" for label in _NUCLEI)),
    ]
)
_AGREEMENT_SCORES = ("kappa", "accuracy", "spearman", "calibration_error")
_HPA_IMAGE = (
    "slide varchar, gene varchar, ensembl_id varchar, synonyms varchar[], antibody varchar, tissue varchar, "
    "organ varchar, "
    "image_url varchar, image_url_tif varchar, sex varchar, age smallint, patient_id varchar, "
    "snomed struct(code varchar, description varchar)[], "
    "cell_types struct(cell_type varchar, staining varchar, intensity varchar, quantity varchar, location varchar)[], "
    "staining varchar, intensity varchar, quantity varchar, location varchar, gene_expression varchar, "
    "gene_cell_types struct(cell_type varchar, level varchar)[], reliability varchar, verification varchar, "
    "technology varchar, release varchar, licence varchar, page_sha256 varchar"
)

TABLES: dict[str, Table] = {
    "images": Table("hpa_images", "images.parquet", _HPA_IMAGE),
    "slides": _record(
        "slide_images",
        "slide",
        f"origin varchar, location varchar, gene varchar, ensembl_id varchar, {_IMAGE}, conversions varchar, "
        "http_status integer, grey_spread double",
    ),
    "masks": _record(
        "epidermis_masks",
        "slide",
        f"{_WEIGHTS}, device varchar, precision varchar, backend varchar, {_SCALE}, crop_top_px integer, "
        "crop_left_px integer, crop_bottom_px integer, crop_right_px integer, mean_confidence double, tiles integer, "
        f"{_of(f'{label}_share' for label in TISSUE_LABELS)}, epidermis_um2 double",
    ),
    "cell_masks": _record(
        "cell_masks",
        "slide",
        f"{_WEIGHTS}, mask_weights_sha256 varchar, device varchar, precision varchar, backend varchar, {_SCALE}, "
        "cells integer, "
        "cells_per_mm2 double, diameter_px double, diameter_source varchar, "
        f"{_LIGHT}, {_DYES}",
    ),
    "cells": Table(
        "cell_masks",
        "cells.parquet",
        "slide varchar, cell_id integer, centroid_y_px double, centroid_x_px double, area_px integer, area_um2 double, "
        "equivalent_diameter_px double, equivalent_diameter_um double, mean_h_od double, mean_dab_od double",
    ),
    "cell_layers": Table(
        "epidermis_layers",
        "cell_layers.parquet",
        "slide varchar, cell_id integer, layer integer, distance_um double, relative_depth double",
    ),
    "layers": Table(
        "epidermis_layers",
        "layers.parquet",
        "slide varchar, layer integer, distance_from_um double, distance_to_um double, area_px bigint, "
        "area_um2 double, cells integer, mean_dab_od double, mean_h_od double, dab_h_ratio double, "
        "positive_share double, h_score double",
    ),
    "relative_depth": Table(
        "epidermis_layers",
        "relative.parquet",
        f"slide varchar, relative_from double, relative_to double, {_STAINS}",
    ),
    "zones": Table("epidermis_layers", "zones.parquet", f"slide varchar, zone varchar, {_STAINS}"),
    "layer_slides": _record(
        "epidermis_layers",
        "slide",
        f"synthetic boolean, {_SCALE}, layers integer, layer_um double, h_score double, positive_share double, "
        f"pattern varchar, detached_um2 double, {_LIGHT}, {_DYES}",
    ),
    "agreement": Table(
        "hpa_agreement",
        "agreement.parquet",
        "gene varchar, ensembl_id varchar, antibody varchar, tissue varchar, slides integer, patients integer, "
        "release varchar, reliability varchar, target varchar, measure double, annotated varchar, read varchar, "
        "probability double, confidence double, levels_apart double",
    ),
    "annotation_queue": Table(
        "annotation_queue",
        "queue.parquet",
        "rank integer, slide varchar, left_px integer, top_px integer, width_px integer, height_px integer, "
        "disagreement double, novelty double, gain double, slide_disagreement double",
    ),
    "agreement_scores": Table(
        "hpa_agreement",
        "scores.parquet",
        "target varchar, grouped_by varchar, group_name varchar, antibodies integer, pairs integer, "
        + _of(f"{score}{end}" for score in _AGREEMENT_SCORES for end in ("", "_low", "_high")),
    ),
    "training": _record(
        "tissue_weights",
        "version",
        f"{_PARENT}, encoder varchar, initial_weights varchar, loss varchar, seed bigint, {_LENGTH}, mpp double, "
        "coarse_mpp double, tiles_sha256 varchar, manifest_sha256 varchar, validation_sha256 varchar, "
        "one_slide_only boolean, validation varchar, device varchar, precision varchar, resumed boolean, "
        f"{_MEAN_SCORES}",
    ),
    "training_classes": Table(
        "tissue_weights",
        "scores.parquet",
        "version varchar, label varchar, outcome varchar, "
        "truth_px bigint, predicted_px bigint, tp_px bigint, fp_px bigint, "
        f"fn_px bigint, tn_px bigint, {_of(_PIXEL_SCORES)}",
    ),
    "training_confusion": Table(
        "tissue_weights",
        "confusion_matrix.parquet",
        "version varchar, truth varchar, predicted varchar, pixels bigint",
    ),
    "training_calibration": Table(
        "tissue_weights",
        "calibration.parquet",
        "version varchar, from_probability double, to_probability double, pixels bigint, mean_confidence double, "
        "share_right double",
    ),
    "training_tiles": Table(
        "tissue_weights",
        "tile_scores.parquet",
        "version varchar, tile varchar, slide varchar, patient varchar, mean_iou double, accuracy double, "
        f"confidence double, {_IOU}",
    ),
    "training_epochs": Table("tissue_weights", "history.parquet", f"{_EPOCH}, mean_iou double, {_IOU}"),
    "searches": _record(
        "tissue_search",
        "study",
        "trials integer, complete integer, pruned integer, fail integer, best_trial integer, best_mean_iou double, "
        "best_settings varchar, most_important varchar",
    ),
    "search_trials": Table(
        "tissue_search",
        "trials.parquet",
        "study varchar, trial integer, state varchar, mean_iou double, seconds double, steps bigint, "
        "goes_on_from integer, ended varchar, encoder varchar, learning_rate double, weight_decay double, "
        "dice_weight double, focal_weight double, dropout double, augment_strength double, crop_px double",
    ),
    "hold_out": _record("tissue_hold_out", "partition", _HOLD_OUT),
    "hold_out_scores": _record(
        "tissue_hold_out_scores",
        "version",
        f"{_HOLD_OUT_SCORES}, {_MEAN_SCORES}",
    ),
    "champion": _record("tissue_champion", "partition", _CHAMPION),
    "cell_training": _record(
        "cell_weights",
        "version",
        f"{_PARENT}, seed bigint, {_LENGTH}, diameter_um double, diameter_px double, images_train integer, "
        "images_validation integer, images_sha256 varchar, manifest_sha256 varchar, validation_sha256 varchar, "
        f"one_slide_only boolean, validation varchar, device varchar, precision varchar, resumed boolean, {_AP_BOTH}",
    ),
    "cell_training_epochs": Table("cell_weights", "history.parquet", f"{_EPOCH}, {_of(_AP)}"),
    "cell_training_images": Table(
        "cell_weights",
        "image_scores.parquet",
        "version varchar, image varchar, slide varchar, patient varchar, cells bigint, found bigint, " + _AP_BOTH,
    ),
    "cell_hold_out": _record("cell_hold_out", "partition", _HOLD_OUT),
    "cell_hold_out_scores": _record(
        "cell_hold_out_scores",
        "version",
        f"{_HOLD_OUT_SCORES}, {_of(_AP)}",
    ),
    "cell_champion": _record("cell_champion", "partition", _CHAMPION),
    "nuclei_training": _record(
        "nuclei_weights",
        "version",
        f"{_PARENT}, encoder varchar, boundary_weighting boolean, immune_sampling boolean, resumed boolean, "
        f"seed bigint, {_LENGTH}, patches integer, patches_validated integer, images_validated integer, "
        "nuclei_validated integer, mpp double, patches_sha256 varchar, manifest_sha256 varchar, "
        f"validation_sha256 varchar, validation varchar, device varchar, precision varchar, score double, {_TERNARY}, "
        f"{_INSTANCE_SCORES}",
    ),
    "nuclei_training_epochs": Table(
        "nuclei_weights",
        "history.parquet",
        f"{_EPOCH}, score double, {_of(f'{score}_{label}' for score in ('iou', 'dice') for label in NUCLEUS_LABELS)}, "
        f"{_TERNARY}",
    ),
    "nuclei_hold_out": _record("nuclei_hold_out", "partition", _HOLD_OUT),
    "nuclei_hold_out_scores": _record(
        "nuclei_hold_out_scores", "version", f"{_HOLD_OUT_SCORES}, {_of(_HOLD_OUT_NUCLEI)}"
    ),
    "nuclei_champion": _record("nuclei_champion", "partition", _CHAMPION),
    "nuclei_slides": _record(
        "nuclei_slides",
        "slide",
        f"origin varchar, location varchar, {_IMAGE}, conversions varchar, grey_spread double",
    ),
    "nucleus_maps": _record(
        "nucleus_maps",
        "slide",
        f"{_WEIGHTS}, device varchar, precision varchar, backend varchar, height_px integer, width_px integer, "
        f"{_SCALE}, stain varchar, tiles integer, nuclei integer, tissue_mm2 double, nuclei_per_mm2 double, "
        f"{_of((*_NUCLEI, UNCLASSIFIED), 'integer')}",
    ),
    "nuclei": Table(
        "nucleus_maps",
        "nuclei.parquet",
        "slide varchar, nucleus_id integer, centroid_y_px double, centroid_x_px double, area_px integer, "
        "area_um2 double, equivalent_diameter_um double, major_axis_um double, minor_axis_um double, "
        "eccentricity double, orientation double, class varchar, class_probability double, "
        f"{_of(f'probability_{label}' for label in _NUCLEI)}",
    ),
    "til_scores": _record(
        "til_scores",
        "slide",
        f"{_WEIGHTS}, {_SCALE}, tissue_mm2 double, {_of(_NUCLEI, 'integer')}, lymphocytes_per_mm2 double, "
        "immune_share double, near_epithelium_share double, infiltrated_share double",
    ),
    "til_squares": Table(
        "til_scores",
        "til_map.parquet",
        "slide varchar, top_um double, left_um double, side_um double, nuclei integer, lymphocytes integer, "
        "lymphocytes_per_mm2 double",
    ),
    FAILURES: Table(
        FAILURES,
        "*.json",
        "asset varchar, partition varchar, error varchar, kind varchar, run_id varchar, failed_at timestamptz, "
        "tries bigint",
    ),
}

VIEWS = (
    "links",
    "lineage",
    "dab_by_patient",
    "dab_profile_by_gene",
    "cells_by_slide",
    "slides_not_from_champion",
    "cells_not_from_champion",
    "training_lineage",
    "nuclei_lineage",
)
"""Names of the files in `sql/`, each of which creates one view; later ones use earlier ones."""
UNREADABLE = "unreadable_files"
"""Table of the files that could not be read."""


def view_definition(view: str) -> str:
    """The SQL statement that creates a view."""
    return (files("dermatome.warehouse") / "sql" / f"{view}.sql").read_text()


def read_by_view(view: str) -> list[str]:
    """Names of the tables and views that a view reads."""
    named = re.findall(r"\b(?:from|join)\s+(\w+)", view_definition(view))
    return sorted(({*TABLES, *VIEWS} - {view}) & set(named))
