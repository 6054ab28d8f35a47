"""Partitions are kept, made, or left alone because another run made them; their records, and changed files."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from dermatome.errors import BadImage, MissingInput, StorageFailed
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import Stage, WaitingStage, cached_stage
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import (
    Check,
    StageResult,
    file_facts,
    read_record,
    require_record,
    verify_root,
    write_record,
)
from pipelines_tests.records import record_of


@dataclass
class Kitchen:
    """Makes a file for each key and counts."""

    root: DataRoot
    made: list = field(default_factory=list)
    bad: tuple = ()

    def stage(self, **changes):
        return replace(WaitingStage(self.root, "dishes", self.make), **changes)

    def make(self, key, folder):
        (folder / "half.txt").write_text("half")
        if key in self.bad:
            raise BadImage(f"{key} is bad.")
        self.made.append(key)
        return StageResult("made", f"version-{key}", {"number": len(self.made)})


@pytest.fixture
def kitchen(tmp_path):
    return Kitchen(DataRoot(tmp_path))


def run(stage, *keys, salt=1, code_version="1", run_id="run"):
    found = {one.key: one for one in run_batch(cached_stage(stage, {"salt": salt}, code_version, run_id), keys)}
    assert sorted(found) == sorted(keys)
    return found


def test_a_record_says_what_made_it(kitchen):
    made = run(kitchen.stage(inputs=lambda key: {"farm": f"{key}-1"}), "a")["a"].result
    assert not made.reused
    assert made.record == read_record(kitchen.root.record("dishes", "a"))
    assert (made.record.asset, made.record.partition, made.record.run_id) == ("dishes", "a", "run")
    assert (made.record.inputs, made.record.settings) == ({"farm": "a-1"}, {"salt": 1})


def test_what_is_made_is_kept_until_inputs_settings_or_code_change(kitchen):
    stage = kitchen.stage()
    first = run(stage, "a")["a"].result
    again = run(stage, "a", run_id="another")["a"].result
    assert again.reused
    assert again.record == first.record
    for changed, salt, code_version in (
        (kitchen.stage(inputs=lambda key: {"farm": "2"}), 1, "1"),
        (stage, 2, "1"),
        (stage, 2, "2"),
        (kitchen.stage(always=True), 2, "2"),
    ):
        assert not run(changed, "a", salt=salt, code_version=code_version)["a"].result.reused
    assert len(kitchen.made) == 5


def test_a_failed_remake_leaves_what_was_there_and_nothing_else(kitchen):
    run(kitchen.stage(), "a")
    kitchen.bad = ("a",)
    failed = run(kitchen.stage(), "a", "b", salt=2)
    assert isinstance(failed["a"].error, BadImage)
    assert failed["b"].result.record.outcome == "made"
    assert read_record(kitchen.root.record("dishes", "a")).settings == {"salt": 1}
    assert sorted(path.name for path in kitchen.root.folder("dishes").iterdir()) == ["a", "b"]


def test_what_another_run_made_meanwhile_is_taken_and_not_made_again(kitchen):
    class Overtaken(WaitingStage):
        def compute(self, loaded):
            run(kitchen.stage(), *loaded, run_id="the other")
            return list(loaded)

    stage = Overtaken(kitchen.root, "dishes", kitchen.make)
    made = run(stage, "a")["a"].result
    assert made.reused
    assert made.record.run_id == "the other"
    assert kitchen.made == ["a"]
    assert [path.name for path in kitchen.root.folder("dishes").iterdir()] == ["a"]


def damaged(path, how):
    data = path.read_bytes()
    path.unlink()
    if how == "truncate":
        path.write_bytes(data[:-1])
    if how == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("file", ["half.txt", "sub/more.txt", RECORD_FILE])
def test_damaged_files_are_found_and_healed(kitchen, caplog, how, file):
    def make(key, folder):
        (folder / "sub").mkdir()
        (folder / "sub" / "more.txt").write_text("more")
        return kitchen.make(key, folder)

    stage = kitchen.stage(make=make)
    for key in ("a", "b"):
        run(stage, key)
    path = kitchen.root.folder("dishes", "a") / file
    before = path.read_bytes()
    assert [damaged for *_, damaged in verify_root(kitchen.root)] == [{}, {}]
    damaged(path, how)
    assert [(key, [*damaged]) for _, key, damaged in verify_root(kitchen.root)] == [("a", [file]), ("b", [])]

    quick = how != "flip" or file == RECORD_FILE  # found without reading every file
    found = {one.key: one.result for one in run_batch(cached_stage(stage, {"salt": 1}, "1", "run", ["a"]), ["a", "b"])}
    assert [found["a"].reused, found["b"].reused] == [not quick, True]
    work = cached_stage(stage, {"salt": 1}, "1", "run", hashes=True)
    assert [one.result.reused for one in run_batch(work, ["a"])] == [quick]
    assert path.read_bytes() == before or file == RECORD_FILE
    assert [damaged for *_, damaged in verify_root(kitchen.root)] == [{}, {}]
    assert ("It is recomputed now." in caplog.text) == (how != "delete" or file != RECORD_FILE)


@dataclass
class Reader(Stage):
    """A stage that reads a file of another, which is replaced while it does."""

    root: DataRoot
    versions: list
    missing: int = 0
    asset = "soups"

    def inputs(self, key):
        return {"dishes": self.versions[0]}

    def load(self, key):
        found = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        if self.missing:
            self.missing -= 1
            raise MissingInput("Between two renames.")
        return found

    def compute(self, loaded):
        return list(loaded)

    def save(self, key, result, folder):
        return StageResult(result, result, {})


def test_inputs_that_are_replaced_while_they_are_read_are_read_again(tmp_path):
    root = DataRoot(tmp_path)
    first = run(Reader(root, ["old", "new"]), "a")["a"]
    assert first.error is None
    record = first.result.record
    assert (record.outcome, record.inputs) == ("new", {"dishes": "new"})
    assert run(Reader(root, ["one"], missing=1), "b")["b"].result.record.outcome == "one"
    assert isinstance(run(Reader(root, ["one"], missing=2), "c")["c"].error, MissingInput)
    error = run(Reader(root, ["one", "two", "three"]), "d")["d"].error
    assert isinstance(error, StorageFailed)
    assert "replaced" in str(error)


def record(**changes):
    given = {
        "outcome": "cells", "inputs": {"slide_images": "a"}, "settings": {"flow_threshold": 0.4, "tiles": (1, 2)},
        "values": {"cells": 12, "mpp": 0.5, "mpp_source": "declared", "resumed": False}, "seconds": {"segment": 1.5},
        "checks": (Check("cell_density", True, "fine", {"cells_per_mm2": 5000.0}),),
    }  # fmt: skip
    return record_of("cell_masks", "s1", **(given | changes))


def test_a_record_comes_back_as_it_was_with_values_of_their_type_and_what_is_not_finite(tmp_path):
    values = {"cells": np.int64(3), "share": np.float32(0.5), "none": None, "nan": math.nan, "one": 1.0, "yes": True}
    first = record(values=values)
    write_record(tmp_path / "record.json", first)
    again = read_record(tmp_path / "record.json")
    assert (again.checks, again.made_at, again.libraries) == (first.checks, first.made_at, first.libraries)
    assert again.settings == {"flow_threshold": 0.4, "tiles": [1, 2]}
    assert again.libraries["numpy"]
    assert math.isnan(again.values.pop("nan"))
    assert [(name, type(value), value) for name, value in again.values.items()] == [
        ("cells", int, 3), ("share", float, 0.5), ("none", type(None), None), ("one", float, 1.0), ("yes", bool, True),
    ]  # fmt: skip


def test_nothing_is_no_record_and_rubbish_is_an_error(tmp_path):
    path = tmp_path / "record.json"
    assert read_record(path) is None
    path.write_bytes(b"{rubbish")
    with pytest.raises(StorageFailed, match="delete its folder"):
        read_record(path)


def test_a_missing_stage_says_what_to_materialize(tmp_path):
    with pytest.raises(MissingInput, match="s1 has no slide_images yet: materialize slide_images"):
        require_record(DataRoot(tmp_path), "slide_images", "s1")


@pytest.mark.parametrize(("harm", "said"), [(b"xbc", "has different content"), (b"ab", "has 2 bytes, not 3")])
def test_a_file_that_was_changed_is_not_read_by_the_next_stage(tmp_path, harm, said):
    root = DataRoot(tmp_path)
    folder = root.folder("cell_masks", "s1")
    folder.mkdir(parents=True)
    for name in ("cells.parquet", "figure.png"):
        (folder / name).write_bytes(b"abc")
    write_record(folder / "record.json", record(files=file_facts(folder)))
    (folder / "figure.png").write_bytes(b"other")
    assert require_record(root, "cell_masks", "s1", "cells.parquet").partition == "s1"
    (folder / "cells.parquet").write_bytes(harm)
    with pytest.raises(StorageFailed, match=rf"cells.parquet in the cell_masks of s1 {said}: materialize cell_masks"):
        require_record(root, "cell_masks", "s1", "cells.parquet")
