"""Fixtures every test may use."""

from pathlib import Path

import pytest

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real files kept beside the checkout; the test is skipped where it is absent."""
    if not REALDATA.is_dir():
        pytest.skip("the folder of real data is not beside this checkout")
    return REALDATA
