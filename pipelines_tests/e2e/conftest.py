"""One run of the demo serves every end-to-end test that needs trained weights and whole slides; and a browser."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dermatome.storage.layout import DataRoot
from pipelines_tests.e2e.platform import CHECKOUT, environment

CHROMIUM = next((path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if path.exists()), None)


@dataclass(frozen=True)
class DemoRun:
    """What `make demo` did over a fresh data root."""

    root: DataRoot
    status: int
    output: str


def run_demo(root: Path) -> DemoRun:
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.demo"],
        cwd=CHECKOUT,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    return DemoRun(DataRoot(root), done.returncode, done.stdout)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> DemoRun:
    return run_demo(tmp_path_factory.mktemp("demo") / "data")


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox needs rights that a container's root has not; it opens nothing but our servers.
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()
