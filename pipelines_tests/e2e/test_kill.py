"""A run killed in the middle and started again ends with the same files and rows as an undisturbed one."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from dermatome.classes import StainingPattern
from dermatome.slides.source import inbox_sources
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import read_record
from dermatome.synthetic.skin import toy_slide
from orchestration.requests import PER_SLIDE, register_slides
from pipelines_tests.e2e.platform import CHECKOUT, environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

KILLS = 3
# What two runs may differ in: when, by which run, and how long it took.
VOLATILE = ("made_at", "run_id", "seconds")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, pattern in enumerate(StainingPattern):
        (folder / f"toy-{seed}.jpg").write_bytes(toy_slide(40 + seed, pattern, size_px=400).jpeg())
    return folder


def prepared(path, images, demo):
    """A data root with the demo's champion and the slides registered."""
    import dagster as dg

    root = DataRoot(path)
    path.mkdir()
    # Torch's last digit depends on which slides come together, and so on when a run was killed.
    root.settings.write_text('cell_weights = "toy"\n[compute]\nbackend = "openvino"\n')
    for folder in ("tissue_weights", "tissue_champion", "models"):  # the networks as they were converted for the demo
        shutil.copytree(demo.root.path / folder, path / folder)
    os.environ.update(environment(path))
    with dg.DagsterInstance.get() as instance:
        assert len(register_slides(instance, root, inbox_sources(images).values())) == len(StainingPattern)
    return root


def start(root):
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines_tests.e2e.run_stages", str(root.path)],
        cwd=CHECKOUT,
        env=environment(root.path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-4000:]


def files_made(root):
    # `walk` passes over folders that are swapped while it looks.
    return [folder / name for asset in PER_SLIDE for folder, _, names in walk(root.folder(asset)) for name in names]


def walk(folder):
    return ((Path(at), folders, names) for at, folders, names in os.walk(folder))


def test_killed_runs_end_like_an_undisturbed_one(tmp_path, images, demo):
    calm = prepared(tmp_path / "calm", images, demo)
    finish(start(calm))
    total = len(files_made(calm))

    disturbed = prepared(tmp_path / "disturbed", images, demo)
    dice = random.Random(7)
    for kill in range(KILLS):
        # The moment is a number of files, so that it falls into the work and not into the imports.
        threshold = len(files_made(disturbed)) + dice.randint(1, total // KILLS - 1)
        process = start(disturbed)
        until = time.monotonic() + 300
        while process.poll() is None and len(files_made(disturbed)) < threshold and time.monotonic() < until:
            time.sleep(0.005)
        assert process.poll() is None, f"kill {kill} came too late"
        process.kill()
        process.communicate()
        assert len(files_made(disturbed)) < total
    finish(start(disturbed))

    assert contents(disturbed) == contents(calm)
    assert rows(disturbed) == rows(calm)


def contents(root):
    """Every file's hash; records without what may differ. A file left half-written would be one too many."""
    found = {}
    for path in files_made(root):
        name = str(path.relative_to(root.path))
        if path.name == RECORD_FILE:
            record = vars(read_record(path))
            found[name] = json.dumps(
                {k: v for k, v in record.items() if k not in VOLATILE}, default=str, sort_keys=True
            )
        else:
            found[name] = sha256_file(path)
    return found


def rows(root):
    tables = {}
    with duckdb.connect(str(root.store), read_only=True) as store:
        for table in ("slides", "masks", "cell_masks", "cells", "layers", "layer_slides", "failures"):
            columns = [row[0] for row in store.execute(f"describe {table}").fetchall() if row[0] not in VOLATILE]
            tables[table] = store.execute(f"select {', '.join(columns)} from {table} order by all").fetchall()
    return tables
