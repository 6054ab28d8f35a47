"""Fixtures every test may use."""

from pathlib import Path

import pytest

from dermatome.inference.compute import Compute, choose_compute
from dermatome.storage.layout import DataRoot

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for the processes that share the tests: a file's fixtures are made once, and the end-to-end tests, which
    use one run of the demo and wait much, are one process's.
    """
    for item in items:
        e2e = "e2e" in item.path.relative_to(Path(__file__).parent).parts
        item.add_marker(pytest.mark.xdist_group("e2e" if e2e else str(item.path)))


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real files kept beside the checkout; the test is skipped where it is absent."""
    if not REALDATA.is_dir():
        pytest.skip("the folder of real data is not beside this checkout")
    return REALDATA


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    """An empty data root."""
    return DataRoot(tmp_path / "data")


@pytest.fixture(scope="session")
def compute() -> Compute:
    """One thread of the CPU at full precision."""
    return choose_compute("cpu", "fp32", 1)
