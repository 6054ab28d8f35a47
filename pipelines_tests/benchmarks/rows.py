"""The rows of benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was done.
        against: what it is compared with.
        ours: seconds, bytes or whatever ``unit`` says, of what was done; None where nothing was measured.
        reference: the same of what it is compared with.
        unit: of both.
        ratio: of the two, whichever way round ``target`` is; None where there is no comparison.
        target: what the ratio (or ``ours``) should be, in words; empty where it is only reported.
        met: whether it is; None where there is no target or nothing was measured.
        baseline: the least the same work can cost, in words and numbers of the same run.
        note: what a reader must know: which images, which backend, why nothing was measured.
    """

    name: str
    against: str = ""
    ours: float | None = None
    reference: float | None = None
    unit: str = "s"
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    baseline: str = ""
    note: str = ""


# ``words`` are a row's ``baseline`` and ``note``.


def times_faster(name: str, against: str, ours: float, reference: float, *, at_least: float, **words: str) -> Row:
    """How many times faster than the reference, both in seconds; the target is to be ``at_least`` so many times."""
    ratio = reference / ours
    return Row(name, against, ours, reference, "s", ratio, f"≥ {at_least:g} × faster", ratio >= at_least, **words)


def times_the_cost(name: str, against: str, ours: float, reference: float, *, at_most: float, **words: str) -> Row:
    """How many times the reference's cost, both in seconds; the target is to be ``at_most`` so many times."""
    ratio = ours / reference
    return Row(name, against, ours, reference, "s", ratio, f"≤ {at_most:g} × its time", ratio <= at_most, **words)


def share_of_rate(
    name: str, against: str, ours: float, reference: float, unit: str, *, at_least: float, **words: str
) -> Row:
    """What share of the reference's rate (MB/s, tiles/s) is reached; the target is ``at_least`` that share."""
    ratio = ours / reference
    return Row(name, against, ours, reference, unit, ratio, f"≥ {at_least:g} of it", ratio >= at_least, **words)


def at_most_more(
    name: str, against: str, ours: float, reference: float, unit: str, *, more: float, **words: str
) -> Row:
    """What is added to the reference; the target is at most ``more``."""
    ratio, met = ours / reference if reference else None, ours - reference <= more
    return Row(name, against, ours, reference, unit, ratio, f"≤ {more:g} {unit} more", met, **words)


def below(name: str, ours: float, unit: str, *, at_most: float, **words: str) -> Row:
    """One number that should be ``at_most`` so large; the ratio is its share of that."""
    return Row(name, "", ours, at_most, unit, ours / at_most, f"≤ {at_most:g} {unit}", ours <= at_most, **words)


def reaches(name: str, ours: float, unit: str, *, at_least: float, **words: str) -> Row:
    """One number that should be ``at_least`` so large; the ratio is to that."""
    return Row(name, "", ours, at_least, unit, ours / at_least, f"≥ {at_least:g} {unit}", ours >= at_least, **words)


def reported(
    name: str, ours: float, unit: str, *, against: str = "", reference: float | None = None, **words: str
) -> Row:
    """A number without a target; the ratio is ``ours`` by ``reference`` where there is one."""
    return Row(name, against, ours, reference, unit, ours / reference if reference else None, "", None, **words)


def not_measured(name: str, why: str, *, target: str = "") -> Row:
    """A row that could not be measured here, and why: it is in the table all the same."""
    return Row(name, target=target, unit="", note=why)
