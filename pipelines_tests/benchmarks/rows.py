"""A benchmark's rows, and how a function becomes a benchmark."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PACKAGE = "pipelines_tests.benchmarks"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was done.
        against: what it is compared with.
        ours: seconds, bytes or whatever ``unit`` says, of what was done; None where nothing was measured.
        reference: the same of what it is compared with.
        unit: of both.
        ratio: of the two, whichever way round ``target`` asks for; None where there is no comparison.
        target: what the ratio (or ``ours``) should be, in words; empty where it is only reported.
        met: whether it is; None where there is no target or nothing was measured.
        bare: the least the same work can cost, in words and numbers of the same run.
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
    bare: str = ""
    note: str = ""


# ``words`` are a row's ``bare`` and ``note``.


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


Measure = Callable[[bool], Iterable[Row]]


@dataclass(frozen=True)
class Benchmark:
    """A registered function.

    Attributes:
        name: what it is called on the command line.
        measure: takes whether to run at toy size (seconds, for the harness's test), and gives rows.
        timeout_s: after which it is ended at full size, and its row says so.
        order: where it stands in the table.
    """

    name: str
    measure: Measure
    timeout_s: float
    order: int


_REGISTERED: dict[str, Benchmark] = {}


def benchmark(name: str, *, timeout_s: float = 300, order: int = 100) -> Callable[[Measure], Measure]:
    """Registers a function ``(toy: bool) -> Iterable[Row]`` as a benchmark; see :class:`Benchmark`.

    Its module should import what is heavy inside functions, for all modules are imported to find the benchmarks.
    """

    def register(measure: Measure) -> Measure:
        if name in _REGISTERED:
            raise ValueError(f"There are two benchmarks called {name!r}: give each its own name.")
        _REGISTERED[name] = Benchmark(name, measure, timeout_s, order)
        return measure

    return register


def registered() -> dict[str, Benchmark]:
    """Every benchmark of this package by name, in the table's order."""
    for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        if not module.name.startswith("__"):
            importlib.import_module(f"{PACKAGE}.{module.name}")
    return dict(sorted(_REGISTERED.items(), key=lambda item: (item[1].order, item[0])))
