"""Every file of the catalogue is read as it should be, or refused with a sentence that says why."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dermatome.errors import BadImage
from dermatome.geometry import Box, Size
from dermatome.slides.slide import read_slide
from dermatome.slides.tiled_tiff import TiledPixels
from pipelines_tests.bad_images import catalogue, picture

READ = [file for file in catalogue() if file.refused is None]
REFUSED = [file for file in catalogue() if file.refused is not None]
# What JPEG, or CMYK without a profile, changes in a smooth picture.
LOSS = 4.0


def read_checked(path):
    """As `slide_images` does it: what is not decoded whole has its parts decoded once."""
    slide = read_slide(path)
    if isinstance(slide.pixels, TiledPixels):
        slide.pixels.check()
    return slide


def test_the_catalogue_is_large_and_its_names_are_its_own():
    assert len({file.name for file in catalogue()}) == len(catalogue()) >= 90
    assert len(READ) >= 30
    assert len(REFUSED) >= 30


@pytest.mark.parametrize("file", READ, ids=lambda file: file.name)
def test_odd_but_good_files_are_read_and_what_was_done_is_said(file, tmp_path):
    path = tmp_path / file.file
    path.write_bytes(file.data)
    slide = read_checked(path)
    assert slide.pixels.shape == (*file.shape, 3)
    assert slide.region(Box(0, 0, 1, 1), Size(1, 1)).dtype == np.uint8
    said = "; ".join(slide.conversions)
    assert file.reads in said
    assert bool(said) == bool(file.reads)
    if file.same:
        assert np.abs(slide.pixels.astype(int) - picture()).mean() < LOSS


@pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.name)
def test_bad_files_are_refused_in_one_sentence(file, tmp_path):
    path = tmp_path / file.file
    path.write_bytes(file.data)
    with pytest.raises(BadImage) as caught:
        read_checked(path)
    said = str(caught.value)
    assert file.refused in said
    assert said.startswith(file.file)
    assert "\n" not in said
    assert len(said) < 400


def test_no_file_takes_much_memory(tmp_path):
    """The largest image within the limits has 1.2 GB of pixels: what only claims to be large stays far below."""
    command = [sys.executable, "-c", _DECODE_ALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    grown = json.loads(done.stdout)
    assert max(grown.values()) < 400, grown


# ru_maxrss never falls, so the growth over the whole catalogue is what its worst file took.
_DECODE_ALL = """
import json, resource, sys
from pathlib import Path
from dermatome.errors import BadImage
from pipelines_tests.bad_images import catalogue
from pipelines_tests.unit.test_bad_images import read_checked

grown = {}
for file in catalogue():
    path = Path(sys.argv[1]) / file.file
    path.write_bytes(file.data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_checked(path)
    except BadImage:
        pass
    grown[file.name] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps(grown))
"""
