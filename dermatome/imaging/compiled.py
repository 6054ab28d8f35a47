"""Compiled loops over pixels, for operations that numpy cannot express."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def compiled(loop: _Loop) -> _Loop:
    """Compiles ``loop`` with numba at its first call and caches it on disk; it runs without Python's global lock.

    It must not call another compiled loop. Only a call imports numba, which takes a third of a second.
    """

    @cache
    def made() -> Callable[..., Any]:
        import numba

        found: Callable[..., Any] = numba.njit(nogil=True, cache=True)(loop)
        return found

    @wraps(loop)
    def call(*arguments: Any) -> Any:
        return made()(*arguments)

    return cast(_Loop, call)
