"""What benchmarks run on: real files where they lie beside the checkout, otherwise toys of the same size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dermatome.classes import RgbImage

REALDATA = Path(__file__).resolve().parents[3] / "shared" / "realdata"
CORE_PX = 3000
TOY_PX = 256


def cores(count: int, toy: bool) -> tuple[list[RgbImage], str]:
    """``count`` tissue cores of 3000 × 3000 as (H, W, 3) uint8, and which they are; toy size is that of the toys."""
    from dermatome.slides.plain import decode_rgb

    paths = sorted((REALDATA / "hpa_ihc").glob("*.jpg"))
    if toy or not paths:
        return toy_cores(count, toy)
    read = [decode_rgb(path.read_bytes(), path.name)[0] for path in paths[:count]]
    return [read[number % len(read)] for number in range(count)], "real HPA core"


def toy_cores(count: int, toy: bool) -> tuple[list[RgbImage], str]:
    """``count`` cores of toy skin of 3000 × 3000 (toy size: 256 × 256), of which four differ, and what they are."""
    from dermatome.synthetic.skin import toy_slide

    side = TOY_PX if toy else CORE_PX
    drawn = [np.asarray(toy_slide(seed, size_px=side).slide.pixels) for seed in range(min(count, 4))]
    return [drawn[number % len(drawn)] for number in range(count)], "toy core"


@contextmanager
def gene_pages(toy: bool) -> Iterator[tuple[list[Path], str]]:
    """HPA gene pages as files, and which they are."""
    paths = sorted((REALDATA / "hpa_xml").glob("*.xml"))
    if paths and not toy:
        yield paths, "real HPA pages"
        return
    from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml

    with tempfile.TemporaryDirectory() as folder:
        images = [ToyImage("373", f"1_A_{n}", tissue=f"Tissue {n % 80}") for n in range(20 if toy else 1000)]
        made = []
        for release in ("18", "20", "23"):
            page = Path(folder) / f"{release}.xml"
            page.write_bytes(gene_page_xml("KRT5", "ENSG00000186081", "http://127.0.0.1", images, release=release))
            made.append(page)
        yield made, "toy pages"
