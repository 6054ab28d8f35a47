"""The stage `annotation_queue`: from slides to a table of regions to annotate, and a page with links."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd

from dermatome.classes import RgbImage
from dermatome.geometry import Box
from dermatome.imaging.overlay import fitting
from dermatome.inference.compute import ComputeSettings
from dermatome.pipeline.stage_files import load_slide, write_frame
from dermatome.registry.champion import Weights
from dermatome.reports.figures import preview_samples
from dermatome.reports.html import picture_uri, template
from dermatome.skin.queue.rank import Candidate, Proposal, candidates, choose
from dermatome.skin.queue.settings import QueueSettings
from dermatome.skin.tiles.corrections import saved_corrections
from dermatome.skin.tissue.networks import load_tissue
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE, DataRoot
from dermatome.storage.record import StageResult, content_version, require_record

QUEUE_TABLE, QUEUE_FILE = "queue.parquet", "queue.html"
_THUMBNAIL_PX = 256


def queue_slides(root: DataRoot, settings: QueueSettings) -> dict[str, str]:
    """The slides that are ranked: data version of each by name."""
    names = root.partitions("slide_images")
    if len(names) > settings.slides:
        names = sorted(np.random.default_rng(settings.seed).permutation(names)[: settings.slides].tolist())
    return {name: require_record(root, "slide_images", name).data_version for name in names}


def make_queue(
    root: DataRoot,
    folder: Path,
    slides: list[str],
    weights: Weights,
    compute: ComputeSettings,
    settings: QueueSettings,
    web_url: str,
) -> StageResult:
    """Writes `queue.parquet` and `queue.html`.

    Links lead to the web app at ``web_url``.

    Raises:
        MissingInput, BadImage: a slide's image is missing or not the one that was verified.
    """
    network = load_tissue(weights, compute.choose(), TissueSettings())
    found: list[Candidate] = []
    annotated: dict[str, list[Box]] = {}
    for name in slides:
        found += candidates(load_slide(root, name), network, settings.side_px, settings.views)
        annotated[name] = [correction.box for correction in saved_corrections(root, name)]
    proposals = choose(found, settings.regions, settings.diversity, annotated)
    table = _table(proposals, found)
    write_frame(folder / QUEUE_TABLE, table)
    pictures: dict[Candidate, RgbImage] = {}
    for name in {proposal.candidate.slide for proposal in proposals}:
        slide = load_slide(root, name)
        for candidate in (proposal.candidate for proposal in proposals if proposal.candidate.slide == name):
            pictures[candidate] = slide.region(candidate.box, fitting(candidate.box.size, _THUMBNAIL_PX))
    rows = []
    for row, proposal in zip(table.to_dict("records"), proposals, strict=True):
        place = {"slide": row["slide"], "left": row["left_px"], "top": row["top_px"], "side": settings.side_px}
        image = picture_uri(pictures[proposal.candidate], "jpeg", quality=85)
        rows.append(row | {"image": image, "link": f"{web_url}/correct?{urlencode(place)}"})
    text = template("queue.html.j2", "dermatome.skin.queue").render(rows=rows, slides=len(slides), weights=weights.name)
    write_atomic(folder / QUEUE_FILE, text.encode())
    if pictures:
        facts = [f"{len(proposals)} regions", f"of {len(slides)} slides"]
        shown = [pictures[proposal.candidate] for proposal in proposals]
        write_atomic(folder / PREVIEW_FILE, preview_samples(shown, "annotation_queue", facts))
    return StageResult(
        outcome="queue" if proposals else "nothing_to_annotate",
        message=f"{len(proposals)} regions of {len(slides)} slides, the first on {proposals[0].candidate.slide}."
        if proposals
        else "There is no slide with a region that is not annotated yet.",
        data_version=content_version([table.to_csv().encode()]),
        values={
            "regions": len(proposals),
            "slides": len(slides),
            "weights": weights.name,
            "weights_sha256": network.weights.sha256,
        },
    )


def _table(proposals: list[Proposal], found: list[Candidate]) -> pd.DataFrame:
    """A row for each proposed region, in the order in which to annotate them."""
    of_slide: dict[str, list[float]] = {}
    for candidate in found:
        of_slide.setdefault(candidate.slide, []).append(candidate.disagreement)
    rows = []
    for rank, proposal in enumerate(proposals, 1):
        candidate = proposal.candidate
        place = candidate.box.left_px, candidate.box.top_px, candidate.box.size.width_px, candidate.box.size.height_px
        gain = candidate.disagreement, proposal.novelty, proposal.gain, float(np.mean(of_slide[candidate.slide]))
        rows.append((rank, candidate.slide, *place, *gain))
    columns = {"rank": "int32", "slide": "str"}
    columns |= dict.fromkeys(("left_px", "top_px", "width_px", "height_px"), "int32")
    columns |= dict.fromkeys(("disagreement", "novelty", "gain", "slide_disagreement"), "float64")
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)
