"""`make ui`: runs the Dagster web server and daemon, and over the demo's data root also its mock HPA server."""

import argparse
import ctypes
import http
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib import request

from dermatome.errors import BadSetting, DermatomeError, StorageFailed
from dermatome.storage.layout import DataRoot
from dermatome.web.ports import port_problem
from orchestration.demo import DEMO_FILE, demo_atlas
from orchestration.instance import note_optional, only_platform, open_instance, show_pools
from resources.dagster_private import release_from_future

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_CLOCK_CHECK_S = 30.0


def main() -> int:
    """Runs web server and daemon until Ctrl-C or until one of them ends; then ends the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the web server has no login: see docs/security.md")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="host name by which browsers reach the UI, such as that of a proxy; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--daemon-only", action="store_true", help="run no web server: another machine or container runs it"
    )
    given = parser.parse_args()
    root = DataRoot.at(os.environ["DERMATOME_DATA"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        try:
            root.check_writable()
            if not given.daemon_only and (reason := port_problem(given.host, given.port)):
                raise BadSetting(
                    f"Port {given.port} of {given.host} cannot be used ({reason}): stop the program that uses it, or "
                    f"choose another port, such as `make ui PORT={given.port + 1}`."
                )
            stack.enter_context(only_platform())
            with open_instance() as instance:  # creates the storage before the two processes below open it
                note_optional(instance)
                show_pools(instance)
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
        url, answers = f"http://{given.host}:{given.port}", given.daemon_only
        print(f"Starting the {' and the '.join(running)} …", flush=True)
        next_clock_check = time.monotonic()
        try:
            while True:
                if time.monotonic() >= next_clock_check:
                    _check_clock()
                    next_clock_check = time.monotonic() + _CLOCK_CHECK_S
                if not answers and (answers := _answers(url)):
                    print(f"Dagster UI: {url} (Ctrl-C ends it)", flush=True)
                for name, process in running.items():
                    if process.poll() is not None:
                        print(f"The {name} ended with status {process.returncode}; ending the rest.", file=sys.stderr)
                        return 1
                time.sleep(0.5)
        except KeyboardInterrupt:
            return 0


def _check_clock() -> None:
    try:
        with open_instance() as instance:
            for sentence in release_from_future(instance):
                print(sentence, flush=True)
    except StorageFailed as error:  # such as a full disk, which the daemon and the web server survive
        print(error, file=sys.stderr)


def _answers(url: str) -> bool:
    try:
        with request.build_opener(request.ProxyHandler({})).open(f"{url}/server_info", timeout=2) as answer:
            return bool(answer.status == http.HTTPStatus.OK)
    except OSError:
        return False


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a child process; at the end of the block it is terminated, and killed if that does not end it."""
    child = subprocess.Popen(command, preexec_fn=_end_with_parent)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()


def _end_with_parent() -> None:
    """Makes Linux end the child if its parent is killed, so that the next `make ui` finds no second daemon."""
    # A shell script that starts `make ui &` ignores interrupts, and Dagster then ignores SIGTERM too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
