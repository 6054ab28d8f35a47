"""Fixtures every test may use."""

import os
import tempfile
from pathlib import Path

import pytest

from dermatome.inference.compute import Compute, choose_compute
from dermatome.storage.layout import DataRoot

_HOME = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"


def pytest_configure(config: pytest.Config) -> None:
    """Gives the tests and the processes they start an empty home, so that no model of a user decides a test and no
    test writes a model into the user's cache. Caches of other packages, such as fonts of Matplotlib, stay in use.
    """
    for variable, folder in (("XDG_CACHE_HOME", "~/.cache"), ("XDG_CONFIG_HOME", "~/.config")):
        os.environ.setdefault(variable, str(Path(folder).expanduser()))
    config.stash[_HOME] = tempfile.TemporaryDirectory(prefix="dermatome-tests-", ignore_cleanup_errors=True)
    os.environ["HOME"] = config.stash[_HOME].name


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes that home."""
    config.stash[_HOME].cleanup()


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for the processes that share the tests: a file's fixtures are made once, one run of the demo serves all
    tests that need it, and those of the whole platform, which mostly wait for its daemon, are one process's. The two
    long groups come first, and `make test` keeps that order: started last, they would run on when all else is done.
    """
    with_demo = {item.path for item in items if "demo" in getattr(item, "fixturenames", ())}

    def group_of(item: pytest.Item) -> str:
        if item.path in with_demo:
            return "demo"
        return "platform" if hasattr(getattr(item, "module", None), "Platform") else str(item.path)

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: {"demo": 0, "platform": 1}.get(group_of(item), 2))


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
