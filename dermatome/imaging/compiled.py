"""Loops over pixels that numpy has no words for, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def compiled(loop: _Loop) -> _Loop:
    """``loop`` compiled when it is first called; kept on disk for the next process. It lets go of Python's lock."""
    made: _Loop = numba.njit(nogil=True, cache=True)(loop)
    return made
