"""The page of nuclei: one H&E image → classes, ternary map, instances, counts and TIL scores."""

from __future__ import annotations

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
from dermatome.web.context import AnalysisPage, Progress, WebContext
from dermatome.web.uploads import check_work
from dermatome.web.viewer import VIEW_PX, filled_layer, markdown_text, slide_html, web_template

if TYPE_CHECKING:
    from dermatome.imaging.stain_normalisation import StainFit
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
_EXAMPLES = {f"Synthetic nuclei {number}": 10 + number for number in (1, 2, 3)}
"""Seeds of synthetic images, by name."""


@dataclass(frozen=True, eq=False)
class NucleiFound:
    """Nuclei and TIL scores of one image, the network that found them, and the stains if they were normalised."""

    slide: Slide
    context: WebContext
    settings: Settings
    source: Weights
    network: NucleusNetwork
    nuclei: NucleiResult
    til: TilScores
    fit: StainFit | None

    @property
    def summary(self) -> str:
        """One sentence on the results and the network."""
        til = self.til.lymphocytes_per_mm2
        density = "no tissue" if til is None else f"{til:,.0f} lymphocytes per mm² of tissue"
        found_by = network_name(self.source)
        return f"{self.slide.name}: {len(self.nuclei.table):,} nuclei; {density}; found by {found_by}."

    @property
    def warning(self) -> str:
        """Warning from the network's card."""
        return self.nuclei.warning

    def view(self) -> str:
        """The slide with layers for its classes, its ternary map and its nuclei, as HTML."""
        nuclei, whole = self.nuclei, Box.whole(self.slide.size)
        semantic, ternary, instances = (
            sample_labels(labels, whole, VIEW_PX) for labels in (nuclei.semantic, nuclei.ternary, nuclei.instances)
        )
        layers = (
            filled_layer("Classes", semantic, SEMANTIC_COLOURS, [(c.label, c.colour) for c in _CLASSES]),
            filled_layer("Inside and boundary", ternary, TERNARY_COLOURS, [(c.label, c.colour) for c in _PARTS]),
            filled_layer("Nuclei", instances, cell_colours(int(instances.max(initial=0)))),
        )
        return slide_html(self.slide, layers)

    def tables(self, folder: Path | None = None) -> str:
        """Counts by class and TIL scores, as HTML tables."""
        til, near_um, square_um = self.til, self.settings.til.near_um, self.settings.til.square_um
        total = sum(til.counts.values())
        scores = (
            ("Lymphocytes per mm² of tissue", til.lymphocytes_per_mm2, "{:,.0f}"),
            ("Immune share of nuclei", til.immune_share, "{:.1%}"),
            (f"Lymphocytes within {near_um:g} µm of epithelium", til.near_epithelium_share, "{:.1%}"),
            (f"Squares of {square_um:g} µm with a lymphocyte", til.infiltrated_share, "{:.1%}"),
            ("Tissue, mm²", til.tissue_mm2, "{:.3f}"),
        )
        return web_template(
            "nuclei",
            rows=[(c, til.counts[c.label], til.counts[c.label] / total if total else None) for c in _CLASSES],
            unclassified=int((self.nuclei.table["class"] == UNCLASSIFIED).sum()),
            scores=[(name, "–" if value is None else form.format(value)) for name, value, form in scores],
        )

    def write(self, folder: Path) -> None:
        """Writes the files of the command line; those of TIL scores are named ``<slide>_til``."""
        from dermatome.nuclei.maps.stage import write_nuclei
        from dermatome.nuclei.til.stage import write_til
        from dermatome.pipeline.exported import slide_inputs, write_result

        slide, settings, stem = self.slide, self.settings, self.slide.name
        inputs = slide_inputs(slide, weights_sha256=self.network.weights.sha256)

        def nuclei_files(place: Path) -> StageResult:
            ran, shown = (self.network, self.context.compute), (self.source.name, settings.nuclei_opacity)
            return write_nuclei(place, slide, self.nuclei, self.fit, *ran, {}, *shown, stem)

        record = write_result(folder, stem, "nucleus_maps", stem, inputs, settings.nuclei.deciding(), nuclei_files)

        def til_files(place: Path) -> StageResult:
            return write_til(place, stem, self.nuclei.table, record.values, settings.til, f"{stem}_til")

        write_result(folder, f"{stem}_til", "til_scores", stem, inputs, settings.til.deciding(), til_files)


def nuclei_page(context: WebContext) -> AnalysisPage:
    """Declares the page."""

    @lru_cache(maxsize=1)
    def network(source: Weights, settings: NucleusSettings) -> NucleusNetwork:
        return load_nuclei(source, context.compute, settings)

    def compute(slide: Slide, progress: Progress) -> NucleiFound:
        settings, source = context.settings, nuclei_source(context)
        progress(0.05, "Loading the network")
        return find_nuclei(slide, context, settings, source, network(source, settings.nuclei), progress)

    return AnalysisPage(
        _TEXT,
        action="Find nuclei",
        api_name="nuclei",
        mpp=context.settings.nuclei_images.declared_mpp,
        examples={name: partial(_example, seed) for name, seed in _EXAMPLES.items()},
        networks=lambda: network_text(nuclei_source(context)),
        compute=compute,
    )


def nuclei_source(context: WebContext) -> Weights:
    """Chooses the network: that of ``--weights``, else the champion, else that of the settings, else the toy network.

    Raises:
        BadSetting: The settings file is wrong.
        BadWeights: There is no version or file of the given name.
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


def find_nuclei(
    slide: Slide, context: WebContext, settings: Settings, source: Weights, network: NucleusNetwork, progress: Progress
) -> NucleiFound:
    """Finds the nuclei of a slide with a network from ``source`` and computes its TIL scores.

    Raises:
        BadImage: The slide has too many pixels at the network's scale.
        BadSetting: The slide is too coarse for the network.
    """
    from dermatome.imaging.tissue_area import tissue_mm2
    from dermatome.nuclei.maps.segment import fitted_stain, network_size, segment_nuclei
    from dermatome.nuclei.til.score import score_til

    # Only the predictor knows the number of tiles, so the bar approaches its end without reaching it.
    def on_tiles(done: int) -> None:
        progress(0.1 + 0.75 * done / (done + 8), f"{done} tiles done")

    check_work(slide, network_size(slide, network.weights.card.mpp), context.limits)
    fit = fitted_stain(slide, network, settings.nuclei)
    normalise = [None if fit is None else fit.normalise]
    (found,) = segment_nuclei([slide], network, settings.nuclei, on_tiles, normalise=normalise)
    til = score_til(found.table, slide.size, slide.mpp, tissue_mm2(slide), settings.til)
    return NucleiFound(slide, context, settings, source, network, found, til, fit)


def _example(seed: int) -> Slide:
    from dermatome.synthetic.nuclei import toy_nuclei

    return toy_nuclei(seed).slide
