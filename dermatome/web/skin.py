"""The page of skin layers: one image → tissue → cells → layers with their stains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import StainingPattern, TissueClass
from dermatome.geometry import Box
from dermatome.imaging.overlay import TISSUE_COLOURS, cell_colours, sample_labels, shrink_labels
from dermatome.registry.champion import Weights
from dermatome.skin.cells.networks import find_cell_weights, load_cells
from dermatome.skin.tissue.networks import STARTER, find_tissue_weights, load_tissue
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.layout import DataRoot
from dermatome.web.context import AnalysisPage, Progress, WebContext, add_csv
from dermatome.web.uploads import Example, UploadLimits, check_work
from dermatome.web.viewer import VIEW_PX, filled_layer, markdown_text, picture_html, slide_html

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.settings import Settings
    from dermatome.skin.cells.network import CellNetwork
    from dermatome.skin.cells.segment import CellsResult
    from dermatome.skin.cells.segmenters import Segmenter
    from dermatome.skin.layers.measure import LayersResult
    from dermatome.skin.tissue.segment import TissueNetwork, TissueResult
    from dermatome.slides.slide import Slide
    from dermatome.storage.record import StageResult

TITLE = "Skin layers"
_TEXT = (
    "# Skin layers\nTissue, the cells of the epidermis, and its layers counted from the dermis, with DAB and "
    "hematoxylin in each, of one image."
)
_LEGEND = [(c.label, c.colour) for c in TissueClass if c is not TissueClass.BACKGROUND]


@dataclass(frozen=True)
class SkinSource:
    """Origin of the two networks.

    Attributes:
        root: Data root.
        tissue: Weights for tissue.
        cells: Weights for cells.
        segmenter: What finds cells.
    """

    root: DataRoot
    tissue: Weights
    cells: Weights
    segmenter: str = "cellpose"

    @property
    def text(self) -> str:
        """Describes the networks, as Markdown."""
        trained_on = ", which was trained on synthetic skin only" if self.cells.name == "toy" else ""
        if self.tissue.name == STARTER:
            trained_on += (
                ". The starter has only learnt from synthetic skin: check its masks. To use another network, train one "
                "on your slides and materialize tissue_champion"
            )
        return f"**Networks.** {markdown_text(self.names)}{trained_on}."

    @property
    def names(self) -> str:
        """Names of the networks and the first digits of their sha256, for people."""
        if self.cells.file is None:
            cells = f"the champion {self.cells.name}"
        elif self.cells.name == "toy":
            cells = "the toy network"
        else:
            cells = Path(self.cells.name).name
        tissue = f"champion {self.tissue.name}" if self.tissue.file is None else self.tissue.name
        return (
            f"Tissue: the {tissue} (sha256 {self.tissue.sha256[:12]}); cells: {cells} (sha256 {self.cells.sha256[:12]})"
        )


@dataclass(frozen=True)
class SkinNetworks:
    """Both networks, prepared for inference."""

    tissue: TissueNetwork
    cells: CellNetwork | Segmenter
    compute: Compute


@dataclass(frozen=True)
class SkinFound:
    """Result for one slide.

    Attributes:
        slide: Image that was analysed.
        tissue: Tissue mask.
        cells: Cells of the epidermis.
        layers: Layers of the epidermis.
        figure: Profiles by layer, as PNG.
        names: Names of the networks, for people.
        networks: Networks that found it.
        settings: Settings that it was computed with.
        warning: Of the networks' cards, and if the slide does not look like skin.
    """

    slide: Slide
    tissue: TissueResult
    cells: CellsResult
    layers: LayersResult
    figure: bytes
    names: str
    networks: SkinNetworks
    settings: Settings
    warning: str = ""


def skin_page(context: WebContext) -> AnalysisPage[SkinFound]:
    """Declares the page."""

    def source() -> SkinSource:
        return skin_source(context.root, context.settings.cell_weights, context.settings.cells.segmenter)

    @lru_cache(maxsize=1)
    def networks(source: SkinSource, settings: TissueSettings) -> SkinNetworks:
        return load_skin_networks(source, settings, context.compute)

    def compute(slide: Slide, progress: Progress) -> SkinFound:
        settings, chosen = context.settings, source()
        progress(0.05, "Loading the networks")
        ready = networks(chosen, settings.tissue)
        return measure_skin(slide, ready, settings, context.limits, progress, names=chosen.names)

    return AnalysisPage(
        _TEXT,
        action="Measure layers",
        api_name="skin",
        mpp=context.settings.images.declared_mpp,
        examples=skin_examples(),
        networks=lambda: source().text,
        compute=compute,
        summary=skin_summary,
        warning=lambda found: found.warning,
        view=skin_view,
        tables=layers_html,
        files=write_skin_files,
    )


def skin_source(root: DataRoot, cell_weights: str, segmenter: str = "cellpose") -> SkinSource:
    """Finds the champions of the data root.

    Args:
        root: Data root.
        cell_weights: Weights for cells that the settings name; they are used while cells have no champion. The app
            downloads nothing: if the files of ``cyto2`` are not in the data root, the toy network is used instead.
        segmenter: What finds cells, of the settings.

    Raises:
        BadWeights: The weights file does not exist.
    """
    from dermatome.skin.cells import cyto2

    present = all((root.models / name).is_file() for name in (cyto2.NETWORK_FILE, cyto2.SIZE_FILE))
    weights = "toy" if cell_weights == "cyto2" and not present and segmenter == "cellpose" else cell_weights
    return SkinSource(root, find_tissue_weights(root), find_cell_weights(root, weights, segmenter), segmenter)


def load_skin_networks(source: SkinSource, settings: TissueSettings, compute: Compute) -> SkinNetworks:
    """Loads both networks and prepares them for inference.

    Raises:
        BadSetting: The backend is not available, or the number of test-time augmentations is invalid.
        BadWeights: The champion's file is not the one that was promoted, or a file is damaged.
    """
    tissue = load_tissue(source.tissue, compute, settings)
    return SkinNetworks(tissue, load_cells(source.cells, compute, source.segmenter), compute)


def skin_examples() -> dict[str, Example]:
    """Synthetic IHC cores by name, one for each staining pattern."""
    return {f"Synthetic skin, {pattern} staining": partial(_example, pattern) for pattern in StainingPattern}


def measure_skin(
    slide: Slide,
    networks: SkinNetworks,
    settings: Settings,
    limits: UploadLimits,
    progress: Progress,
    *,
    names: str = "",
) -> SkinFound:
    """Computes tissue, cells and layers of a slide.

    Args:
        slide: Image.
        networks: Networks, prepared with the same settings.
        settings: Settings of the data root.
        limits: Limits on the size of the image.
        progress: Progress callback; an exception that it raises stops the work.
        names: Names of the networks, for people.

    Raises:
        BadImage: The slide has too many pixels at the network's scale.
        BadSetting: The scale of the slide does not fit the network's.
    """
    from dermatome.skin.cells.segment import segment_cells
    from dermatome.skin.layers.figures import layers_figure
    from dermatome.skin.layers.measure import measure_layers
    from dermatome.skin.tissue.segment import segment_tissue

    check_work(slide, slide.size.scaled(slide.mpp / networks.tissue.weights.card.mpp), limits)
    progress(0.1, "Tissue")
    tissue = segment_tissue(slide, networks.tissue, settings.tissue, lambda text: progress(0.25, text))
    progress(0.4, "Cells")
    cells = segment_cells(slide, tissue.mask, networks.cells, settings.cells, lambda text: progress(0.55, text))
    skin = tissue.skin_check()
    warnings = (tissue.warning or networks.cells.warning, "" if skin.passed else skin.description)
    warning = " ".join(filter(None, warnings))
    layers = measure_layers(
        slide, tissue.mask, cells.instances.whole(), cells.table, settings.layers, lambda: progress(0.8, "Layers")
    )
    return SkinFound(slide, tissue, cells, layers, layers_figure(slide, layers).png, names, networks, settings, warning)


def skin_view(found: SkinFound) -> str:
    """The slide under its tissue, cells and layers, as HTML."""
    from dermatome.skin.layers.figures import layer_colours

    whole, count = Box.whole(found.slide.size), len(found.layers.layers)
    instances = sample_labels(found.cells.instances, whole, VIEW_PX)
    layer_map = sample_labels(found.layers.layer_map, whole, VIEW_PX)
    colours = layer_colours(count)
    named = sorted({1, (count + 1) // 2, count}) if count else []
    legend = [(f"layer {number}{', basal' if number == 1 else ''}", colours[number]) for number in named]
    layers = (
        filled_layer("Tissue", shrink_labels(found.tissue.mask, VIEW_PX), TISSUE_COLOURS, _LEGEND),
        filled_layer("Cells", instances, cell_colours(int(instances.max(initial=0)))),
        filled_layer("Layers", layer_map, colours, legend),
    )
    return slide_html(found.slide, layers)


def skin_summary(found: SkinFound) -> str:
    """What was found by which networks, in a sentence or two."""
    text = f"{found.slide.name}: "
    layers = found.layers
    if found.tissue.epidermis_share == 0:
        text += "tissue without epidermis, so there are no cells or layers to measure."
    else:
        text += f"epidermis is {found.tissue.epidermis_share:.1%} of the slide; {len(found.cells.table):,} cells; "
        if layers.layer_um is None:
            text += f"no layers: {layers.message}."
        elif layers.pattern is None:
            text += f"{layers.message}."
        else:
            score = "" if layers.h_score is None else f", H-score {layers.h_score:.0f} of 300"
            text += f"{len(layers.layers)} layers of {layers.layer_um:.1f} µm; {layers.pattern} staining{score}."
        checks = (layers.background.check(), layers.background.clipped_check())
        text += "".join(f" {check.description}" for check in checks if not check.passed)
    return f"{text} {found.names}." if found.names else text


def layers_html(found: SkinFound) -> str:
    """Profiles by layer as a picture, and the table of layers, as HTML."""
    profiles = picture_html(found.figure, "Profiles by layer")
    layers = found.layers.layers
    if layers.empty:
        return profiles
    table = layers.round(3).to_html(index=False, border=0, classes="dm-table", na_rep="–")
    return (
        f"{profiles}<h3>Layers, 1 = basal</h3>"
        f'<div class="dm-scroll" tabindex="0" role="group" aria-label="Table of layers, scrollable">{table}</div>'
    )


def write_skin_files(found: SkinFound, folder: Path) -> list[Path]:
    """Writes the command line's files, named ``<slide>_tissue``, ``_cells`` and ``_layers``; returns their paths."""
    from dermatome.pipeline.exported import slide_inputs, write_result
    from dermatome.skin.cells.stage import write_cells
    from dermatome.skin.layers.stage import write_layers
    from dermatome.skin.tissue.stage import write_tissue

    slide, tissue, cells, layers = found.slide, found.tissue, found.cells, found.layers
    networks, settings, stem = found.networks, found.settings, found.slide.name
    compute, champion = networks.compute, networks.tissue.weights
    inputs = slide_inputs(slide, weights_sha256=champion.sha256, cell_weights_sha256=networks.cells.sha256)
    masks, instances, rows = tissue.mask, cells.instances, cells.table
    warning = tissue.warning or networks.cells.warning

    def tissue_files(place: Path) -> StageResult:
        name = champion.card.name
        return write_tissue(place, slide, tissue, networks.tissue, compute, {}, name, f"{stem}_tissue")

    def cell_files(place: Path) -> StageResult:
        return write_cells(place, slide, masks, cells, networks.cells, {}, tissue.warning, f"{stem}_cells")

    def layer_files(place: Path) -> StageResult:
        return write_layers(place, slide, instances, rows, layers, {}, warning, f"{stem}_layers")

    parts = (
        ("tissue", "epidermis_masks", settings.tissue, tissue_files),
        ("cells", "cell_masks", settings.cells, cell_files),
        ("layers", "epidermis_layers", settings.layers, layer_files),
    )
    for part, asset, chosen, write in parts:
        write_result(folder, f"{stem}_{part}", asset, stem, inputs, chosen.deciding(), write)
    return add_csv(folder)


def _example(pattern: StainingPattern) -> Slide:
    from dermatome.synthetic.skin import toy_slide

    return toy_slide(40 + list(StainingPattern).index(pattern), pattern, size_px=768, name=f"toy-{pattern}").slide
