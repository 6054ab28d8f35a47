"""The sensor of H&E slides: files, and folders of DICOM files, as they come and change."""

import os
import time

import pytest

from orchestration import arrivals, sensors_nuclei
from pipelines_tests.integration.test_sensors import asked_for, evaluate, logged


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """When a file was put into a folder cannot be made up."""
    monkeypatch.setattr(arrivals, "_SETTLED_S", 0)


def put(root, *names):
    for name in names:
        path = root.nuclei_inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at yet")


def tick(root, instance, cursor=None):
    return evaluate(sensors_nuclei.nuclei_slide_folder, root, instance, cursor)


def test_a_dicom_folder_is_one_slide_and_loose_files_are_none_and_said_once(root, instance, capfd):
    put(root, "s1/1.dcm", "s1/2.dcm", "s1/label.dcm", "s2.svs", "notes/a.txt", "-bad/1.dcm", "loose.dcm", "more.dcm")
    first = tick(root, instance)
    assert asked_for(first) == {"nuclei_slides": ["s1", "s2"]}
    assert instance.get_dynamic_partitions("nuclei_slides") == ["s1", "s2"]
    loose, bad = logged(capfd, " - ")
    assert "2 DICOM files lie loose" in loose
    assert "(loose.dcm, more.dcm)" in loose
    assert "'-bad'" in bad
    assert not tick(root, instance, first.cursor).run_requests


def test_a_slide_of_two_images_is_not_taken_and_said(root, instance, capfd):
    put(root, "s1.svs", "s1.tif", "s2.svs", "s2/1.dcm", "s3.png")
    assert asked_for(tick(root, instance)) == {"nuclei_slides": ["s3"]}
    (said,) = logged(capfd, "more than one image")
    assert "2 slides" in said
    assert "(s1, s2)" in said


def test_a_folder_waits_for_its_last_file_and_holds_back_no_other(root, instance, monkeypatch):
    put(root, "s1/1.dcm", "s1/2.dcm", "s2.svs")
    now = time.time()
    changed = {"s1/1.dcm": now - 700, "s1/2.dcm": now - 500, "s2.svs": now - 650}
    monkeypatch.setattr(sensors_nuclei, "changed_in", lambda inbox, folders: changed)
    monkeypatch.setattr(arrivals, "_SETTLED_S", 600)
    first = tick(root, instance)
    assert asked_for(first) == {"nuclei_slides": ["s2"]}
    changed["s1/2.dcm"] = now - 640
    assert asked_for(tick(root, instance, first.cursor)) == {"nuclei_slides": ["s1"]}


def test_a_folder_is_asked_for_again_when_a_file_of_it_changes_or_goes(root, instance):
    put(root, "s1/1.dcm", "s1/2.dcm", "s2/1.dcm")
    cursor = tick(root, instance).cursor
    for change in (lambda: put(root, "s1/2.dcm"), lambda: (root.nuclei_inbox / "s1" / "2.dcm").unlink()):
        time.sleep(0.02)  # a file's times are those of the kernel's last tick
        change()
        again = tick(root, instance, cursor)
        assert asked_for(again) == {"nuclei_slides": ["s1"]}
        assert not again.dynamic_partitions_requests
        cursor = again.cursor


def test_a_wrong_clock_holds_nothing_back(root, instance, monkeypatch, capfd):
    put(root, "old.svs", "s1.svs", "s2/1.dcm")
    os.utime(root.nuclei_inbox / "s1.svs", (time.time() + 1e8,) * 2)
    first = tick(root, instance)
    assert asked_for(first) == {"nuclei_slides": ["old", "s1", "s2"]}, "a scanner's clock"
    assert not tick(root, instance, first.cursor).run_requests
    now = time.time()
    changed = {"old.svs": now, "s2/1.dcm": now + 1e8, "s3.svs": now + 1e8, "s4.svs": now}
    monkeypatch.setattr(sensors_nuclei, "changed_in", lambda inbox, folders: changed)
    capfd.readouterr()
    second = tick(root, instance, first.cursor)
    assert asked_for(second) == {"nuclei_slides": ["old", "s3", "s4"]}, "the storage's clock"
    (said,) = logged(capfd, "still to come")
    assert "(s2)" in said
    changed["old.svs"] = time.time()
    assert asked_for(tick(root, instance, second.cursor)) == {"nuclei_slides": ["old"]}, "the cursor ran ahead"
