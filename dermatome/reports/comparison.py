"""Training versions side by side: one HTML file with everything in it, for whoever will use the masks."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermatome.classes import TISSUE_LABELS
from dermatome.errors import MissingInput
from dermatome.registry.manifest import ManifestRow, manifest_path, read_manifest
from dermatome.reports.html_page import framed, page, picture, score_row, score_table
from dermatome.storage.layout import RECORD_FILE, WEIGHTS_FILE
from dermatome.storage.record import StageRecord, read_record

_PICTURES = (
    ("samples.png", "Best and worst tiles", "Orange marks what is wrong. Look at the worst ones first."),
    ("confusion.png", "What is taken for what", "Each row is a true tissue; the diagonal is what was found right."),
    (
        "reliability.png",
        "Is it as sure as it is right?",
        "On the dashed line, what it is 80 % sure of is right 80 % of the time.",
    ),
    ("curves.png", "How it learnt", "Left: error on training tiles. Right: overlap on tiles it never trained on."),
)
_MEASURES = (
    ("f1", "F1 (Dice)", "Overlap again, counted so that it is more lenient than IoU.", True),
    ("precision", "Precision", "Of what was called this tissue, the share that is.", True),
    ("recall", "Recall", "Of this tissue, the share that was found.", True),
    ("mcc", "MCC", "Correlation of found and true, fair also where a tissue is rare. 0 is guessing.", True),
    ("boundary_f1", "Boundary F1", "How much of the borders lies within 8 µm of the drawn ones.", True),
)
_WHAT_IT_IS = (
    "A version is a network trained to colour skin images in four tissues: background, dermis, epidermis and keratin. "
    "Each column below is one version. Its scores say how well its colouring of tiles that it never trained on agrees "
    "with what people drew."
)


@dataclass(frozen=True)
class Version:
    """One version as it lies in its folder.

    Attributes:
        name: of the version.
        record: what made it and its scores.
        tiles: its manifest.
        pictures: file name → PNG bytes, those that it has.
    """

    name: str
    record: StageRecord
    tiles: list[ManifestRow]
    pictures: Mapping[str, bytes]


def read_version(folder: Path) -> Version:
    """The version in ``folder``.

    Raises:
        MissingInput: there is none.
    """
    record = read_record(folder / RECORD_FILE)
    if record is None:
        raise MissingInput(f"There is no trained version in {folder}: give a folder below tissue_weights/.")
    tiles = read_manifest(manifest_path(folder / WEIGHTS_FILE))
    pictures = {name: (folder / name).read_bytes() for name, _, _ in _PICTURES if (folder / name).is_file()}
    return Version(record.partition, record, tiles, pictures)


def comparison_html(
    versions: Sequence[Version],
    champion: str | None = None,
    hold_out: Mapping[str, Mapping[str, float | None]] | None = None,
) -> str:
    """A page that needs no other file and no network.

    Args:
        versions: in the order they are shown.
        champion: the version that masks are made with, if any.
        hold_out: for each version its IoU by class on the frozen hold-out set.

    Raises:
        MissingInput: there are no versions.
    """
    if not versions:
        raise MissingInput("There are no trained versions to compare: materialize tissue_weights first.")
    names = [version.name + (" ★" if version.name == champion else "") for version in versions]
    parts = [_introduction(versions, champion)]
    if hold_out:
        parts.append(
            _overlap(
                "On the frozen hold-out set: the same tiles for every version", versions, names, _of_hold_out(hold_out)
            )
        )
    parts.append(_overlap("On each version's own validation tiles", versions, names, _of_validation))
    for name, title, meaning, higher in _MEASURES:
        rows = [(_title(label), [_number(v, f"{name}_{label}") for v in versions]) for label in TISSUE_LABELS]
        rows.append(("mean of the tissues", _means(rows)))
        parts.append(f"<details><summary>{title}</summary><p>{meaning}</p>{score_table(names, rows, higher)}</details>")
    others = [
        ("Share of all pixels that are right", [_number(v, "accuracy") for v in versions], True),
        ("Calibration error (0 is best)", [_number(v, "calibration_error") for v in versions], False),
    ]
    body = "".join(score_row(title, values, higher) for title, values, higher in others)
    parts.append(f"<details><summary>All pixels together</summary>{framed(names, body)}</details>")
    parts.append("<h2>What each was trained on, and how</h2>" + framed(names, _facts(versions)))
    for file, title, meaning in _PICTURES:
        shown = "".join(
            f"<figure><figcaption>{html.escape(name)}</figcaption>{picture(version.pictures.get(file))}</figure>"
            for name, version in zip(names, versions, strict=True)
        )
        parts.append(f'<h2>{title}</h2><p>{meaning}</p><div class="side">{shown}</div>')
    return page("Training versions compared", parts)


def _introduction(versions: Sequence[Version], champion: str | None) -> str:
    text = [
        "<h1>Training versions compared</h1>",
        f"<p>{_WHAT_IT_IS}</p>",
    ]
    if champion:
        text.append(f"<p>★ is the champion: masks are made with <b>{html.escape(champion)}</b> now.</p>")
    held_out = {frozenset(row.image_sha256 for row in v.tiles if row.side == "validation") for v in versions}
    if len(held_out) > 1:
        text.append(
            '<p class="warn">These versions were validated on different tiles: their own scores cannot be held against '
            "one another. Use the hold-out set, or train with the same tiles.</p>"
        )
    for version in versions:
        for check in version.record.checks:
            if not check.passed:
                said = html.escape(f"{version.name}: {check.description}")
                text.append(f'<p class="warn">{said}</p>')
    return "".join(text)


def _overlap(
    title: str, versions: Sequence[Version], names: Sequence[str], score: Callable[[Version, str], float | None]
) -> str:
    rows = [(_title(label), [score(version, label) for version in versions]) for label in TISSUE_LABELS]
    rows.append(("mean of the tissues", _means(rows)))
    meaning = (
        "<p>IoU: the area on which drawing and network agree, divided by the area that either covers. 1 is perfect, 0 "
        "is no overlap; a border that is off everywhere by a few µm costs thin tissues most.</p>"
    )
    return f"<h2>{title}</h2>{meaning}{score_table(names, rows, True)}"


def _means(rows: Sequence[tuple[str, Sequence[float | None]]]) -> list[float | None]:
    """The mean of each version; none where it lacks a tissue that another one has, as it would look too good."""
    columns = list(zip(*(values for _, values in rows), strict=True))
    known = [[value for value in column if value is not None] for column in columns]
    most = max(len(values) for values in known)
    return [sum(values) / most if most and len(values) == most else None for values in known]


def _of_validation(version: Version, label: str) -> float | None:
    return _number(version, f"iou_{label}")


def _of_hold_out(hold_out: Mapping[str, Mapping[str, float | None]]) -> Callable[[Version, str], float | None]:
    return lambda version, label: hold_out.get(version.name, {}).get(label)


def _number(version: Version, name: str) -> float | None:
    value = version.record.values.get(name)
    return float(value) if isinstance(value, int | float) else None


def _facts(versions: Sequence[Version]) -> str:
    settings = [version.record.settings for version in versions]
    rows = {
        "Goes on from": [_begun_with(v) for v in versions],
        "Trained on": [_amount(v, "train") for v in versions],
        "Validated on": [_amount(v, "validation") for v in versions],
        "How those were chosen": [str(v.record.values.get("validation", "")) for v in versions],
        "Kept apart from training": [_verdict(v) for v in versions],
        "Epochs, steps": [f"{v.record.values.get('epochs')}, {v.record.values.get('steps')}" for v in versions],
        "Sees (µm per pixel)": [f"{v.record.values.get('mpp'):g}" for v in versions],
        "Made": [f"{v.record.made_at:%Y-%m-%d %H:%M} UTC" for v in versions],
        "Weights (sha256)": [str(v.record.values.get("weights_sha256", ""))[:12] for v in versions],
    }
    always = ("encoder", "loss", "seed")
    for name in sorted({key for each in settings for key in each}):
        said = [json.dumps(each.get(name)) for each in settings]
        if name in always or len(set(said)) > 1:
            rows[f"Setting: {name.replace('_', ' ')}"] = [text.strip('"') for text in said]
    return "".join(
        f"<tr><th>{html.escape(title)}</th>{''.join(f'<td>{html.escape(text)}</td>' for text in texts)}</tr>"
        for title, texts in rows.items()
    )


def _begun_with(version: Version) -> str:
    values = version.record.values
    return str(values.get("parent") or values.get("initial_weights") or "nothing: from scratch")


def _amount(version: Version, side: str) -> str:
    rows = [row for row in version.tiles if row.side == side]
    slides, patients = {row.slide for row in rows if row.slide}, {row.patient for row in rows if row.patient}
    text = f"{len(rows)} tiles"
    text += f" of {len(slides)} slides" if slides else ""
    return text + (f", {len(patients)} patients" if patients else "")


def _verdict(version: Version) -> str:
    found = [check.passed for check in version.record.checks if check.name == "no_leakage"]
    return "yes" if found == [True] else "no, see above" if found else "not checked"


def _title(label: str) -> str:
    return label.capitalize()
