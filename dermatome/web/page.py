"""What the pages share: the choice of an image, running it in the queue, and errors told in a sentence."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.data_root import DataRoot
from dermatome.errors import DermatomeError
from dermatome.slide import DECLARED_MPP, SUFFIXES
from dermatome.web.uploads import UploadLimits
from dermatome.web.viewer import status_html

if TYPE_CHECKING:
    import gradio as gr

    from dermatome.compute import Backend, Compute

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
"""Of every event that computes: networks are not shared by threads, and one image's memory is in use at a time."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebContext:
    """What the pages are given.

    Attributes:
        root: whose champion and annotated slides they use.
        compute: what networks run on.
        backend: what runs them, see :func:`dermatome.runner.prepare_runner`.
        limits: of uploads.
        scratch: a folder of this app alone, gone when it ends, in which results wait to be downloaded.
    """

    root: DataRoot
    compute: Compute
    limits: UploadLimits
    scratch: Path
    backend: Backend = "auto"


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


def image_choice(limits: UploadLimits, examples: list[str], mpp: float = DECLARED_MPP) -> ImageChoice:
    """Upload, or pick an example; an upload comes first."""
    import gradio as gr

    upload = gr.File(label="Image", file_types=list(SUFFIXES), file_count="single", height=140)
    gr.Markdown(limits.in_words(), elem_classes="dm-note")
    example = gr.Dropdown(examples, value=examples[0], label="or an example", info="Used while no image is uploaded.")
    number = gr.Number(
        mpp, label="Microns per pixel of the upload", minimum=0.05, maximum=10, info="Declared by you, not measured."
    )
    return ImageChoice(upload, example, number)


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
