"""SIGKILL for whatever process of the platform the dice choose, damaged files, a full disk, a locked store, a clock."""

import contextlib
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil


def platform_processes(root: Path) -> dict[int, str]:
    """Every process that works over a data root, by number, and what it is; found by its environment.

    That way orphans are found, too, which are nobody's children any more.
    """
    found: dict[int, str] = {}
    processes: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("DERMATOME_DATA") == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                processes[process.pid] = process
        except (psutil.Error, OSError):
            continue
    for pid, process in processes.items():
        with contextlib.suppress(psutil.Error):
            found[pid] = _role(process)
    return found


def _role(process: psutil.Process) -> str:
    said = " ".join(process.cmdline())
    for part, role in (
        ("orchestration.ui", "supervisor"),
        ("orchestration.webserver", "web server"),
        ("dagster._daemon", "daemon"),
        ("api grpc", "code server"),
        ("resource_tracker", "tracker"),
    ):
        if part in said:
            return role
    return "run"


class Killer:
    """Kills, and counts by kind of process.

    Args:
        root: whose platform.
        dice: which one, when.
    """

    def __init__(self, root: Path, dice: random.Random) -> None:
        self._root, self._dice = root, dice
        self.killed: Counter[str] = Counter()

    def is_working(self) -> bool:
        """Whether a run is going on."""
        return "run" in platform_processes(self._root).values()

    def kill_one(self) -> str | None:
        """SIGKILL for one process: first the kind is drawn, then the process; runs most often."""
        roles: dict[str, list[int]] = {}
        for pid, role in platform_processes(self._root).items():
            roles.setdefault(role, []).append(pid)
        weights = {"run": 16, "code server": 1, "daemon": 0.5, "web server": 0.5, "supervisor": 0.5}
        there = [role for role in weights if role in roles]
        # A platform that is always starting anew would never get to work: mostly it is left to begin a run first.
        if not there or ("run" not in roles and self._dice.random() < 0.97):
            return None
        (role,) = self._dice.choices(there, [weights[role] for role in there])
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._dice.choice(roles[role]), signal.SIGKILL)
            self.killed[role] += 1
            return role
        return None


def damage_one(folders: list[Path], dice: random.Random) -> str | None:
    """Deletes, truncates or flips a bit of one file of one of ``folders``; says which, or None if there is no file."""
    files = sorted(path for folder in folders for path in folder.glob("[!.]*"))
    if not files:
        return None
    path = dice.choice(files)
    how = dice.choice(("deleted", "truncated", "a bit flipped"))
    with contextlib.suppress(FileNotFoundError):  # the folder was replaced meanwhile
        data = bytearray(path.read_bytes())
        if how == "deleted" or not data:
            path.unlink()
            return "deleted"
        if how == "a bit flipped":
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data[: dice.randrange(len(data))] if how == "truncated" else data)
        return how
    return None


@contextlib.contextmanager
def small_disk(size_mb: int) -> Iterator[tuple[Path, str]]:
    """A file system of its own, of ``size_mb``; or a plain folder where there are no rights to mount one, and why."""
    place = Path(tempfile.mkdtemp(prefix="dermatome-soak-"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(place)], capture_output=True, text=True
    )
    mounted = done.returncode == 0
    try:
        yield place, "" if mounted else done.stderr.strip() or "no rights to mount a tmpfs"
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def full_disk(place: Path) -> Iterator[int]:
    """No byte is free below ``place`` while the block runs; gives how many the ballast takes."""
    ballast = place / ".ballast"
    written = 0
    try:
        with ballast.open("wb", buffering=0) as file:
            for block in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        written += file.write(bytes(block))
        yield written
    finally:
        ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[None]:
    """The file system that is mounted at ``place`` cannot be written while the block runs."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)


class Clock:
    """The calendar clock of processes that are started from now on, which can be set while they run.

    Args:
        folder: for the library that is preloaded into them; files keep the times of the system's clock.

    Raises:
        FileNotFoundError: there is no C compiler (``cc``).
    """

    def __init__(self, folder: Path) -> None:
        self._step, library = folder / "clock-step", folder / "clock.so"
        self.set_back(0)
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
        os.environ.update(LD_PRELOAD=str(library), CLOCK_STEP=str(self._step))

    def set_back(self, seconds: int) -> None:
        """Sets the clock to so many seconds before the system's."""
        with self._step.open("r+b" if self._step.exists() else "wb") as file:
            file.write(struct.pack("q", -seconds))


def overwrite(path: Path, dice: random.Random) -> None:
    """Replaces all of a file but its first 4,096 bytes by noise."""
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:4096] + dice.randbytes(max(0, size - 4096)))


@contextlib.contextmanager
def locked_store(path: Path) -> Iterator[None]:
    """Another process has the DuckDB file open for writing while the block runs."""
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    # Without the platform's environment, so that the killer does not take it for one of its processes.
    env = {name: value for name, value in os.environ.items() if name != "DERMATOME_DATA"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.stdin.close()
