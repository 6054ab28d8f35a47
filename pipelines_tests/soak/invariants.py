"""What must be true of a data root once everything that went wrong is over."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import pyarrow.parquet as pq
import tifffile
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from PIL import Image

from dermatome.errors import DermatomeError
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import RECORD_FILE
from dermatome.storage.record import failure_of, read_record
from dermatome.warehouse.store import build_store
from orchestration.requests import PER_SLIDE

# What two runs of the same slide may differ in: when, by which run, how long it took, and what the slide is called.
_VOLATILE = ("slide", "run_id", "made_at", "seconds", "message")
_TABLES = ("masks", "cell_masks", "cells", "cell_layers", "layers", "layer_slides")
Complaints = Iterator[str]


def complaints(root, calm, cohort, instance):
    """Every broken invariant, in words.

    Args:
        root: the data root that went through it.
        calm: one where the same contents were made undisturbed.
        cohort: what there was to make.
        instance: of ``root``.
    """
    return [
        *_every_slide_is_accounted_for(root, cohort, instance),
        *_nothing_goes_on(instance),
        *_no_torn_file(root, calm, cohort),
        *_same_rows(root, calm, cohort),
    ]


def _every_slide_is_accounted_for(root, cohort, instance):
    registered = set(instance.get_dynamic_partitions("slides"))
    for slide in set(cohort.slides) ^ registered:
        yield f"{slide} is {'registered, but nobody gave it' if slide in registered else 'not registered'}"
    for asset in PER_SLIDE:
        made = instance.get_materialized_partitions(dg.AssetKey(asset))
        on_disk = {path.parent.name for path in root.folder(asset).glob(f"[!.]*/{RECORD_FILE}")}
        for slide in cohort.good:
            if slide not in made:
                yield f"{asset} of {slide} is not materialized: {reason(root, asset, slide)}"
        for slide in made ^ on_disk:
            yield f"{asset} of {slide}: {'only Dagster' if slide in made else 'only the disk'} knows it as made"
        for slide in cohort.bad:
            if slide in made:
                yield f"{asset} of {slide} is materialized, although its image is bad"
        for path in root.failure(asset, "any").parent.glob("*.json"):
            if path.stem in cohort.good:
                yield f"{asset} of {path.stem} still has a failure: {reason(root, asset, path.stem)}"
    for slide, expected in cohort.bad.items():
        if expected not in (said := reason(root, "slide_images", slide)):
            yield f"{slide} failed for another reason than {expected!r}: {said!r}"
    for gene, expected in cohort.bad_genes.items():
        if expected not in (said := reason(root, "hpa_images", gene)):
            yield f"{gene} failed for another reason than {expected!r}: {said!r}"


def reason(root, asset, key):
    """Why a partition failed, as its failure file says; empty where there is none."""
    path = root.failure(asset, key)
    return failure_of(path.read_bytes()).error if path.is_file() else ""


def _nothing_goes_on(instance):
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES)):
        yield f"run {run.run_id} of {run.job_name} is still {run.status.value}"
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])):
        yield f"backfill {backfill.backfill_id} is still going on"


def _no_torn_file(root, calm, cohort):
    for slide, content in cohort.good.items():
        shape = None
        for asset in PER_SLIDE:
            folder = root.folder(asset, slide)
            names = {path.name for path in folder.glob("*")}
            expected = {path.name for path in calm.folder(asset, content).glob("*")}
            if names != expected:
                yield f"{folder} has {sorted(names)} instead of {sorted(expected)}"
            for path in sorted(folder.glob("*")):
                try:
                    _opens(path, shape)
                except Exception as error:  # whatever a reader says of a torn file
                    yield f"{path} does not open: {type(error).__name__} {error}"
            if asset == "slide_images":
                record = read_record(folder / RECORD_FILE)
                if record is None:
                    yield f"{folder} has no record"
                    break
                if sha256_file(folder / str(record.values["file"])) != record.values["image_sha256"]:
                    yield f"{folder} has another image than its record says"
                shape = (int(str(record.values["height_px"])), int(str(record.values["width_px"])))
            yield from _record_belongs(root, calm, asset, slide, content)


def _record_belongs(root, calm, asset, slide, content):
    try:
        record, undisturbed = read_record(root.record(asset, slide)), read_record(calm.record(asset, content))
    except DermatomeError as error:
        yield str(error)
        return
    if record is None or undisturbed is None:
        yield f"{asset} of {slide} has no record" if record is None else f"{asset} of {content} has none, undisturbed"
        return
    if record.data_version != undisturbed.data_version:
        yield f"{asset} of {slide} came out another than undisturbed ({content})"
    for upstream, version in record.inputs.items():
        before = read_record(root.record(upstream, slide)) if upstream in PER_SLIDE else None
        if before is not None and before.data_version != version:
            yield f"{asset} of {slide} was made of another {upstream} than there is"


def _opens(path, shape):
    """Reads a file whole, as the programs do that people open it with."""
    readers: dict[str, Callable[[bytes], Any]] = {
        ".parquet": lambda data: pq.read_table(io.BytesIO(data)),
        ".geojson": lambda data: json.loads(data)["features"],
        ".json": json.loads,
        ".npz": _all_arrays,
    }
    data = path.read_bytes()
    if path.name.endswith(".ome.tif"):
        labels = tifffile.imread(io.BytesIO(data))
        assert shape is None or labels.shape == shape, f"{labels.shape} instead of {shape}"
    elif path.suffix in readers:
        readers[path.suffix](data)
    else:
        with Image.open(io.BytesIO(data)) as image:
            image.load()


def _all_arrays(data):
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return [arrays[name].shape for name in arrays.files]


def _same_rows(root, calm, cohort):
    if not root.store.is_file():
        yield "there is no store"
        return
    fresh = build_store(root, root.path / "metrics" / "fresh.duckdb")
    for path, error in fresh.unreadable.items():
        yield f"the store could not read {path}: {error}"
    with duckdb.connect(str(root.store), read_only=True) as store:
        for table, count in fresh.rows.items():
            (there,) = store.execute(f"select count(*) from {table}").fetchone()
            if there != count:
                yield f"the store has {there} rows in {table}, a fresh one {count}"
    undisturbed = build_store(calm, root.path / "metrics" / "calm.duckdb").path
    with (
        duckdb.connect(str(fresh.path), read_only=True) as made,
        duckdb.connect(str(undisturbed), read_only=True) as reference,
    ):
        yield from _keys(made, cohort)
        for table in _TABLES:
            columns = [row[0] for row in made.execute(f"describe {table}").fetchall() if row[0] not in _VOLATILE]
            query = f"select slide, {', '.join(columns)} from {table} order by all"
            of_content = _by_slide(reference.execute(query).fetchall())
            of_slide = _by_slide(made.execute(query).fetchall())
            for slide, content in cohort.good.items():
                if of_slide.get(slide, []) != of_content.get(content, []):
                    yield f"the rows of {slide} in {table} are not those of an undisturbed run of {content}"


def _by_slide(rows):
    found: dict[str, list[str]] = {}
    for slide, *values in rows:
        found.setdefault(slide, []).append(repr(values))
    return found


def _keys(store, cohort):
    for table in ("slides", "masks", "cell_masks", "layer_slides"):
        slides = [row[0] for row in store.execute(f"select slide from {table}").fetchall()]
        if sorted(slides) != sorted(cohort.good):
            yield f"{table} has {len(slides)} rows of {len(set(slides))} slides instead of {len(cohort.good)}"
    for table, key in (("cells", "slide, cell_id"), ("layers", "slide, layer"), ("failures", "asset, partition")):
        doubled = store.execute(f"select {key} from {table} group by all having count(*) > 1").fetchall()
        if doubled:
            yield f"{table} has {len(doubled)} rows more than once, such as {doubled[0]}"
    failed = {row[0] for row in store.execute("select partition from failures where asset = 'slide_images'").fetchall()}
    if failed != set(cohort.bad):
        yield f"failures has {len(failed)} slides instead of {len(cohort.bad)}: {sorted(failed ^ set(cohort.bad))[:5]}"
