"""Reports as one HTML file that needs no other: the frame, its style, tables of scores and pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

_PICTURE_WIDTH_PX = 1100


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; padding: 0 1.2rem; max-width: 1400px; }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { max-width: 50rem; margin: .3rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #ddd; vertical-align: top;
  min-width: 8.5rem; max-width: 22rem; }
tr > th:first-child { font-weight: 500; color: #444; }
td { font-variant-numeric: tabular-nums; }
td.best { font-weight: 700; }
td.best::before { content: "best "; float: right; font-size: .72rem; font-weight: 400; color: #00674d; }
.bar { display: block; height: 5px; background: #eee; margin-top: 3px; }
.bar i { display: block; height: 5px; background: #56b4e9; }
td.best .bar i { background: #009e73; }
.none { color: #767676; }
.warn { border-left: 4px solid #d55e00; padding-left: .7rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-weight: 500; }
.side { display: flex; gap: 1.2rem; overflow-x: auto; align-items: flex-start; }
figure { margin: 0; flex: 1 0 26rem; max-width: 44rem; }
figcaption { font-weight: 600; margin-bottom: .3rem; }
img { width: 100%; height: auto; display: block; }
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: str, parts: Sequence[str]) -> str:
    """The whole page, of pieces of HTML."""
    return _PAGE.replace("{title}", html.escape(title)).replace("{body}", "\n".join(parts))


def score_table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]], higher: bool) -> str:
    """A table of scores from 0 to 1, a row for each title and a column for each name."""
    return framed(names, "".join(score_row(title, values, higher) for title, values in rows))


def framed(names: Sequence[str], body: str) -> str:
    """A table with ``names`` as its columns and ``body`` as its rows."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{body}</table></div>'


def score_row(title: str, values: Sequence[float | None], higher: bool) -> str:
    """A row of scores with bars, the best one marked."""
    known = [value for value in values if value is not None]
    best = (max(known) if higher else min(known)) if len(known) > 1 else None
    cells = []
    for value in values:
        if value is None:
            cells.append('<td class="none">undefined</td>')
            continue
        mark = ' class="best"' if value == best else ""
        width = max(0.0, min(1.0, value)) * 100
        cells.append(f'<td{mark}>{value:.3f}<span class="bar"><i style="width:{width:.1f}%"></i></span></td>')
    return f"<tr><th>{html.escape(title)}</th>{''.join(cells)}</tr>"


def picture(data: bytes | None) -> str:
    """A figure (PNG bytes) in the page itself, as a smaller JPEG."""
    if data is None:
        return '<p class="none">none</p>'
    with Image.open(io.BytesIO(data)) as opened:
        shown = opened.convert("RGB")
    shown.thumbnail((_PICTURE_WIDTH_PX, 4 * _PICTURE_WIDTH_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, format="JPEG", quality=88)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
