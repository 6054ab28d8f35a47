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
from dermatome.reports.html import data_uri
from dermatome.skin.cells.networks import find_cell_weights, load_cells
from dermatome.skin.tissue.networks import STARTER, find_tissue_weights, load_tissue
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.layout import DataRoot
from dermatome.web.context import AnalysisPage, Progress, WebContext
from dermatome.web.uploads import UploadLimits, check_work
from dermatome.web.viewer import VIEW_PX, filled_layer, markdown_text, slide_html, web_template

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.inference.segmenter import Segmenter
    from dermatome.settings import Settings
    from dermatome.skin.cells.network import CellNetwork
    from dermatome.skin.cells.segment import CellsResult
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
    """Weights for tissue and for cells, and the method that finds cells."""

    tissue: Weights
    cells: Weights
    segmenter: str = "cellpose"

    @property
    def text(self) -> str:
        """Describes the networks, as Markdown."""
        trained_on = ", which was trained on synthetic skin only" if self.cells.name == "toy" else ""
        if self.tissue.name == STARTER:
            trained_on += (
                ". The starter was trained on synthetic skin only: check its masks. To use another network, train one "
                "on your slides and materialize tissue_champion"
            )
        return f"**Networks.** {markdown_text(self.names)}{trained_on}."

    @property
    def names(self) -> str:
        """Names of the networks and the first digits of their sha256, for people."""
        if self.cells.file is None:
            cells = f"the champion {self.cells.name}"
        else:
            cells = "the toy network" if self.cells.name == "toy" else Path(self.cells.name).name
        tissue = f"champion {self.tissue.name}" if self.tissue.file is None else self.tissue.name
        return (
            f"Tissue: the {tissue} (sha256 {self.tissue.sha256[:12]}); cells: {cells} (sha256 {self.cells.sha256[:12]})"
        )

    def load(self, settings: TissueSettings, compute: Compute) -> SkinNetworks:
        """Loads both networks and prepares them for inference.

        Raises:
            BadSetting: The backend is not available, or the number of test-time augmentations is invalid.
            BadWeights: The champion's file is not the one that was promoted, or a file is damaged.
        """
        tissue = load_tissue(self.tissue, compute, settings)
        return SkinNetworks(tissue, load_cells(self.cells, compute, self.segmenter), compute, self.names)


@dataclass(frozen=True)
class SkinNetworks:
    """Both networks, prepared for inference, and their names for people."""

    tissue: TissueNetwork
    cells: CellNetwork | Segmenter
    compute: Compute
    names: str = ""


@dataclass(frozen=True, eq=False)
class SkinFound:
    """Tissue, cells and layers of one image, with the networks and settings that found them."""

    slide: Slide
    tissue: TissueResult
    cells: CellsResult
    layers: LayersResult
    networks: SkinNetworks
    settings: Settings

    @property
    def warning(self) -> str:
        """Warnings from the networks' cards, and one if the slide does not look like skin."""
        skin = self.tissue.skin_check()
        texts = (self.tissue.warning or self.networks.cells.warning, "" if skin.passed else skin.description)
        return " ".join(filter(None, texts))

    @property
    def summary(self) -> str:
        """One or two sentences on the results and the networks."""
        text, layers = f"{self.slide.name}: ", self.layers
        if self.tissue.epidermis_share == 0:
            text += "tissue without epidermis, so there are no cells or layers to measure."
        else:
            text += f"epidermis is {self.tissue.epidermis_share:.1%} of the slide; {len(self.cells.table):,} cells; "
            if layers.layer_um is None:
                text += f"no layers: {layers.message}."
            elif layers.pattern is None:
                text += f"{layers.message}."
            else:
                score = "" if layers.h_score is None else f", H-score {layers.h_score:.0f} of 300"
                text += f"{len(layers.layers)} layers of {layers.layer_um:.1f} µm; {layers.pattern} staining{score}."
            checks = (layers.background.check(), layers.background.clipped_check())
            text += "".join(f" {check.description}" for check in checks if not check.passed)
        return f"{text} {self.networks.names}." if self.networks.names else text

    def view(self) -> str:
        """The slide with layers for its tissue, cells and epidermal layers, as HTML."""
        from dermatome.skin.layers.figures import layer_colours

        whole, count = Box.whole(self.slide.size), len(self.layers.layers)
        instances = sample_labels(self.cells.instances, whole, VIEW_PX)
        layer_map = sample_labels(self.layers.layer_map, whole, VIEW_PX)
        colours = layer_colours(count)
        named = sorted({1, (count + 1) // 2, count}) if count else []
        legend = [(f"layer {number}{', basal' if number == 1 else ''}", colours[number]) for number in named]
        layers = (
            filled_layer("Tissue", shrink_labels(self.tissue.mask, VIEW_PX), TISSUE_COLOURS, _LEGEND),
            filled_layer("Cells", instances, cell_colours(int(instances.max(initial=0)))),
            filled_layer("Layers", layer_map, colours, legend),
        )
        return slide_html(self.slide, layers)

    def tables(self, folder: Path) -> str:
        """Profiles by layer as a picture, and the table of layers, as HTML."""
        figure = data_uri("image/png", (folder / f"{self.slide.name}_layers.png").read_bytes())
        rows = self.layers.layers.round(3)
        table = "" if rows.empty else rows.to_html(index=False, border=0, classes="dm-table", na_rep="–")
        return web_template("layers", figure=figure, table=table)

    def write(self, folder: Path) -> None:
        """Writes the files of the command line, named ``<slide>_tissue``, ``_cells`` and ``_layers``."""
        from dermatome.pipeline.exported import slide_inputs, write_result
        from dermatome.skin.cells.stage import write_cells
        from dermatome.skin.layers.stage import write_layers
        from dermatome.skin.tissue.stage import write_tissue

        slide, tissue, cells, stem = self.slide, self.tissue, self.cells, self.slide.name
        networks, settings, champion = self.networks, self.settings, self.networks.tissue.weights
        inputs = slide_inputs(slide, weights_sha256=champion.sha256, cell_weights_sha256=networks.cells.sha256)
        warning = tissue.warning or networks.cells.warning

        def tissue_files(place: Path) -> StageResult:
            ran = (networks.tissue, networks.compute)
            return write_tissue(place, slide, tissue, *ran, {}, champion.card.name, f"{stem}_tissue")

        def cell_files(place: Path) -> StageResult:
            return write_cells(
                place, slide, tissue.mask, cells, networks.cells, {}, tissue.warning, f"{stem}_cells"
            )  # fmt: skip

        def layer_files(place: Path) -> StageResult:
            measured = (cells.instances, cells.table, self.layers)
            return write_layers(place, slide, *measured, {}, warning, f"{stem}_layers")

        for part, asset, chosen, write in (
            ("tissue", "epidermis_masks", settings.tissue, tissue_files),
            ("cells", "cell_masks", settings.cells, cell_files),
            ("layers", "epidermis_layers", settings.layers, layer_files),
        ):
            write_result(folder, f"{stem}_{part}", asset, stem, inputs, chosen.deciding(), write)


def skin_page(context: WebContext) -> AnalysisPage:
    """Declares the page."""

    @lru_cache(maxsize=1)
    def networks(source: SkinSource, settings: TissueSettings) -> SkinNetworks:
        return source.load(settings, context.compute)

    def compute(slide: Slide, progress: Progress) -> SkinFound:
        settings = context.settings
        progress(0.05, "Loading the networks")
        ready = networks(skin_source(context.root, settings), settings.tissue)
        return measure_skin(slide, ready, settings, context.limits, progress)

    return AnalysisPage(
        _TEXT,
        action="Measure layers",
        api_name="skin",
        mpp=context.settings.images.declared_mpp,
        examples={f"Synthetic skin, {pattern} staining": partial(_example, pattern) for pattern in StainingPattern},
        networks=lambda: skin_source(context.root, context.settings).text,
        compute=compute,
    )


def skin_source(root: DataRoot, settings: Settings) -> SkinSource:
    """Finds the champions of the data root; without a champion for cells, the weights that the settings name.

    The app downloads nothing: if the files of ``cyto2`` are not in the data root, the toy network is used instead.

    Raises:
        BadWeights: The weights file does not exist.
    """
    from dermatome.skin.cells import cyto2

    named, segmenter = settings.cell_weights, settings.cells.segmenter
    present = all((root.models / name).is_file() for name in (cyto2.NETWORK_FILE, cyto2.SIZE_FILE))
    if named == "cyto2" and segmenter == "cellpose" and not present:
        named = "toy"
    return SkinSource(find_tissue_weights(root), find_cell_weights(root, named, segmenter), segmenter)


def measure_skin(
    slide: Slide, networks: SkinNetworks, settings: Settings, limits: UploadLimits, progress: Progress
) -> SkinFound:
    """Computes tissue, cells and layers of a slide.

    Raises:
        BadImage: The slide has too many pixels at the network's scale.
        BadSetting: The scale of the slide does not fit the network's.
    """
    from dermatome.skin.cells.segment import segment_cells
    from dermatome.skin.layers.measure import measure_layers
    from dermatome.skin.tissue.segment import segment_tissue

    check_work(slide, slide.size.scaled(slide.mpp / networks.tissue.weights.card.mpp), limits)
    progress(0.1, "Tissue")
    tissue = segment_tissue(slide, networks.tissue, settings.tissue, lambda text: progress(0.25, text))
    progress(0.4, "Cells")
    cells = segment_cells(slide, tissue.mask, networks.cells, settings.cells, lambda text: progress(0.55, text))
    layers = measure_layers(
        slide, tissue.mask, cells.instances.whole(), cells.table, settings.layers, lambda: progress(0.8, "Layers")
    )
    return SkinFound(slide, tissue, cells, layers, networks, settings)


def _example(pattern: StainingPattern) -> Slide:
    from dermatome.synthetic.skin import toy_slide

    return toy_slide(40 + list(StainingPattern).index(pattern), pattern, size_px=768, name=f"toy-{pattern}").slide
