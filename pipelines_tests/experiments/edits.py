"""Random edits of a cohort, and what staleness says of its results, against fingerprints computed by brute force.

python -m pipelines_tests.experiments.edits --edits 1000 --slides 50

Records, settings, champions, sources, code versions and the inputs of every stage are the platform's own. Only the
science is replaced, by a hash of all that a result depends on, so that a result that was wrongly kept shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from assets.skin import OF_SLIDES
from assets.slide_asset import stale_partitions_of
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import Stage, WaitingStage, cached_stage
from dermatome.registry.champion import Choice, find_champion, promote
from dermatome.registry.model_kinds import CELLS, TISSUE
from dermatome.settings import deciding_settings, load_settings
from dermatome.skin.cells.networks import find_cell_weights
from dermatome.skin.cells.stage import CellsStage
from dermatome.skin.layers.stage import LayersStage
from dermatome.skin.tissue.stage import MaskStage
from dermatome.slides.register import read_sources, source_of, write_sources
from dermatome.slides.source import SlideSource, acquire_slide
from dermatome.storage.files import sha256_bytes, sha256_file
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import StageResult, content_version, fingerprint, read_record
from orchestration.requests import with_stale_slides
from resources.settings import decided_names, versioned_by_settings

SETTINGS: dict[str, Sequence[Any]] = {
    "images.declared_mpp": (0.5, 0.25),
    "tissue.margin_um": (20.0, 30.0),
    "tissue.batch": (4, 8),
    "cells.flow_threshold": (0.4, 0.5),
    "cells.batch": (4, 8),
    "layers.layer_um": (9.0, 12.0),
    "layers.pattern_ratio": (1.7, 2.0),
    "compute.precision": ("fp32", "auto"),
    "compute.threads": (1, 2),
    "batch.readers": (1, 2),
    "profiles.resamples": (200, 300),
    "nuclei_opacity": (0.4, 0.5),
}
"""Settings that are edited, some of which decide nothing of a slide of skin, and their values."""
ASSETS = [asset.key.to_user_string() for asset in OF_SLIDES]


class Study:
    """A data root with its results, and edits of it."""

    def __init__(self, folder: Path, slides: int, seed: int) -> None:
        """Draws images of ``slides`` slides, chooses a champion, and computes everything once."""
        self.root, self.random = DataRoot(folder / "data"), np.random.default_rng(seed)
        self.slides = [f"s{number:03}" for number in range(slides)]
        self.edited: dict[str, Any] = {"cell_weights": str(folder / "cells.safetensors")}
        self.assets = {asset.key.to_user_string(): asset for asset in OF_SLIDES}
        self.files = {slide: self.root.inbox / f"{slide}.png" for slide in self.slides}
        Path(self.edited["cell_weights"]).write_bytes(b"first")
        for slide in self.slides:
            self._draw(slide)
            folder = self.root.annotations / slide
            folder.mkdir(parents=True)
            (folder / "mask.png").write_bytes(b"drawn")
        write_sources(self.root.slide_sources, [self._source(slide) for slide in self.slides])
        self._write_settings()
        self._promote(TISSUE, "v001")
        self.compute(dict.fromkeys(ASSETS, self.slides))

    def edit(self) -> str:
        """Changes something, or only looks as if; says what."""
        kinds = [self._setting, self._champion, self._image, self._annotation, self._code_version, self._weights_file]
        return kinds[self.random.integers(len(kinds))]()

    def said(self) -> dict[str, set[str]]:
        """The slides of each asset that the platform calls stale."""
        settings = load_settings(self.root.settings)
        return {name: set(stale_partitions_of(asset, settings, self.root)) for name, asset in self.assets.items()}

    def stale(self) -> dict[str, set[str]]:
        """The slides of each asset whose fingerprint, computed from all that a run would read, is another now."""
        found: dict[str, set[str]] = {}
        for name in ASSETS:
            decided, version, stage = self._decided(name), self._version(name), self._stage(name)
            records = {slide: read_record(self.root.record(name, slide)) for slide in self.slides}
            found[name] = {
                slide
                for slide, record in records.items()
                if record is None or record.fingerprint != fingerprint(version, stage.inputs(slide), decided)
            }
        return found

    def compute(self, slides: dict[str, list[str]]) -> dict[str, int]:
        """Runs the assets in order, as the platform does; how many slides of each were computed."""
        computed = {}
        for name, keys in slides.items():
            work = cached_stage(self._stage(name), self._decided(name), self._version(name), "run")
            done = list(run_batch(work, keys))
            assert all(one.result is not None for one in done), [one.error for one in done]
            computed[name] = sum(not one.result.reused for one in done if one.result is not None)
        return computed

    def infer(self) -> dict[str, int]:
        """What the job `infer` with ``stale: true`` computes."""
        return self.compute(with_stale_slides({name: [] for name in ASSETS}, self.said(), self.slides))

    def wrong(self) -> list[str]:
        """Results that are not those that a computation of everything from the start would give."""
        versions = {slide: {"slide_images": self._image_version(slide)} for slide in self.slides}
        found = []
        for name in ASSETS:
            stage, decided, version = self._stage(name), self._decided(name), self._version(name)
            for slide in self.slides:
                if name != "slide_images":
                    inputs = dict(stage.inputs(slide))
                    inputs |= {
                        upstream: versions[slide][upstream] for upstream in inputs if upstream in versions[slide]
                    }
                    versions[slide][name] = _content(version, inputs, decided)
                record = read_record(self.root.record(name, slide))
                if record is None or record.data_version != versions[slide][name]:
                    found.append(f"{name} of {slide}")
        return found

    def _stage(self, name: str) -> Stage[Any, Any]:
        """The asset's stage, whose inputs are those of the real one."""
        root, settings = self.root, load_settings(self.root.settings)
        if name == "slide_images":
            sources = read_sources(root.slide_sources)
            mpp = settings.images.declared_mpp

            def make(slide: str, folder: Path) -> StageResult:
                return acquire_slide(source_of(slide, sources), folder, mpp, 20_000, root=root.path)

            return WaitingStage(root, name, make, lambda slide: {"hpa_images": source_of(slide, sources).identity})
        real: Stage[Any, Any] = LayersStage(root, settings.layers)
        if name == "epidermis_masks":
            real = MaskStage(root, find_champion(root, TISSUE), settings.compute, settings.tissue)
        elif name == "cell_masks":
            weights = find_cell_weights(root, settings.cell_weights)
            real = CellsStage(root, weights, settings.compute, settings.cells)
        version, decided = self._version(name), self._decided(name)

        def hashed(slide: str, folder: Path) -> StageResult:
            content = _content(version, real.inputs(slide), decided)
            (folder / "result.txt").write_text(content)
            return StageResult("measured", content, {})

        return WaitingStage(root, name, hashed, real.inputs)

    def _image_version(self, slide: str) -> str:
        mpp = load_settings(self.root.settings).images.declared_mpp
        return content_version([sha256_file(self.files[slide]).encode(), f"{mpp} declared".encode()])

    def _decided(self, name: str) -> dict[str, Any]:
        (spec,) = self.assets[name].specs
        return deciding_settings(load_settings(self.root.settings), decided_names(spec.metadata), self.root)

    def _version(self, name: str) -> str:
        (spec,) = self.assets[name].specs
        return versioned_by_settings(str(spec.code_version), self._decided(name))

    def _source(self, slide: str) -> SlideSource:
        return SlideSource(slide, "folder", str(self.files[slide]))

    def _draw(self, slide: str) -> None:
        self.files[slide].parent.mkdir(parents=True, exist_ok=True)
        pixels = self.random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.files[slide])

    def _some(self) -> list[str]:
        return [str(slide) for slide in self.random.choice(self.slides, self.random.integers(1, 4), replace=False)]

    def _write_settings(self) -> None:
        top = {name: value for name, value in self.edited.items() if "." not in name}
        lines = [f"{name} = {json.dumps(value)}" for name, value in top.items()]
        lines += [f"{name} = {json.dumps(value)}" for name, value in self.edited.items() if "." in name]
        self.root.settings.write_text("\n".join(lines))

    def _setting(self) -> str:
        name = str(self.random.choice([*SETTINGS, "cell_weights"]))
        values = SETTINGS.get(name, ("toy", str(self.root.path.parent / "cells.safetensors")))
        self.edited[name] = values[self.random.integers(len(values))]
        self._write_settings()
        return f"setting {name} = {self.edited[name]}"

    def _champion(self) -> str:
        kind = (TISSUE, CELLS)[self.random.integers(2)]
        names = ["v001", "v002", "v003", *(["settings"] if kind is CELLS else [])]
        name = names[self.random.integers(len(names))]
        self._promote(kind, name)
        return f"champion {kind.champion} {name}"

    def _promote(self, kind: Any, name: str) -> None:
        sha256 = sha256_bytes(f"{kind.prefix} {name}".encode())
        if name == "settings":
            self.root.record(kind.champion, CHAMPION).unlink(missing_ok=True)
            sha256 = find_cell_weights(self.root, load_settings(self.root.settings).cell_weights).sha256
        promote(self.root, kind, Choice(name, sha256, "hand", None), {}, code_version="1", run_id="run")

    def _image(self) -> str:
        slides, what = (
            self._some(),
            ("other content", "the same content again", "another place")[self.random.integers(3)],
        )
        for slide in slides:
            path = self.files[slide]
            if what == "other content":
                self._draw(slide)
            elif what == "the same content again":
                path.write_bytes(path.read_bytes())
            else:
                self.files[slide] = path.with_name(f"{slide}-{self.random.integers(1000)}.png")
                path.rename(self.files[slide])
                write_sources(self.root.slide_sources, [self._source(slide)])
        return f"image {what}: {', '.join(slides)}"

    def _annotation(self) -> str:
        slides = self._some()
        for slide in slides:
            (self.root.annotations / slide / "mask.png").write_bytes(self.random.bytes(8))
        return f"annotation of {', '.join(slides)}"

    def _code_version(self) -> str:
        name = ASSETS[self.random.integers(len(ASSETS))]
        version = str(self.random.integers(3))
        asset = self.assets[name]
        self.assets[name] = asset.map_asset_specs(lambda spec: spec.replace_attributes(code_version=version))
        return f"code version of {name}: {version}"

    def _weights_file(self) -> str:
        path = self.root.path.parent / "cells.safetensors"
        path.write_bytes(self.random.choice([b"first", b"second"]))
        return "weights file that settings may name"


def _content(version: str, inputs: Any, decided: Any) -> str:
    return content_version([json.dumps([version, dict(inputs), dict(decided)], sort_keys=True).encode()])


def run(folder: Path, slides: int, edits: int, seed: int) -> Counter[str]:
    """Edits a study; what was said of its results and what is true, counted over all edits.

    Results are brought up to date after about every second edit, so that edits meet.
    """
    study, counted = Study(folder, slides, seed), Counter[str]()
    for _ in range(edits):
        what = study.edit()
        said, true = study.said(), study.stale()
        counted["edits"] += 1
        counted[what.split()[0]] += 1
        for name in ASSETS:
            counted["results"] += slides
            counted["stale"] += len(true[name])
            counted["falsely fresh"] += len(true[name] - said[name])
            counted["falsely stale"] += len(said[name] - true[name])
            if said[name] != true[name]:
                print(f"{what}: {name} said {sorted(said[name])}, true {sorted(true[name])}")
        if study.random.integers(2):
            counted["recomputed"] += sum(study.infer().values())
            counted["runs"] += 1
            counted["wrong after infer"] += len(study.wrong())
            counted["stale after infer"] += sum(map(len, study.stale().values()))
    return counted


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the counts; the exit code is 1 if a result is falsely fresh, or more than 1 % are falsely stale."""
    parser = argparse.ArgumentParser(prog="python -m pipelines_tests.experiments.edits", description=__doc__)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--slides", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        counted = run(Path(folder), given.slides, given.edits, given.seed)
    print(", ".join(f"{name} {count}" for name, count in counted.items()))
    wrong = counted["falsely fresh"] + counted["wrong after infer"] + counted["stale after infer"]
    return 1 if wrong or counted["falsely stale"] > 0.01 * counted["stale"] else 0


if __name__ == "__main__":
    sys.exit(main())
