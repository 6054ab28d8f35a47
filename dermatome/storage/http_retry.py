"""When to try again, and how long to wait before it."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class Again(Exception):
    """A failure that may pass; never leaves the client.

    Args:
        reason: what went wrong, in words.
        retry_after_s: how long the host asks to wait, seconds.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def retry_after_s(header: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date; None where it asks for nothing readable.

    Source: RFC 9110, 10.2.3.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        asked = parsedate_to_datetime(text)
    except ValueError:
        return None
    asked = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    return max(0.0, (asked - (now or datetime.now(UTC))).total_seconds())


def delay_s(attempt: int, asked_s: float | None, backoff_s: float, max_wait_s: float) -> float:
    """How long to wait after try number ``attempt`` (from 0), seconds, never over ``max_wait_s``.

    It doubles with each try, between half and one and a half times that, so that threads which failed together do not
    return together; what the host asks for is the least.
    """
    delay = backoff_s * 2.0**attempt * random.uniform(0.5, 1.5)
    return min(max(delay, asked_s or 0.0), max_wait_s)
