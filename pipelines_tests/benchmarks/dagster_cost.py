"""What Dagster adds to a slide: batches of small ones as production runs make them, and the same work without it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.files import sha256_file, write_atomic
from dermatome.storage.layout import CHAMPION, WEIGHTS_FILE, DataRoot
from pipelines_tests.benchmarks.rows import Row, at_most_more
from pipelines_tests.benchmarks.timing import run_alone
from pipelines_tests.records import put_record

SIDE_PX = 160
AT_MOST_MORE_S = 0.1
ASSETS = ("slide_images", "epidermis_masks")


def dagster_cost(toy: bool) -> Iterator[Row]:
    """Images and masks, each in runs as large as a backfill makes them, each run in a process of its own."""
    count = 2 if toy else 500
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _prepare(folder, count)
        for asset in ASSETS:
            through = without = 0.0
            batches = list(_batches(asset, count))
            for first, last in batches:
                without += _seconds(toy, without_dagster, made, asset, first, last)
                through += _seconds(toy, through_dagster, made, asset, first, last)
            yield at_most_more(
                f"{asset}: a slide of {count} through Dagster (SQLite), in {len(batches)} runs",
                "the same work, in as many processes, without Dagster",
                through / count,
                without / count,
                "s",
                more=AT_MOST_MORE_S,
                baseline=f"{without / count:.3g} s a slide",
                note=f"toy slides of {SIDE_PX} px; each run's start, imports and events are in it",
            )


def _seconds(toy: bool, function: Callable[..., None], *arguments: Any) -> float:
    if not toy:
        return run_alone(function, *arguments).seconds
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def _batches(asset: str, count: int) -> Iterator[tuple[int, int]]:
    from orchestration.definitions import build_defs

    definition = build_defs(Path()).resolve_asset_graph().get(_key(asset))
    size = definition.backfill_policy.max_partitions_per_run if definition.backfill_policy else None
    for start in range(0, count, size or count):
        yield start, min(start + (size or count), count)


def _prepare(folder: Path, count: int) -> None:
    """Two data roots, each with a champion and the same slides in its inbox; an instance of Dagster for one."""
    from orchestration.requests import register_slides

    for name in ("with", "without"):
        fill_root(DataRoot(folder / name), count, SIDE_PX)
    with _instance(folder) as instance:
        register_slides(instance, DataRoot(folder / "with"), _sources(folder / "with"))


def fill_root(root: DataRoot, count: int, side_px: int) -> None:
    """A data root with a champion and with ``count`` slides of ``side_px`` in its inbox."""
    from dermatome.storage.record import Scalar
    from dermatome.synthetic.skin import toy_slide
    from pipelines_tests.benchmarks.networks import untrained_tissue

    root.inbox.mkdir(parents=True)
    write_atomic(root.settings, b'[compute]\ndevice = "cpu"\n')
    drawn = [toy_slide(seed, size_px=side_px).jpeg() for seed in range(4)]
    for number in range(count):
        (root.inbox / f"slide{number:05d}.jpg").write_bytes(drawn[number % len(drawn)])
    weights = untrained_tissue(root.path, mpp=2.0)
    write_atomic(root.folder("tissue_weights", "v001") / WEIGHTS_FILE, weights.path.read_bytes())
    weights.path.unlink()
    for asset, partition in (("tissue_weights", "v001"), ("tissue_champion", CHAMPION)):
        values: dict[str, Scalar] = {"version": "v001", "weights_sha256": weights.sha256}
        put_record(root, asset, partition, data_version=weights.sha256[:32], values=values)


def _sources(root: Path) -> list[Any]:
    from dermatome.slides.source import inbox_sources

    return list(inbox_sources(root / "inbox").values())


def _instance(folder: Path) -> Any:
    import dagster as dg

    (folder / "dagster").mkdir(exist_ok=True)
    storage = {"storage": {"sqlite": {"base_dir": str(folder / "dagster")}}}
    return dg.instance_for_test(overrides=storage, temp_dir=str(folder / "dagster"))


def _key(asset: str) -> Any:
    import dagster as dg

    return dg.AssetKey(asset)


def through_dagster(made: str, asset: str, first: int, last: int) -> None:
    """One run of slides ``first`` to ``last`` (not included), with the production wiring."""
    from orchestration.definitions import build_defs

    folder = Path(made)
    slides = [source.slide for source in _sources(folder / "with")][first:last]
    ends = {"dagster/asset_partition_range_start": slides[0], "dagster/asset_partition_range_end": slides[-1]}
    job = build_defs(folder / "with").resolve_implicit_global_asset_job_def()
    with _instance(folder) as instance:
        assert job.execute_in_process(instance=instance, asset_selection=[_key(asset)], tags=ends).success
    assert set(slides) <= set(DataRoot(folder / "with").partitions(asset))


def without_dagster(made: str, asset: str, first: int, last: int) -> None:
    """The same slides by the batch runner alone."""

    from pipelines_tests.benchmarks.stages import finish

    root = DataRoot(Path(made) / "without")
    sources = _sources(Path(made) / "without")[first:last]
    finish(_stage(root, asset, sources), [source.slide for source in sources])


def _stage(root: DataRoot, asset: str, sources: Sequence[Any]) -> Any:
    from dermatome.inference.compute import ComputeSettings
    from dermatome.pipeline.cached_stage import WaitingStage
    from dermatome.registry.champion import Weights
    from dermatome.registry.model_kinds import TISSUE
    from dermatome.skin.tissue.stage import MaskStage
    from dermatome.slides.slide import DECLARED_MPP
    from dermatome.slides.source import acquire_slide

    if asset == "epidermis_masks":
        sha256 = sha256_file(root.folder("tissue_weights", "v001") / WEIGHTS_FILE)
        return MaskStage(
            root, Weights(root, TISSUE, "v001", sha256, sha256[:32]), ComputeSettings(device="cpu"), TissueSettings()
        )
    by_slide = {source.slide: source for source in sources}
    return WaitingStage(
        root,
        asset,
        make=lambda slide, folder: acquire_slide(by_slide[slide], folder, DECLARED_MPP, 20_000),
        inputs=lambda slide: {"hpa_images": by_slide[slide].identity},
    )
