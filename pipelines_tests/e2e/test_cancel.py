"""A run cancelled in the UI ends within seconds, and leaves nothing half-written."""

import psutil
import pytest

from dermatome.classes import StainingPattern
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import WaitingStage, cached_stage
from dermatome.skin.tissue.network import TissueCard
from dermatome.slides.source import acquire_slide, inbox_sources
from dermatome.storage.layout import CHAMPION, RECORD_FILE, WEIGHTS_FILE, DataRoot
from dermatome.storage.record import read_record
from dermatome.synthetic.skin import toy_slide
from dermatome.training.unet import build_network
from dermatome.training.weights import save_weights
from orchestration.requests import register_slides
from pipelines_tests.e2e.platform import Platform
from pipelines_tests.records import put_record

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SLIDES = [f"toy-{number:02}" for number in range(12)]
# Each slide is looked at whole, from two sides: some seconds of work, so that the run is cancelled in the middle of it.
SETTINGS = """[tissue]
refine_whole_px = 4000
views = 2
[batch]
group_px = 1
"""


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    drawn = toy_slide(5, StainingPattern.WHOLE, size_px=700).jpeg()
    for slide in SLIDES:
        (folder / f"{slide}.jpg").write_bytes(drawn)
    return folder


def promote_untrained(root):
    """A champion that knows nothing, as masks are all that is wanted of it."""
    channels = (64, 32, 24, 16, 16)
    folder = root.folder("tissue_weights", "v001")
    folder.mkdir(parents=True)
    card = TissueCard("resnet18", channels, mpp=0.5, mpp_range=(0.5, 2.0), coarse_mpp=2.0, tile_mpp=0.5)
    sha256 = save_weights(folder / WEIGHTS_FILE, build_network("resnet18", 4, channels).state_dict(), card)
    for asset, partition in (("tissue_weights", "v001"), ("tissue_champion", CHAMPION)):
        values = {"version": "v001", "weights_sha256": sha256}
        put_record(root, asset, partition, outcome="chosen", data_version=sha256[:32], values=values)


def verify_images(root, sources):
    by_slide = {source.slide: source for source in sources}

    def make(slide, folder):
        return acquire_slide(by_slide[slide], folder, 0.5, 4000)

    stage = WaitingStage(root, "slide_images", make)
    assert all(one.error is None for one in run_batch(cached_stage(stage, {}, "1", ""), list(by_slide)))


def test_a_cancelled_run_ends_and_leaves_nothing_half_written(tmp_path, images):
    root = DataRoot(tmp_path / "data")
    root.path.mkdir()
    promote_untrained(root)
    verify_images(root, inbox_sources(images).values())
    masks = root.folder("epidermis_masks")
    with Platform(root.path) as platform, platform.instance() as instance:
        register_slides(instance, root, inbox_sources(images).values())
        root.settings.write_text(SETTINGS)
        before = descendants(platform)
        platform.backfill(["epidermis_masks"], SLIDES)
        platform.wait_for(lambda: root.partitions("epidermis_masks"), "a mask", timeout_s=300)
        assert len(descendants(platform) - before) == 1, "the run is one process"
        run = running(platform)
        cancel(platform, run)
        platform.wait_for(lambda: status(platform, run) == "CANCELED", "the run to be cancelled", 240)
        platform.wait_for(lambda: not descendants(platform) - before, "its process to end", 120)
        assert [path.name for path in masks.iterdir() if path.name.startswith(".")] == []
        for path in masks.iterdir():
            assert read_record(path / RECORD_FILE).outcome
            assert (path / "figure.png").stat().st_size > 1000
        assert list((root.path / "in_flight").rglob("*.json")) == [], "a cancelled run suspects no slide"
        assert 1 <= len(root.partitions("epidermis_masks")) < len(SLIDES)


def descendants(platform):
    """The processes of runs: those below the platform's that were spawned to work."""
    found = set()
    for process in psutil.Process(platform._process.pid).children(recursive=True):
        try:
            if "spawn_main" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def running(platform):
    found = platform.query("{ runsOrError(filter: {statuses: [STARTED]}) { ... on Runs { results { runId } } } }")
    (run,) = found["runsOrError"]["results"]
    return run["runId"]


def status(platform, run):
    found = platform.query("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run)
    return found["runOrError"]["status"]


def cancel(platform, run):
    """The UI's button `Terminate`."""
    data = platform.query(
        """mutation ($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }""", id=run
    )
    assert data["terminateRun"]["__typename"] == "TerminateRunSuccess", data
