"""A diameter that is estimated stays within what cells of skin can have and a network can be shown."""

from types import SimpleNamespace

import numpy as np
import pytest

from dermatome.geometry import Box
from dermatome.skin.cells.segment import _estimates_px, estimate_diameter


@pytest.mark.parametrize(("guess", "median", "believed"), [(500.0, None, 120.0), (500.0, 900, 120.0), (0.1, None, 4.0)])
def test_a_wild_estimate_is_not_believed(guess, median, believed):
    asked = []
    cells = [] if median is None else [(SimpleNamespace(count=1, owners=np.zeros(median**2, int)), 0)]

    def cells_in(box, diameter_px):
        asked.append(diameter_px)
        return SimpleNamespace(run=list, style_sum=np.ones(4)), cells

    image = SimpleNamespace(region=Box(0, 0, 9, 9))
    model = SimpleNamespace(diameter=lambda style: guess)
    found = estimate_diameter(image, model, 30.0, cells_in, _estimates_px(30.0, 0.5))  # type: ignore[arg-type]
    assert found == believed
    assert set(asked) <= {30.0, believed}
