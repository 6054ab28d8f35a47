"""What the pages share without Gradio: the app's context, turns, the declaration of a page, and error messages."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dermatome.errors import DermatomeError
from dermatome.settings import Settings, load_settings
from dermatome.slides.slide import Slide
from dermatome.storage.layout import DataRoot
from dermatome.web.uploads import Example, UploadLimits
from dermatome.web.viewer import markdown_text, status_html

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

MAX_THREADS = 8
"""Number of computations that may hold a thread; all but one are cancelled ones, which Gradio no longer counts."""

_LOG = logging.getLogger(__name__)

Progress = Callable[[float, str], None]
"""Progress callback: share done (0 to 1) and a short text. It raises :class:`Stopped` to end the computation."""


class Stopped(DermatomeError):
    """A computation that was stopped by the person who started it."""


class Turns:
    """One computation at a time; each belongs to a browser session, which may stop it.

    Gradio's queue also runs one at a time, but it counts a cancelled computation as ended while its thread still works.
    """

    def __init__(self) -> None:
        self._alone = threading.Lock()
        self._threads = threading.BoundedSemaphore(MAX_THREADS)
        self._stops: dict[str, threading.Event] = {}

    @contextmanager
    def of(self, session: str) -> Iterator[Callable[[], None]]:
        """Waits for the running computation to end, then yields a check that the new one calls often.

        Raises:
            Stopped: :meth:`stop` was called for the session (raised by the check, or while waiting), or too many
                threads are waiting.
        """
        if not self._threads.acquire(blocking=False):
            raise Stopped("Too many cancelled computations are still ending: press the button again in a minute.")
        stop = self._stops[session] = threading.Event()

        def check() -> None:
            if stop.is_set():
                raise Stopped("Stopped, as you asked: press the button to begin again.")

        try:
            while not self._alone.acquire(timeout=0.1):
                check()
            try:
                yield check
            finally:
                self._alone.release()
        finally:
            # The session may have started another computation while this one was ending.
            if self._stops.get(session) is stop:
                del self._stops[session]
            self._threads.release()

    def stop(self, session: str) -> None:
        """Stops the session's computation, if there is one, at its next check."""
        if stop := self._stops.get(session):
            stop.set()


@dataclass(frozen=True)
class WebContext:
    """The data and settings that the pages need.

    Attributes:
        root: Data root whose settings, networks and annotated slides the pages use.
        compute: Device, precision, threads and backend of the networks.
        limits: Limits on uploads.
        scratch: Temporary folder of this app in which results wait to be downloaded.
        weights: Network for nuclei: a weights file, a training version or ``toy``; empty to choose from the data root.
        turns: Turns of the computations.
    """

    root: DataRoot
    compute: Compute
    limits: UploadLimits
    scratch: Path
    weights: str = ""
    turns: Turns = field(default_factory=Turns)

    @property
    def settings(self) -> Settings:
        """Current settings of the data root.

        Raises:
            BadSetting: The settings file is wrong.
        """
        return load_settings(self.root.settings)


class Analysis(Protocol):
    """The results of one image, and how they are shown.

    Attributes:
        summary: One plain sentence that describes them.
        warning: Warning that must be read before the numbers; empty if none.
    """

    @property
    def summary(self) -> str: ...  # noqa: D102
    @property
    def warning(self) -> str: ...  # noqa: D102

    def write(self, folder: Path) -> None:
        """Writes the files of the command line into a folder."""

    def view(self) -> str:
        """The image with the results over it, as HTML."""

    def tables(self, folder: Path) -> str:
        """The numbers, as HTML; ``folder`` contains the files of :meth:`write`."""


@dataclass(frozen=True)
class AnalysisPage:
    """Declaration of a page that analyses one image; :func:`dermatome.web.page.build_page` builds it.

    Attributes:
        text: Heading and introduction, as Markdown.
        action: Label of the button that starts the computation.
        api_name: Name of the Gradio endpoint.
        mpp: Suggested microns per pixel for images that state none.
        examples: Functions that draw an example image, by name.
        networks: Describes the networks in use, as Markdown. May raise a DermatomeError.
        compute: Analyses a slide and reports its progress.
    """

    text: str
    action: str
    api_name: str
    mpp: float
    examples: Mapping[str, Example]
    networks: Callable[[], str]
    compute: Callable[[Slide, Progress], Analysis]


def add_csv(folder: Path) -> list[Path]:
    """Writes each Parquet table of a result also as CSV, for spreadsheets; returns all files in the folder."""
    import pandas as pd

    for path in sorted(folder.glob("*.parquet")):
        pd.read_parquet(path).to_csv(path.with_suffix(".csv"), index=False)
    return sorted(folder.iterdir())


def networks_note(networks: Callable[[], str]) -> str:
    """Markdown that describes a page's networks, or the reason why they cannot be used."""
    try:
        return networks()
    except DermatomeError as error:
        return f"**Networks.** {markdown_text(str(error))}"


def errors_shown(blank: tuple[Any, ...]) -> Callable[[Callable[..., Iterator[Any]]], Callable[..., Iterator[Any]]]:
    """Decorates a page's event handler, a generator: an error becomes the status line.

    Args:
        blank: Values of the outputs after the status in case of an error.
    """

    def decorate(handler: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        # Gradio reads the parameters of the decorated function to find its progress bar and request.
        @functools.wraps(handler)
        def guarded(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from handler(*args, **kwargs)
            except DermatomeError as error:
                yield (status_html(str(error), bad=True), *blank)
            except Exception:  # a defect is logged with its traceback, and the app continues
                _LOG.exception("a page failed")
                message = "Something went wrong that should not: this is a defect of Dermatome, please report it."
                yield (status_html(message, bad=True), *blank)

        return guarded

    return decorate
