"""DICOM slides: folders of files, of which the levels are read, hashed and kept, and nothing hostile is believed."""

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from dermatome.cli.support import image_files
from dermatome.errors import BadImage, MissingInput
from dermatome.geometry import Box, Size
from dermatome.slides.dicom import slide_files
from dermatome.slides.slide import MppSource, read_slide, slide_name
from dermatome.slides.source import SLIDE_SUFFIXES, SlideSource, acquire_slide, inbox_source, inbox_sources, open_slide
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from pipelines_tests.toy_dicom import write_dicom, write_dicom_slide

RGB = np.random.default_rng(0).integers(0, 256, (300, 260, 3)).astype(np.uint8)


@pytest.fixture
def slide(tmp_path):
    """The folder of a slide of two levels and a label."""
    write_dicom_slide(tmp_path / "inbox" / "s1", RGB, mpp=0.3)
    return tmp_path / "inbox" / "s1"


def take(slide, folder):
    folder.mkdir(exist_ok=True)
    return acquire_slide(SlideSource(slide.name, "dicom", str(slide)), folder, 0.25, 20_000)


@pytest.mark.parametrize("by", [".", "1.dcm", "2.dcm", "3.dcm"])
def test_a_folder_and_each_file_in_it_is_the_whole_slide(slide, by):
    found = read_slide(slide / by)
    assert (found.size, found.mpp, found.mpp_source) == (Size(300, 260), pytest.approx(0.3), MppSource.FILE)
    assert found.pixels.sizes == (Size(300, 260), Size(150, 130))
    np.testing.assert_array_equal(found.pixels[:, :], RGB)
    np.testing.assert_array_equal(found.region(Box.whole(found.size), Size(150, 130)), RGB[::2, ::2])
    assert found.sha256 == read_slide(slide).sha256


def test_levels_are_kept_and_the_label_is_not(slide, tmp_path):
    made = take(slide, tmp_path / "made")
    kept = tmp_path / "made"
    assert sorted(path.name for path in kept.iterdir()) == ["image-2.dcm", "image.dcm", PREVIEW_FILE]
    assert (kept / "image.dcm").read_bytes() == (slide / "2.dcm").read_bytes()
    assert made.values["bytes"] == sum((slide / name).stat().st_size for name in ("1.dcm", "2.dcm"))
    assert (made.values["file"], made.values["origin"]) == ("image.dcm", "dicom")
    again = open_slide(kept, "s1", made.values)
    np.testing.assert_array_equal(again.pixels[:, :], RGB)
    assert again.sha256 == read_slide(slide).sha256, "files are called otherwise, and the slide is the same"


@pytest.mark.parametrize("change", ["other", "gone", "more"])
def test_a_changed_level_is_noticed(slide, tmp_path, change):
    made = take(slide, tmp_path / "made")
    coarse = tmp_path / "made" / "image-2.dcm"
    if change == "other":
        coarse.write_bytes(coarse.read_bytes()[:-1] + b"\7")
    elif change == "gone":
        coarse.unlink()
    else:
        coarse.with_name("image-3.dcm").write_bytes(coarse.read_bytes())
    with pytest.raises(BadImage, match="not the one that was verified"):
        open_slide(tmp_path / "made", "s1", made.values)


def test_every_file_of_the_folder_is_in_the_sources_identity(slide):
    source = inbox_source(slide.parent, "s1")
    seen = {source.identity, source.identity}
    for name in ("1.dcm", "3.dcm"):
        (slide / name).write_bytes((slide / name).read_bytes() + b"\0\0")
        seen.add(source.identity)
    (slide / "3.dcm").unlink()
    assert len(seen | {source.identity}) == 4


def test_the_inbox_has_a_slide_for_each_folder_and_none_for_loose_files(root):
    for name in ("a/1.dcm", "a/2.DCM", "a/notes.txt", "b.svs", "c/x.svs", "d/._1.dcm", "e/f/1.dcm", "loose.dcm"):
        write_atomic(root.nuclei_inbox / name, b"x")
    write_atomic(root.nuclei_inbox / "two" / "1.dcm", b"x")
    write_atomic(root.nuclei_inbox / "two.png", b"x")
    found = inbox_sources(root.nuclei_inbox)
    assert found == {
        "a": SlideSource("a", "dicom", str(root.nuclei_inbox / "a")),
        "b": SlideSource("b", "folder", str(root.nuclei_inbox / "b.svs")),
    }
    assert found["a"].identity != found["b"].identity
    with pytest.raises(MissingInput, match=r"folder two with its \.dcm files"):
        inbox_source(root.nuclei_inbox, "two")


def test_files_of_two_slides_are_refused_in_one_folder_and_told_apart_by_one_of_them(slide):
    write_dicom(slide / "other.dcm", RGB[:200, :200], "1.2.3")
    with pytest.raises(BadImage, match="s1 contains levels of 2 DICOM slides"):
        slide_files(slide)
    assert read_slide(slide / "other.dcm").size == Size(200, 200)
    assert read_slide(slide / "1.dcm").size == Size(300, 260)


def test_what_has_no_level_is_refused(slide):
    for name in ("1.dcm", "2.dcm"):
        (slide / name).unlink()
    with pytest.raises(BadImage, match="s1 has no level of a DICOM slide"):
        slide_files(slide)
    (slide / "3.dcm").unlink()
    (slide / "._3.dcm").write_bytes(b"a Mac's")
    with pytest.raises(MissingInput, match=r"no \.dcm file in"):
        read_slide(slide)
    with pytest.raises(MissingInput, match="no image"):
        read_slide(slide / "3.dcm")


@pytest.mark.parametrize("other", [{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, {"ImageType": "DERIVED"}])
def test_what_is_no_level_is_passed_over(slide, other):
    write_dicom(slide / "0.dcm", RGB, "1.2.3", **other)
    assert [file.name for file in slide_files(slide)] == ["2.dcm", "1.dcm"]


@pytest.mark.parametrize("kept", [0, 20, 131, 200, 330, 1000, -1, -60_000])
@pytest.mark.parametrize("name", ["1.dcm", "2.dcm"])
def test_a_level_that_is_cut_short_is_refused(slide, tmp_path, name, kept):
    file = slide / name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BadImage, match=r"It came from .*s1|fetch it again"):
        take(slide, tmp_path / "made")


def element(tag, vr, length, value=b""):
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length) + value


def header(syntax, dataset):
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta + dataset


EXPLICIT, DEFLATED = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
NESTED = element(0x00081140, b"SQ", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)


def deflated():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(bytes(64 << 20)) + packer.flush()


@pytest.mark.parametrize(
    "make",
    [
        lambda: header(EXPLICIT, element(0x00080008, b"OB", 0xFFFFFFF0) + bytes(64 << 20)),
        lambda: header(EXPLICIT, element(0x0020000E, b"OB", 0xFFFFFFFF) + bytes(64 << 20)),
        lambda: header(EXPLICIT, NESTED * 50_000),
        lambda: header(DEFLATED, deflated()),
        lambda: header(EXPLICIT, struct.pack("<HH2sH", 0x20, 0xE, b"UI", 0)),
        lambda: b"<html>" + bytes(1 << 20),
        lambda: os.urandom(100_000),
    ],
    ids=["long", "unending", "nested", "deflated", "no uid", "html", "noise"],
)
def test_a_hostile_header_is_refused_in_bounded_memory(slide, make):
    (slide / "1.dcm").write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(BadImage, match=r"1\.dcm is not a readable DICOM file"):
            slide_files(slide)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_what_is_not_taken_from_a_folder_is_counted(tmp_path, capfd):
    names = ("core 3 (1).jpg", "skin.SVS", "old.bmp", "more.bmp", "photo.webp", "README", ".hidden", "batch1/a.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    taken = image_files([tmp_path], SLIDE_SUFFIXES)
    assert [path.name for path in taken] == ["core 3 (1).jpg", "skin.SVS"]
    assert ": 2 .bmp files, 1 .webp file, 1 folder, 1 other file not read: " in capfd.readouterr().err


def test_a_slide_comes_once_whatever_is_given_of_it(slide, monkeypatch):
    (slide.parent / "a.svs").touch()
    suffixes = (*SLIDE_SUFFIXES, ".dcm")
    assert list(image_files([slide.parent], suffixes)) == [slide.parent / "a.svs", slide]
    for given in ([slide], sorted(slide.iterdir()), [slide / "3.dcm", slide, slide.parent / "s1"]):
        assert list(image_files(given, suffixes)) == [slide]
    assert list(image_files([slide / "typo.dcm"], suffixes)) == [slide / "typo.dcm"], "that it is not there is said"
    monkeypatch.chdir(slide)
    (one,) = image_files([Path("1.dcm"), Path(), slide], suffixes)
    assert slide_name(one) == "s1"
    assert list(image_files([slide.parent / "a.svs", Path("../a.svs"), slide.parent], suffixes)) == [
        slide.parent / "a.svs",
        slide,
    ]
