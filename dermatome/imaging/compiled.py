"""Compiled loops over pixels, for operations that numpy cannot express."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def compiled(loop: _Loop) -> _Loop:
    """Compiles ``loop`` with numba at its first call and caches it on disk; it runs without Python's global lock."""
    made: _Loop = numba.njit(nogil=True, cache=True)(loop)
    return made
