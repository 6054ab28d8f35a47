"""When what people put into a folder can be taken, by the storage's clock, which need not be this machine's."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

# A file that was touched a moment ago may still be being copied.
_SETTLED_S = 5.0
_SHOWN = 5


def settled(changed_at: float, now: float) -> bool:
    """Whether a file that was changed at ``changed_at`` is whole, as far as its time can tell; seconds since 1970.

    A time that is to come tells nothing: waiting for it could take years. If the file was not whole, it changes again.
    """
    return abs(now - changed_at) >= _SETTLED_S


def say_what_is_early(context: dg.SensorEvaluationContext, folder: Path, slides: Sequence[str]) -> None:
    """One line on known slides whose files were changed in the future, so that no cursor can tell whether again."""
    if slides:
        context.log.warning(
            f"The files of {len(slides)} slides in {folder} ({shortened(slides)}) were changed at a time that is still "
            "to come, and are looked at again then: set the clocks of this machine and of the storage right."
        )


def shortened(texts: Sequence[str]) -> str:
    """The first of ``texts``, separated by commas."""
    return f"{', '.join(texts[:_SHOWN])}{', …' if len(texts) > _SHOWN else ''}"
