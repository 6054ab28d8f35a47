import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermatome.geometry import Box, Size

sizes = st.builds(Size, st.integers(1, 5000), st.integers(1, 5000))


@st.composite
def boxes_in(draw):
    size = draw(sizes)
    top = draw(st.integers(0, size.height_px - 1))
    left = draw(st.integers(0, size.width_px - 1))
    return size, Box(top, left, draw(st.integers(top + 1, size.height_px)), draw(st.integers(left + 1, size.width_px)))


@given(boxes_in(), sizes)
def test_a_rescaled_box_covers_the_same_part_of_the_image(sized, target):
    size, box = sized
    scaled = box.rescaled(size, target)
    assert scaled.fits(target)
    for low, high, new_low, new_high, old, new in (
        (box.top_px, box.bottom_px, scaled.top_px, scaled.bottom_px, size.height_px, target.height_px),
        (box.left_px, box.right_px, scaled.left_px, scaled.right_px, size.width_px, target.width_px),
    ):
        assert new_low * old <= low * new + 1e-6 * old * new
        assert new_high * old >= high * new - 1e-6 * old * new
        assert (new_low + 1) * old > low * new - 1e-6 * old * new
        assert (new_high - 1) * old < high * new + 1e-6 * old * new


def test_a_box_without_area_fits_nowhere_and_a_size_is_at_least_a_pixel():
    assert not Box(0, 0, 0, 5).fits(Size(9, 9))
    assert Size(10, 3).scaled(0.1) == Size(1, 1)


@pytest.mark.parametrize("size", [Size(100, 700), Size(300, 256), Size(1000, 513)])
def test_squares_half_a_side_apart_cover_a_slide(size):
    boxes = list(Box.whole(size).squares(256, 128))
    covered = np.zeros((size.height_px, size.width_px), bool)
    for box in boxes:
        covered[box.slices] = True
        assert box.fits(size)
    assert covered.all()
    assert len(boxes) == len(set(boxes))
