"""`make ui`: the Dagster web server and daemon; over the demo's data root, also its mock HPA server."""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

from dermatome.errors import DermatomeError
from dermatome.storage.layout import DataRoot
from orchestration.demo import DEMO_FILE, demo_atlas
from orchestration.instance import only_platform, open_instance

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Runs both until Ctrl-C, or until one of them ends; then ends the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the web server has no login: see docs/security.md")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="host name by which browsers reach the UI, such as that of a proxy; repeat it for several",
    )  # fmt: skip
    parser.add_argument(
        "--daemon-only", action="store_true", help="run no web server: another machine or container does"
    )
    given = parser.parse_args()
    root = DataRoot.at(os.environ["DERMATOME_DATA"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        try:
            root.check_writable()
            stack.enter_context(only_platform())
            with open_instance():
                pass  # creates the storage before the two processes below open it
            if (root.path / DEMO_FILE).is_file():
                atlas = stack.enter_context(demo_atlas(root))
                print(f"This is the demo's data root: the mock HPA server runs at {atlas.url}")
        except DermatomeError as error:
            print(error, file=sys.stderr)
            return 1
        allowed = [f"--allow-host={name}" for name in given.allow_host]
        commands = {
            "web server": ["orchestration.webserver", "--host", given.host, "--port", str(given.port), *allowed],
            "daemon": ["dagster._daemon", "run"],
        }
        if given.daemon_only:
            del commands["web server"]
        running = {
            name: stack.enter_context(_process([sys.executable, "-m", *command, "--workspace", "workspace.yaml"]))
            for name, command in commands.items()
        }
        if not given.daemon_only:
            print(f"Dagster UI: http://{given.host}:{given.port} (Ctrl-C ends it)")
        try:
            while True:
                for name, process in running.items():
                    if process.poll() is not None:
                        print(f"The {name} ended with status {process.returncode}; ending the rest.", file=sys.stderr)
                        return 1
                time.sleep(0.5)
        except KeyboardInterrupt:
            return 0


class _process:  # noqa: N801 (used as a context, like `open`)
    """A child process that is terminated at the end of the block, and killed if that does not end it."""

    def __init__(self, command: list[str]) -> None:
        self._child = subprocess.Popen(command, preexec_fn=_end_with_parent)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._child

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(20)
        except subprocess.TimeoutExpired:
            self._child.kill()


def _end_with_parent() -> None:
    """Makes Linux end the child if its parent is killed, so that the next `make ui` finds no other daemon."""
    # A script's shell that starts `make ui &` ignores interrupts, and Dagster then treats SIGTERM in the same way.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
