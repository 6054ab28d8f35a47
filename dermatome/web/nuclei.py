"""The page of nuclei: one H&E image → classes, ternary map, instances, counts and TIL scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import UNCLASSIFIED, NucleusClass, TernaryClass
from dermatome.geometry import Box
from dermatome.imaging.overlay import cell_colours, sample_labels
from dermatome.nuclei.maps.figures import SEMANTIC_COLOURS, TERNARY_COLOURS
from dermatome.nuclei.maps.networks import find_nucleus_weights, load_nuclei, nucleus_weights_named
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.web.context import AnalysisPage, Progress, WebContext, add_csv
from dermatome.web.uploads import Example, UploadLimits, check_work
from dermatome.web.viewer import VIEW_PX, filled_layer, markdown_text, slide_html

if TYPE_CHECKING:
    from dermatome.imaging.stain_normalisation import StainFit
    from dermatome.inference.compute import Compute
    from dermatome.nuclei.maps.segment import NucleiResult, NucleusNetwork
    from dermatome.nuclei.til.score import TilScores
    from dermatome.registry.champion import Weights
    from dermatome.settings import Settings
    from dermatome.slides.slide import Slide
    from dermatome.storage.record import StageResult

TITLE = "Nuclei"
_TEXT = (
    "# Nuclei\nNuclei of an H&E image with their classes, and how many lymphocytes are among them. For research, "
    "not for diagnosis."
)
_CLASSES = [c for c in NucleusClass if c is not NucleusClass.BACKGROUND]
_PARTS = [c for c in TernaryClass if c is not TernaryClass.BACKGROUND]
_EXAMPLE_SEEDS = (11, 12, 13)


@dataclass(frozen=True)
class NucleiFound:
    """Result for one slide.

    Attributes:
        slide: Image that was analysed.
        nuclei: Maps and table of the nuclei.
        til: TIL scores.
        settings: Settings that it was computed with.
        network: Name of the network, for people.
        weights: Name of the weights, for records.
        ready: Network that found the nuclei.
        compute: Device and precision that it ran with.
        fit: Stains of the slide, if they were normalised.
    """

    slide: Slide
    nuclei: NucleiResult
    til: TilScores
    settings: Settings
    network: str
    weights: str
    ready: NucleusNetwork
    compute: Compute
    fit: StainFit | None


def nuclei_page(context: WebContext) -> AnalysisPage[NucleiFound]:
    """Declares the page."""

    @lru_cache(maxsize=1)
    def network(source: Weights, settings: NucleusSettings) -> NucleusNetwork:
        return load_nuclei(source, context.compute, settings)

    def compute(slide: Slide, progress: Progress) -> NucleiFound:
        settings, source = context.settings, nuclei_source(context)
        progress(0.05, "Loading the network")
        ready = network(source, settings.nuclei)

        # Only the predictor knows the number of tiles: the bar approaches its end and never passes it.
        def on_tiles(done: int) -> None:
            progress(0.1 + 0.75 * done / (done + 8), f"{done} tiles done")

        return find_nuclei(slide, source, ready, settings, context.limits, on_tiles, context.compute)

    return AnalysisPage(
        _TEXT,
        action="Find nuclei",
        api_name="nuclei",
        mpp=context.settings.nuclei_images.declared_mpp,
        examples=nuclei_examples(),
        networks=lambda: network_text(nuclei_source(context)),
        compute=compute,
        summary=nuclei_summary,
        warning=lambda found: found.nuclei.warning,
        view=nuclei_view,
        tables=counts_html,
        files=write_nuclei_files,
    )


def nuclei_source(context: WebContext) -> Weights:
    """Chooses the network: that of ``--weights``, else the champion, else that of the settings, else the toy network.

    Raises:
        BadSetting: The settings file is wrong.
        BadWeights: There is no version or file with the name that was given.
    """
    if context.weights:
        return nucleus_weights_named(context.root, context.weights)
    return find_nucleus_weights(context.root, context.settings.nuclei_weights or "toy")


def network_name(source: Weights) -> str:
    """Name of the network and the first digits of its sha256, for people."""
    if source.name == "toy":
        name = "the toy network"
    elif source.file is None:
        name = f"the training version {source.name}"
    else:
        name = f"the weights file {Path(source.name).name}"
    return f"{name} (sha256 {source.sha256[:12]})"


def network_text(source: Weights) -> str:
    """Describes the network, as Markdown."""
    text = f"**Network.** Nuclei are found by {markdown_text(network_name(source))}"
    if source.name != "toy":
        return f"{text}."
    return (
        f"{text}, which was trained on synthetic nuclei only: on real images it shows how the page works, not what is "
        "on the slide. To use another network, promote one with nuclei_champion, or name weights in settings.toml or "
        "with --weights."
    )


def nuclei_examples() -> dict[str, Example]:
    """Synthetic H&E images by name."""
    return {f"Synthetic nuclei {number}": partial(_example, seed) for number, seed in enumerate(_EXAMPLE_SEEDS, 1)}


def find_nuclei(
    slide: Slide,
    source: Weights,
    network: NucleusNetwork,
    settings: Settings,
    limits: UploadLimits,
    on_tiles: Callable[[int], None],
    compute: Compute,
) -> NucleiFound:
    """Finds the nuclei of a slide and computes its TIL scores.

    Args:
        slide: Image.
        source: Origin of the network.
        network: Network, prepared with the same settings.
        settings: Settings of the data root.
        limits: Limits on the size of the image.
        on_tiles: Callback with the number of tiles done; an exception that it raises stops the work.
        compute: Device and precision of the network, for the record.

    Raises:
        BadImage: The slide has too many pixels at the network's scale.
        BadSetting: The slide is too coarse for the network.
    """
    from dermatome.imaging.tissue_area import tissue_mm2
    from dermatome.nuclei.maps.segment import fitted_stain, network_size, segment_nuclei
    from dermatome.nuclei.til.score import score_til

    check_work(slide, network_size(slide, network.weights.card.mpp), limits)
    fit = fitted_stain(slide, network, settings.nuclei)
    normalise = [None if fit is None else fit.normalise]
    found = segment_nuclei([slide], network, settings.nuclei, on_tiles, normalise=normalise)[0]
    til = score_til(found.table, slide.size, slide.mpp, tissue_mm2(slide), settings.til)
    return NucleiFound(slide, found, til, settings, network_name(source), source.name, network, compute, fit)


def nuclei_view(found: NucleiFound) -> str:
    """The slide under its classes, its ternary map and its nuclei, as HTML."""
    nuclei, whole = found.nuclei, Box.whole(found.slide.size)
    semantic, ternary, instances = (
        sample_labels(labels, whole, VIEW_PX) for labels in (nuclei.semantic, nuclei.ternary, nuclei.instances)
    )
    layers = (
        filled_layer("Classes", semantic, SEMANTIC_COLOURS, [(c.label, c.colour) for c in _CLASSES]),
        filled_layer("Inside and boundary", ternary, TERNARY_COLOURS, [(c.label, c.colour) for c in _PARTS]),
        filled_layer("Nuclei", instances, cell_colours(int(instances.max(initial=0)))),
    )
    return slide_html(found.slide, layers)


def nuclei_summary(found: NucleiFound) -> str:
    """What was found by which network, in one sentence."""
    til = found.til.lymphocytes_per_mm2
    density = "no tissue" if til is None else f"{til:,.0f} lymphocytes per mm² of tissue"
    return f"{found.slide.name}: {len(found.nuclei.table):,} nuclei; {density}; found by {found.network}."


def counts_html(found: NucleiFound) -> str:
    """Counts by class and TIL scores, as HTML tables."""
    til, total = found.til, sum(found.til.counts.values())
    rows = [
        (
            f'<span class="dm-swatch" style="background:rgb{c.colour}"></span> {c.label}',
            f"{til.counts[c.label]:,}",
            f"{til.counts[c.label] / total:.1%}" if total else "–",
        )
        for c in _CLASSES
    ]
    if unclassified := int((found.nuclei.table["class"] == UNCLASSIFIED).sum()):
        rows.append((UNCLASSIFIED, f"{unclassified:,}", "–"))
    body = "".join(
        f'<tr><th scope="row">{name}</th><td>{count}</td><td>{share}</td></tr>' for name, count, share in rows
    )
    scores = (
        ("Lymphocytes per mm² of tissue", til.lymphocytes_per_mm2, "{:,.0f}"),
        ("Immune share of nuclei", til.immune_share, "{:.1%}"),
        (f"Lymphocytes within {found.settings.til.near_um:g} µm of epithelium", til.near_epithelium_share, "{:.1%}"),
        (f"Squares of {found.settings.til.square_um:g} µm with a lymphocyte", til.infiltrated_share, "{:.1%}"),
        ("Tissue, mm²", til.tissue_mm2, "{:.3f}"),
    )
    more = "".join(
        f'<tr><th scope="row">{name}</th><td>{"–" if value is None else form.format(value)}</td></tr>'
        for name, value, form in scores
    )
    return (
        f'<div class="dm-tables"><table class="dm-table"><caption>Nuclei by class</caption><thead><tr>'
        f'<th scope="col">class</th><th scope="col">nuclei</th><th scope="col">share</th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
        f'<table class="dm-table"><caption>TIL scores</caption><tbody>{more}</tbody></table></div>'
    )


def write_nuclei_files(found: NucleiFound, folder: Path) -> list[Path]:
    """Writes the files of the command line, and those of TIL named ``<slide>_til``; returns their paths."""
    from dermatome.nuclei.maps.stage import write_nuclei
    from dermatome.nuclei.til.stage import write_til
    from dermatome.pipeline.exported import slide_inputs, write_result

    slide, ready, settings, stem = found.slide, found.ready, found.settings, found.slide.name
    inputs = slide_inputs(slide, weights_sha256=ready.weights.sha256)

    def nuclei_files(place: Path) -> StageResult:
        one, opacity = (slide, found.nuclei, found.fit), settings.nuclei_opacity
        return write_nuclei(place, *one, ready, found.compute, {}, found.weights, opacity, stem)

    record = write_result(folder, stem, "nucleus_maps", stem, inputs, settings.nuclei.deciding(), nuclei_files)

    def til_files(place: Path) -> StageResult:
        return write_til(place, stem, found.nuclei.table, record.values, settings.til, f"{stem}_til")

    write_result(folder, f"{stem}_til", "til_scores", stem, inputs, settings.til.deciding(), til_files)
    return add_csv(folder)


def _example(seed: int) -> Slide:
    from dermatome.synthetic.nuclei import toy_nuclei

    return toy_nuclei(seed).slide
