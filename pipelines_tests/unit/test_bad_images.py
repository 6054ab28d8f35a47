"""Every file of the catalogue is read as it should be, or refused with a sentence that says why."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dermatome.errors import BadImage
from dermatome.slide import MAX_SIDE_PX, read_slide
from pipelines_tests.bad_images import OddFile, catalogue, picture

READ = [file for file in catalogue() if file.refused is None]
REFUSED = [file for file in catalogue() if file.refused is not None]
# What JPEG, or CMYK without a profile, changes in a smooth picture.
LOSS = 4.0


def test_the_catalogue_is_large_and_its_names_are_its_own():
    assert len({file.name for file in catalogue()}) == len(catalogue()) >= 90
    assert len(READ) >= 30
    assert len(REFUSED) >= 30


@pytest.mark.parametrize("file", READ, ids=lambda file: file.name)
def test_odd_but_good_files_are_read_and_what_was_done_is_said(file: OddFile, tmp_path):
    path = tmp_path / file.file
    path.write_bytes(file.data)
    slide = read_slide(path)
    assert slide.pixels.shape == (*file.shape, 3)
    assert slide.pixels.dtype == np.uint8
    said = "; ".join(slide.conversions)
    assert file.reads in said
    assert bool(said) == bool(file.reads)
    if file.same:
        assert np.abs(slide.pixels.astype(int) - picture()).mean() < LOSS


@pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.name)
def test_bad_files_are_refused_in_one_sentence(file: OddFile, tmp_path):
    path = tmp_path / file.file
    path.write_bytes(file.data)
    with pytest.raises(BadImage) as caught:
        read_slide(path)
    said = str(caught.value)
    assert file.refused in said
    assert said.startswith(file.file)
    assert "\n" not in said
    assert len(said) < 400


def test_no_file_takes_much_memory():
    """The largest image within the limits has 1.2 GB of pixels: what only claims to be large stays far below."""
    done = subprocess.run([sys.executable, "-c", _DECODE_ALL], capture_output=True, text=True, check=True, timeout=120)
    grown = json.loads(done.stdout)
    assert max(grown.values()) < 400, grown


# ru_maxrss never falls, so the growth over the whole catalogue is what its worst file took.
_DECODE_ALL = f"""
import json, resource
from dermatome.errors import BadImage
from dermatome.slide import decode_rgb
from pipelines_tests.bad_images import catalogue

grown = {{}}
for file in catalogue():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        decode_rgb(file.data, file.file, max_side_px={MAX_SIDE_PX})
    except BadImage:
        pass
    grown[file.name] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps(grown))
"""
