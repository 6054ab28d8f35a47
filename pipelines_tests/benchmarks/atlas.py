"""The web atlas with 2,000 genes and 20,000 slides: each page, and the tiles of the first view of a 3000² core."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dermatome.storage.layout import DataRoot
from pipelines_tests.benchmarks.rows import Row, below

PAGE_S, CORE_S = 0.3, 1.0


def atlas(toy: bool) -> Iterator[Row]:
    """Requests by one client, one after the other; a browser's own time is not in them."""
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    from dermatome.web.atlas.pages import atlas_routes

    genes, slides, side = (20, 200, 700) if toy else (2_000, 20_000, 3_000)
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(folder))
        _put_atlas(root, genes)
        _put_store(root, genes, slides)
        _put_slide(root, side)
        with TestClient(Starlette(routes=atlas_routes(root, "/nuclei"))) as client:
            heatmap = "/atlas/reports/skin_atlas/current/atlas.html"
            pages = {"first page": "/", "search": "/?q=krt", "heatmap": heatmap, "slides": "/atlas/slides?q=basal"}
            pages |= {"slides, last page": f"/atlas/slides?page={slides // 50}", "a slide": "/atlas/slide/core"}
            for name, place in pages.items():
                client.get(place)
                times = []
                for _ in range(1 if toy else 5):
                    start = time.perf_counter()
                    answer = client.get(place)
                    times.append(time.perf_counter() - start)
                    assert answer.status_code == 200, answer.text
                note = f"{genes:,} genes, {slides:,} slides; {len(answer.content) / 1e6:.2f} MB"
                yield below(f"atlas: {name}", statistics.median(times), "s", at_most=PAGE_S, note=note)
        # Another client, as nothing of the slide may be open yet.
        with TestClient(Starlette(routes=atlas_routes(root, "/nuclei"))) as client:
            start = time.perf_counter()
            text = client.get("/atlas/slide/core").text
            viewer = json.loads(text.split('id="slide">')[1].split("</script>")[0])
            level = viewer["maxLevel"] - 1  # half the resolution fills a screen
            across = -(-side // 2 // viewer["tileSize"])
            for number in range(across**2):
                tile = client.get(f"{viewer['tiles']}/image/{level}/{number % across}/{number // across}")
                assert tile.status_code == 200
            seconds = time.perf_counter() - start
            yield below(f"atlas: a {side}² core, its page and {across**2} tiles", seconds, "s", at_most=CORE_S)


def _put_atlas(root: DataRoot, genes: int) -> None:
    import numpy as np
    import pandas as pd

    from dermatome.pipeline.stage_files import write_frame
    from dermatome.skin.atlas.build import build_atlas
    from dermatome.skin.atlas.figures import atlas_figure
    from dermatome.skin.atlas.stage import atlas_html
    from pipelines_tests.records import put_record

    of_gene, antibody = np.repeat(np.arange(genes), 2), np.tile(["HPA1", "HPA2"], genes)
    same = {"gene": [f"KRT{n}" for n in of_gene], "ensembl_id": [f"E-KRT{n}" for n in of_gene], "antibody": antibody}
    antibodies = pd.DataFrame(
        same
        | {"pattern": np.where(of_gene % 3, "basal", "whole"), "pattern_share": 0.9, "patients": 3}
        | {"slides_of_unknown_patient": 0, "synonyms": [f"K{n}" for n in of_gene]}
        | dict.fromkeys(("staining", "intensity", "quantity", "location"), "strong")
    )
    depth = pd.DataFrame({"part": "relative_depth", "relative_from": np.arange(20) / 20})
    zones = pd.DataFrame({"part": "zone", "zone": ["basal", "lower_suprabasal", "upper_suprabasal"]})
    depth = pd.concat([depth, zones, pd.DataFrame({"part": ["epidermis"]})])
    profiles = pd.DataFrame(same).merge(depth, how="cross")
    profiles["mean_dab_od"] = np.random.default_rng(0).random(len(profiles))
    built = build_atlas(profiles, antibodies)
    folder = root.folder("skin_atlas", "current")
    put_record(root, "skin_atlas", "current", message=f"{genes} genes.")
    write_frame(folder / "antibodies.parquet", antibodies)
    (folder / "atlas.html").write_bytes(atlas_html(built, profiles, atlas_figure(built)[1]))


def _put_store(root: DataRoot, genes: int, slides: int) -> None:
    import duckdb

    from dermatome.warehouse.store import build_store

    build_store(root)
    with duckdb.connect(str(root.store)) as store:
        names = f"'9-' || n || '_A' as slide, 'KRT' || n % {genes} as gene, 'E-KRT' || n % {genes} as ensembl_id"
        rows = f"from range({slides}) as t(n)"
        store.execute(f"insert into stored.slides by name select {names} {rows}")
        store.execute(
            f"insert into stored.images by name select {names}, 'HPA' || n % 7 as antibody, "
            f"n::varchar as patient_id {rows}"
        )
        store.execute(
            "insert into stored.layer_slides by name select '9-' || n || '_A' as slide, "
            f"case n % 3 when 0 then 'basal' else 'whole' end as pattern, n % 300 as h_score, 9 as layers {rows}"
        )


def _put_slide(root: DataRoot, side: int) -> None:
    from dermatome.storage.files import sha256_bytes
    from dermatome.synthetic.skin import toy_slide
    from pipelines_tests.records import put_record

    data = toy_slide(3, size_px=side).jpeg()
    values = {
        "file": "image.jpg", "image_sha256": sha256_bytes(data), "height_px": side, "width_px": side, "mpp": 0.5,
        "mpp_source": "declared", "gene": "KRT1", "ensembl_id": "E-KRT1",
    }  # fmt: skip
    put_record(root, "slide_images", "core", values=values)
    (root.folder("slide_images", "core") / "image.jpg").write_bytes(data)
