"""What the pages share: the choice of an image, running it in the queue, and errors told in a sentence."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import DermatomeError
from dermatome.settings import Settings, load_settings
from dermatome.slides.plain import SUFFIXES
from dermatome.storage.layout import DataRoot
from dermatome.web.uploads import UploadLimits
from dermatome.web.viewer import markdown_text, status_html

if TYPE_CHECKING:
    import gradio as gr

    from dermatome.inference.compute import Compute

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
"""Of every event that computes: networks are not shared by threads, and one image's memory is in use at a time."""

MAX_THREADS = 8
"""Computations that may hold a thread at once; all but one are cancelled ones, which Gradio no longer counts."""

_LOG = logging.getLogger(__name__)


class Stopped(DermatomeError):
    """A computation that the person it was for has ended."""


class Turns:
    """One computation at a time, each for one browser session, which may end it.

    Gradio's queue has them wait for each other, too; but to it a cancelled one is over while its thread still works.
    """

    def __init__(self) -> None:
        self._alone = threading.Lock()
        self._threads = threading.BoundedSemaphore(MAX_THREADS)
        self._stops: dict[str, threading.Event] = {}

    @contextmanager
    def of(self, session: str) -> Iterator[Callable[[], None]]:
        """Waits for the computation before; the block is given a check, to be called now and then.

        Raises:
            Stopped: by the check, or while waiting, once :meth:`stop` was called for the session; or too many threads
                wait already.
        """
        if not self._threads.acquire(blocking=False):
            raise Stopped("Too many cancelled computations are still ending: press the button again in a minute.")
        try:
            with self._turn(session) as check:
                yield check
        finally:
            self._threads.release()

    @contextmanager
    def _turn(self, session: str) -> Iterator[Callable[[], None]]:
        asked = self._stops[session] = threading.Event()

        def check() -> None:
            if asked.is_set():
                raise Stopped("Stopped, as you asked: press the button to begin again.")

        try:
            while not self._alone.acquire(timeout=0.1):
                check()
            try:
                yield check
            finally:
                self._alone.release()
        finally:
            # The session may have begun anew while this one was ending.
            if self._stops.get(session) is asked:
                del self._stops[session]

    def stop(self, session: str) -> None:
        """Has the session's computation, if one runs, end at its next check."""
        asked = self._stops.get(session)
        if asked is not None:
            asked.set()


@dataclass(frozen=True)
class WebContext:
    """What the pages are given.

    Attributes:
        root: whose settings, networks and annotated slides they use.
        compute: what networks run on.
        limits: of uploads.
        scratch: a folder of this app alone, gone when it ends, in which results wait to be downloaded.
        weights: of nuclei: a weights file, a training version or ``toy``; empty leaves the choice to the data root.
        turns: of computations.
    """

    root: DataRoot
    compute: Compute
    limits: UploadLimits
    scratch: Path
    weights: str = ""
    turns: Turns = field(default_factory=Turns)

    @property
    def settings(self) -> Settings:
        """The data root's settings as they are now.

        Raises:
            BadSetting: the settings file is wrong.
        """
        return load_settings(self.root.settings)


@dataclass(frozen=True)
class ImageChoice:
    """The components an image is chosen with."""

    upload: gr.File
    example: gr.Dropdown
    mpp: gr.Number

    @property
    def inputs(self) -> list[Any]:
        """In the order of :func:`dermatome.web.uploads.choose_slide`."""
        return [self.upload, self.example, self.mpp]


def image_choice(limits: UploadLimits, examples: list[str], mpp: float) -> ImageChoice:
    """Upload, or pick an example; an upload comes first."""
    import gradio as gr

    upload = gr.File(label="Image", file_types=list(SUFFIXES), file_count="single", height=140)
    gr.Markdown(limits.in_words(), elem_classes="dm-note")
    example = gr.Dropdown(examples, value=examples[0], label="or an example", info="Used while no image is uploaded.")
    number = gr.Number(
        mpp,
        label="Microns per pixel, if the file states none",
        minimum=0.05,
        maximum=10,
        info="Declared by you, not measured. What a TIFF states itself comes first.",
    )
    return ImageChoice(upload, example, number)


def noted(say: Callable[[], str]) -> Callable[[], str]:
    """``say``, for a page's note on its networks; where they cannot be told, the sentence why."""

    def guarded() -> str:
        try:
            return say()
        except DermatomeError as error:
            return f"**Networks.** {markdown_text(str(error))}"

    return guarded


def told(blank: tuple[Any, ...]) -> Callable[[Callable[..., Iterator[Any]]], Callable[..., Iterator[Any]]]:
    """For a page's generators: an error becomes a status line, and the other outputs ``blank``.

    Args:
        blank: a value for each output after the status.
    """

    def wrap(work: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        # Gradio reads the wrapped function's parameters, so that its progress bar is found.
        @functools.wraps(work)
        def guarded(*given: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from work(*given, **named)
            except DermatomeError as error:
                yield (status_html(str(error), bad=True), *blank)
            except Exception:  # a defect of ours is told, and logged whole, and the app goes on
                _LOG.exception("a page failed")
                message = "Something went wrong that should not: this is a defect of Dermatome, please report it."
                yield (status_html(message, bad=True), *blank)

        return guarded

    return wrap
