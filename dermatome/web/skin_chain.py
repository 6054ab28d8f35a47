"""The skin chain of one image: tissue → cells → layers, as the data root's settings say, and what is shown of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import StainingPattern, TissueClass
from dermatome.errors import MissingInput
from dermatome.geometry import Box, Size
from dermatome.imaging.overlay import TISSUE_COLOURS, cell_colours, sample_labels, shrink_labels
from dermatome.registry.champion import Weights, find_champion
from dermatome.registry.model_kinds import TISSUE
from dermatome.skin.cells.networks import find_cell_weights, load_cells
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.layout import DataRoot
from dermatome.web.uploads import Example, UploadLimits, check_work
from dermatome.web.viewer import VIEW_PX, filled_layer, markdown_text, viewer_html

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.settings import Settings
    from dermatome.skin.cells.network import CellNetwork
    from dermatome.skin.cells.segment import CellsResult
    from dermatome.skin.layers.measure import LayersResult
    from dermatome.skin.tissue.segment import TissueNetwork, TissueResult
    from dermatome.slides.slide import Slide

Say = Callable[[float, str], None]
"""Told what share of the work is done, and what is going on."""

_NO_CHAMPION = (
    "This data root has no champion, the network for tissue: run make demo, which trains one on synthetic skin, or "
    "train one on your slides and materialize tissue_champion."
)
_LEGEND = [(c.label, c.colour) for c in TissueClass if c is not TissueClass.BACKGROUND]


@dataclass(frozen=True)
class SkinSource:
    """Which networks are there.

    Attributes:
        root: the data root.
        champion: for tissue; None where there is none.
        cells: for cells.
    """

    root: DataRoot
    champion: Weights | None
    cells: Weights

    @property
    def said(self) -> str:
        """Which networks they are, for people."""
        if self.champion is None:
            return f"**Networks.** {_NO_CHAMPION}"
        seen = ", which has seen synthetic skin only" if self.cells.name == "toy" else ""
        return f"**Networks.** {markdown_text(self.named)}{seen}."

    @property
    def named(self) -> str:
        """Their names and the beginnings of their sha256, for people."""
        if self.champion is None:
            return ""
        if self.cells.file is None:
            cells = f"the champion {self.cells.name}"
        elif self.cells.name == "toy":
            cells = "the toy network"
        else:
            cells = Path(self.cells.name).name
        return (
            f"Tissue: the champion {self.champion.name} (sha256 {self.champion.sha256[:12]}); "
            f"cells: {cells} (sha256 {self.cells.sha256[:12]})"
        )


@dataclass(frozen=True)
class SkinNetworks:
    """The two networks, ready to run."""

    tissue: TissueNetwork
    cells: CellNetwork


@dataclass(frozen=True)
class SkinFound:
    """All that was found on one slide."""

    slide: Slide
    tissue: TissueResult
    cells: CellsResult
    layers: LayersResult


def skin_source(root: DataRoot, cell_weights: str) -> SkinSource:
    """The champions of the data root, if any.

    Args:
        root: the data root.
        cell_weights: what the settings name for cells, which counts while they have no champion. The app fetches
            nothing: where ``cyto2`` is not in the data root, the toys' network takes its place.

    Raises:
        BadWeights: there is no such file.
    """
    from dermatome.skin.cells import cyto2

    there = all((root.models / name).is_file() for name in (cyto2.NETWORK_FILE, cyto2.SIZE_FILE))
    named = "toy" if cell_weights == "cyto2" and not there else cell_weights
    try:
        champion = find_champion(root, TISSUE)
    except MissingInput:
        champion = None
    return SkinSource(root, champion, find_cell_weights(root, named))


def load_skin_networks(source: SkinSource, settings: TissueSettings, compute: Compute) -> SkinNetworks:
    """Both networks, ready to run.

    Raises:
        BadSetting: the backend is not to be had, or the number of views is none.
        MissingInput: there is no champion.
        BadWeights: the champion's file is not the one that was promoted, or a file is damaged.
    """
    from dermatome.skin.tissue.network import load_tissue_weights
    from dermatome.skin.tissue.segment import prepare_tissue

    if source.champion is None:
        raise MissingInput(_NO_CHAMPION)
    weights = source.champion.load(load_tissue_weights)
    weights.network.to(compute.torch_device)
    return SkinNetworks(prepare_tissue(weights, compute, settings), load_cells(source.cells, compute))


def skin_examples() -> dict[str, Example]:
    """Synthetic IHC cores, one for each staining pattern."""
    return {f"Synthetic skin, {pattern} staining": partial(_toy, pattern) for pattern in StainingPattern}


def run_skin_chain(
    slide: Slide, networks: SkinNetworks, settings: Settings, limits: UploadLimits, say: Say
) -> SkinFound:
    """Tissue, cells and layers of a slide.

    Args:
        slide: the image.
        networks: ready to run, with the same settings.
        settings: of the data root.
        limits: of what is computed.
        say: what it raises stops the work.

    Raises:
        BadImage: the slide has too many pixels at the network's scale.
        BadSetting: the slide's scale does not fit the network's.
    """
    from dermatome.skin.cells.segment import segment_cells
    from dermatome.skin.layers.measure import measure_layers
    from dermatome.skin.tissue.segment import segment_tissue

    check_work(slide, slide.size.scaled(slide.mpp / networks.tissue.weights.card.mpp), limits)
    say(0.1, "Tissue")
    tissue = segment_tissue(slide, networks.tissue, settings.tissue, lambda text: say(0.25, text))
    say(0.4, "Cells")
    cells = segment_cells(slide, tissue.mask, networks.cells, settings.cells, lambda text: say(0.55, text))
    layers = measure_layers(
        slide, tissue.mask, cells.instances.whole(), cells.table, settings.layers, lambda: say(0.8, "Layers")
    )
    return SkinFound(slide, tissue, cells, layers)


def skin_view(found: SkinFound) -> str:
    """The slide with tissue, cells and layers to lay over it."""
    from dermatome.skin.layers.figures import layer_colours

    slide, count = found.slide, len(found.layers.layers)
    image = slide.overview(VIEW_PX)
    shown = Size(*image.shape[:2])
    whole = Box.whole(slide.size)
    instances = sample_labels(found.cells.instances, whole, VIEW_PX)
    colours = layer_colours(count)
    some = sorted({1, (count + 1) // 2, count}) if count else []
    layers = (
        filled_layer("Tissue", shrink_labels(found.tissue.mask, VIEW_PX), TISSUE_COLOURS, _LEGEND),
        filled_layer("Cells", instances, cell_colours(int(instances.max(initial=0)))),
        filled_layer(
            "Layers",
            sample_labels(found.layers.layer_map, whole, VIEW_PX),
            colours,
            [(f"layer {number}{', basal' if number == 1 else ''}", colours[number]) for number in some],
        ),
    )
    size = slide.size
    caption = f"{size.width_px:,} × {size.height_px:,} px, shown at {shown.width_px:,} px; {slide.mpp_note}."
    if slide.conversions:
        caption += f" When read: {'; '.join(slide.conversions)}."
    return viewer_html(image, layers, name=slide.name, caption=caption)


def skin_summary(found: SkinFound) -> str:
    """What was found, in a sentence or two."""
    if found.tissue.epidermis_share == 0:
        return f"{found.slide.name}: tissue without epidermis, so there are no cells or layers to measure."
    cells, layers = found.cells, found.layers
    share = f"epidermis is {found.tissue.epidermis_share:.1%} of the slide"
    first = f"{found.slide.name}: {share}; {len(cells.table):,} cells"
    if layers.layer_um is None or layers.pattern is None:
        return f"{first}; no layers: {layers.message}."
    score = "" if layers.h_score is None else f", H-score {layers.h_score:.0f} of 300"
    return f"{first}; {len(layers.layers)} layers of {layers.layer_um:.1f} µm; {layers.pattern} staining{score}."


def write_skin_files(found: SkinFound, folder: Path) -> list[Path]:
    """Masks, outlines and tables into ``folder``, in the formats of the command line and the platform."""
    from dermatome.labels.geojson import object_features, summarise_mask, tissue_features, write_geojson
    from dermatome.labels.npz import save_mask
    from dermatome.labels.ome_tiff import write_ome_tiff
    from dermatome.labels.tiled import TiledArray
    from dermatome.skin.layers.figures import layers_figure
    from dermatome.storage.files import write_atomic

    slide, name = found.slide, found.slide.name
    tissue = tissue_features(summarise_mask(TiledArray.of(found.tissue.mask)), mpp=slide.mpp, slide=name)
    cells = object_features(found.cells.instances, found.cells.table, slide=name)
    return [
        save_mask(folder / f"{name}_tissue.npz", found.tissue.mask, found.tissue.crop),
        write_geojson(folder / f"{name}_tissue.geojson", tissue),
        write_geojson(folder / f"{name}_cells.geojson", cells),
        write_ome_tiff(folder / f"{name}_cells.ome.tif", found.cells.instances, slide.mpp, name=name),
        write_atomic(folder / f"{name}_cells.csv", found.cells.table.to_csv(index=False).encode()),
        write_atomic(folder / f"{name}_layers.csv", found.layers.layers.to_csv(index=False).encode()),
        write_atomic(folder / f"{name}_profile.csv", found.layers.profile.to_csv(index=False).encode()),
        write_atomic(folder / f"{name}_layers.png", layers_figure(slide, found.layers)),
    ]


def _toy(pattern: StainingPattern) -> Slide:
    from dermatome.synthetic.skin import toy_slide

    return toy_slide(40 + list(StainingPattern).index(pattern), pattern, size_px=768, name=f"toy-{pattern}").slide
