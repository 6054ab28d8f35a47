"""Nuclei of one image: maps, instances, counts by class and TIL, with the network that is there."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import UNCLASSIFIED, NucleusClass, TernaryClass
from dermatome.geometry import Box
from dermatome.imaging.overlay import cell_colours, sample_labels
from dermatome.nuclei.maps.figures import SEMANTIC_COLOURS, TERNARY_COLOURS
from dermatome.nuclei.maps.networks import find_nucleus_weights, load_nuclei, nucleus_weights_named
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.til.settings import TilSettings
from dermatome.web.uploads import Example, UploadLimits, check_work
from dermatome.web.viewer import VIEW_PX, filled_layer, markdown_text, viewer_html

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.nuclei.maps.segment import NucleiResult, NucleusNetwork
    from dermatome.nuclei.til.score import TilScores
    from dermatome.registry.champion import Weights
    from dermatome.settings import Settings
    from dermatome.slides.slide import Slide
    from dermatome.web.page import WebContext

_KINDS = [c for c in NucleusClass if c is not NucleusClass.BACKGROUND]
_PARTS = [c for c in TernaryClass if c is not TernaryClass.BACKGROUND]
_EXAMPLE_SEEDS = (11, 12, 13)


@dataclass(frozen=True)
class NucleiFound:
    """All that was found on one slide.

    Attributes:
        slide: the image.
        nuclei: on it.
        til: of them.
        til_settings: that they were scored by.
        network: that found them, in words.
    """

    slide: Slide
    nuclei: NucleiResult
    til: TilScores
    til_settings: TilSettings
    network: str


def nuclei_source(context: WebContext) -> Weights:
    """The network that the app was started with; else the champion; else that of the settings; else the shipped one.

    Raises:
        BadSetting: the settings file is wrong.
        BadWeights: there is no version or file of the name that was given.
    """
    if context.weights:
        return nucleus_weights_named(context.root, context.weights)
    return find_nucleus_weights(context.root, context.settings.nuclei_weights or "toy")


def name_of(source: Weights) -> str:
    """The network's name and the beginning of its sha256, for people."""
    if source.name == "toy":
        name = "the toy network"
    elif source.file is None:
        name = f"the training version {source.name}"
    else:
        name = f"the weights file {Path(source.name).name}"
    return f"{name} (sha256 {source.sha256[:12]})"


def said_of(source: Weights) -> str:
    """Which network it is, for people."""
    said = f"**Network.** Nuclei are found by {markdown_text(name_of(source))}"
    if source.name != "toy":
        return f"{said}."
    return (
        f"{said}, which has seen synthetic nuclei only: on real images it shows how the page works, not what is on the "
        "slide. For another, promote one with nuclei_champion, or name weights in settings.toml or by --weights."
    )


def load_nuclei_network(source: Weights, settings: NucleusSettings, compute: Compute) -> NucleusNetwork:
    """The network, ready to run.

    Raises:
        BadSetting: the backend is not to be had, or the number of views is none.
        BadWeights: the file is damaged or not the one that was trained.
    """
    from dermatome.nuclei.maps.segment import prepare_nuclei

    return prepare_nuclei(load_nuclei(source, compute), compute, settings)


def nuclei_examples() -> dict[str, Example]:
    """Synthetic H&E fields."""
    return {f"Synthetic nuclei {number}": partial(_toy, seed) for number, seed in enumerate(_EXAMPLE_SEEDS, 1)}


def find_nuclei(
    slide: Slide,
    source: Weights,
    network: NucleusNetwork,
    settings: Settings,
    limits: UploadLimits,
    on_tiles: Callable[[int], None],
) -> NucleiFound:
    """Nuclei and TIL of a slide.

    Args:
        slide: the image.
        source: of the network.
        network: ready to run, with the same settings.
        settings: of the data root.
        limits: of what is computed.
        on_tiles: told how many tiles are done; what it raises stops the work.

    Raises:
        BadImage: the slide has too many pixels at the network's scale.
        BadSetting: it is far too coarse for the network.
    """
    from dermatome.imaging.tissue_area import tissue_mm2
    from dermatome.nuclei.maps.segment import fitted_stain, network_size, segment_nuclei
    from dermatome.nuclei.til.score import score_til

    check_work(slide, network_size(slide, network.weights.card.mpp), limits)
    fit = fitted_stain(slide, network, settings.nuclei)
    normalise = [None if fit is None else fit.normalise]
    found = segment_nuclei([slide], network, settings.nuclei, on_tiles, normalise=normalise)[0]
    til = score_til(found.table, slide.size, slide.mpp, tissue_mm2(slide), settings.til)
    return NucleiFound(slide, found, til, settings.til, name_of(source))


def nuclei_view(found: NucleiFound) -> str:
    """The slide with its classes, its ternary map and its nuclei to lay over it."""
    slide, nuclei, whole = found.slide, found.nuclei, Box.whole(found.slide.size)
    semantic, ternary, instances = (
        sample_labels(labels, whole, VIEW_PX) for labels in (nuclei.semantic, nuclei.ternary, nuclei.instances)
    )
    layers = (
        filled_layer("Classes", semantic, SEMANTIC_COLOURS, [(c.label, c.colour) for c in _KINDS]),
        filled_layer("Inside and boundary", ternary, TERNARY_COLOURS, [(c.label, c.colour) for c in _PARTS]),
        filled_layer("Nuclei", instances, cell_colours(int(instances.max(initial=0)))),
    )
    size = slide.size
    caption = f"{size.width_px:,} × {size.height_px:,} px; {slide.mpp_note}."
    if slide.conversions:
        caption += f" When read: {'; '.join(slide.conversions)}."
    return viewer_html(slide.overview(VIEW_PX), layers, name=slide.name, caption=caption)


def nuclei_summary(found: NucleiFound) -> str:
    """What was found and by which network, in a sentence."""
    til = found.til.lymphocytes_per_mm2
    density = "no tissue" if til is None else f"{til:,.0f} lymphocytes per mm² of tissue"
    return f"{found.slide.name}: {len(found.nuclei.table):,} nuclei; {density}; found by {found.network}."


def counts_html(found: NucleiFound) -> str:
    """Counts by class and TIL scores as a table."""
    til, total = found.til, sum(found.til.counts.values())
    rows = [
        (
            f'<span class="dm-swatch" style="background:rgb{c.colour}"></span> {c.label}',
            f"{til.counts[c.label]:,}",
            f"{til.counts[c.label] / total:.1%}" if total else "–",
        )
        for c in _KINDS
    ]
    if classless := int((found.nuclei.table["class"] == UNCLASSIFIED).sum()):
        rows.append((UNCLASSIFIED, f"{classless:,}", "–"))
    body = "".join(
        f'<tr><th scope="row">{name}</th><td>{count}</td><td>{share}</td></tr>' for name, count, share in rows
    )
    scores = (
        ("Lymphocytes per mm² of tissue", til.lymphocytes_per_mm2, "{:,.0f}"),
        ("Immune share of nuclei", til.immune_share, "{:.1%}"),
        (f"Lymphocytes within {found.til_settings.near_um:g} µm of epithelium", til.near_epithelium_share, "{:.1%}"),
        (f"Squares of {found.til_settings.square_um:g} µm with a lymphocyte", til.infiltrated_share, "{:.1%}"),
        ("Tissue, mm²", til.tissue_mm2, "{:.3f}"),
    )
    more = "".join(
        f'<tr><th scope="row">{name}</th><td colspan="2">{"–" if value is None else form.format(value)}</td></tr>'
        for name, value, form in scores
    )
    return (
        f'<table class="dm-table"><caption>Nuclei by class</caption><thead><tr><th scope="col">class</th>'
        f'<th scope="col">nuclei</th><th scope="col">share</th></tr></thead><tbody>{body}</tbody></table>'
        f'<table class="dm-table"><caption>TIL scores</caption><tbody>{more}</tbody></table>'
    )


def write_nuclei_files(found: NucleiFound, folder: Path) -> list[Path]:
    """Outlines, table and maps into ``folder``, in the formats of the command line and the platform."""
    from dermatome.nuclei.maps.files import write_class_maps, write_instances, write_outlines
    from dermatome.storage.files import write_atomic

    slide, name = found.slide, found.slide.name
    write_class_maps(folder, found.nuclei, slide)
    maps = [path.rename(folder / f"{name}_{path.name}") for path in sorted(folder.iterdir())]
    instances, outlines = folder / f"{name}_instances.ome.tif", folder / f"{name}.geojson"
    write_instances(instances, found.nuclei, slide)
    write_outlines(outlines, found.nuclei, slide)
    buffer = io.BytesIO()
    found.nuclei.table.to_parquet(buffer, index=False)
    return [
        outlines,
        write_atomic(folder / f"{name}.csv", found.nuclei.table.to_csv(index=False).encode()),
        write_atomic(folder / f"{name}.parquet", buffer.getvalue()),
        instances,
        *maps,
    ]


def _toy(seed: int) -> Slide:
    from dermatome.synthetic.nuclei import toy_nuclei

    return toy_nuclei(seed).slide
