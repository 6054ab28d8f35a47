"""Works for tests of the slide engines that other processes must be able to import."""

import os
import signal
import time
from pathlib import Path

from dermatome.errors import BadImage, BadWeights
from dermatome.pipeline.work import AlreadyMade


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Naming:
    """Gives each key in capitals and the process that did it; what a key begins with says what happens to it.

    Files in ``folder`` say what was begun and what was written. No worker computes before ``together`` of them are up:
    how soon a machine starts processes is nothing a test may count on.
    """

    def __init__(self, folder: Path, seconds: float = 0.0, together: int = 1):
        self.folder, self.seconds, self.together = folder, seconds, together

    def open(self, seat):
        if (self.folder / "unopened").exists():
            raise BadWeights("There are no weights.")
        if (self.folder / "dies").exists():
            os._exit(7)
        self.seat = seat
        (self.folder / f"{os.getpid()}.up").touch()
        while len(list(self.folder.glob("*.up"))) < self.together:
            seat.check()
            time.sleep(0.01)

    def read(self, key):
        if key.startswith("made"):
            return AlreadyMade((key.upper(), os.getpid()))
        return key

    def pixels(self, read):
        return 10

    def compute(self, reads):
        for key in reads:
            if key.startswith("bad"):
                raise BadImage(f"{key} is bad.")
            if key.startswith("odd"):
                raise Unpicklable(key, "more")
            if key.startswith("kills"):
                os.kill(os.getpid(), signal.SIGKILL)
            if key.startswith("once") and not (self.folder / f"{key}.tried").exists():
                (self.folder / f"{key}.tried").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if key.startswith("long"):
                (self.folder / f"{key}.{os.getpid()}.begun").touch()
                while True:
                    time.sleep(0.01)
        time.sleep(self.seconds)
        return [key.upper() for key in reads]

    def write(self, key, found):
        part = self.folder / f"{key}.part"
        part.touch()
        time.sleep(self.seconds)
        part.rename(self.folder / f"{key}.written")
        return found, os.getpid()
