"""Settings, and the resources that act on them."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from assets import nuclei, skin
from dermatome.errors import BadSetting, BadWeights, FetchFailed
from dermatome.inference.compute import Compute
from dermatome.settings import Settings, deciding_settings, load_settings
from dermatome.skin.cells import cyto2
from dermatome.skin.cells.network import TOY_WEIGHTS
from dermatome.skin.cells.networks import find_cell_weights, load_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.tissue.networks import STARTER, STARTER_WEIGHTS, find_tissue_weights
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.settings_model import SettingsModel
from orchestration.definitions import with_settings
from pipelines_tests.records import put_record
from resources import HpaResource, hpa
from resources.settings import SettingsResource

CPU = Compute("cpu", "fp32", 1, "CPU", backend="torch")


def written(tmp_path, text):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_no_file_means_the_defaults(tmp_path):
    assert load_settings(tmp_path / "settings.toml") == Settings()


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    changed = load_settings(
        written(tmp_path, 'cell_weights = "toy"\n[images]\nmax_side_px = 9\n[nuclei_images]\nmax_side_px = 9')
    )
    assert changed.images == Settings().images.changed(max_side_px=9)
    assert changed.nuclei_images.declared_mpp == 0.25
    assert changed.cell_weights == "toy"
    assert changed.tissue == Settings().tissue


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[images]\nmmp = 1", "no setting 'images.mmp'; use one of declared_mpp"),
        ("[tissue.cleanup]\nx = 1", "no setting 'tissue.cleanup.x'; use one of min_epidermis_um2"),
        ("[nuclei.instances]\nx = 1", "no setting 'nuclei.instances.x'"),
        ("[nucleus]\nx = 1", "no setting 'nucleus'; use one of images, compute"),
        (
            '[images]\ndeclared_mpp = "wide"',
            "the setting images.declared_mpp is 'wide': input should be a valid number",
        ),
        ('[compute]\ndevice = "tpu"', "compute.device is 'tpu': input should be 'auto', 'cpu', 'cuda' or 'mps'"),
        ("[compute]\nthreads = -1", "compute.threads is -1: input should be greater than or equal to 0"),
        ("[layers]\nlayer_um = -1", "layers.layer_um is -1: input should be greater than 0"),
        ("[layers]\nweak_od = nan", "layers.weak_od is nan: input should be a finite number"),
        ("[layers]\nweak_od = 0.5", "thresholds weak_od, moderate_od and strong_od are 0.5, 0.4 and 0.6: give them in"),
        ("[hpa]\nretries = 21", "hpa.retries is 21: input should be less than or equal to 20"),
        ('[platform]\ntime_zone = "PST"', "the time_zone is 'PST': give a name of the IANA"),
        ('[platform]\nowners = ["me"]', "platform.owners.0 is 'me'"),
        ("images = ", "is not a TOML file"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, text, message):
    with pytest.raises(BadSetting, match=message) as error:
        load_settings(written(tmp_path, text))
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


# Every setting with another value of it, by the assets whose results it decides. What decides none changes only speed,
# looks or limits.
CELLS = ("cell_masks", "cell_hold_out_scores")
NUCLEI = ("nucleus_maps", "nuclei_hold_out_scores")
EDITS = {
    ("slide_images", "tissue_hold_out_scores", "cell_hold_out_scores"): {"images.declared_mpp": 0.25},
    ("slide_images",): {"images.max_side_px": 9, "hpa.image": "tiff"},
    ("hpa_images",): {
        "images.tissue": "Colon", "hpa.base_url": "https://v23.proteinatlas.org", "hpa.archive_urls": (),
        "hpa.licence": "CC0", "hpa.attribution": "me",
    },
    (): {
        "compute.device": "cpu", "compute.threads": 2, "compute.backend": "torch", "batch.readers": 3,
        "batch.writers": 3, "batch.waiting": 3, "batch.waiting_px": 3, "batch.group_px": 3, "hpa.allowed_hosts": (),
        "hpa.connect_timeout_s": 5.0, "hpa.timeout_s": 5.0, "hpa.total_timeout_s": 5.0, "hpa.retries": 1,
        "hpa.backoff_s": 2.0, "hpa.max_wait_s": 2.0, "hpa.at_once": 2, "hpa.max_page_bytes": 9,
        "hpa.max_image_bytes": 9, "hpa.user_agent": "me", "tissue.batch": 4, "cells.batch": 4, "nuclei.batch": 4,
        "nuclei_opacity": 0.9, "figures": False, "platform.time_zone": "Europe/Berlin",
        "platform.owners": ("team:skin",),
        "platform.dagster_url": "https://lab.example/dagster", "platform.web_url": "https://lab.example",
    },
    ("epidermis_masks", *CELLS, *NUCLEI, "tissue_hold_out_scores", "annotation_queue"): {"compute.precision": "fp32"},
    ("epidermis_masks",): {
        "tissue.coarse_mpp": 4.0, "tissue.tile_px": 128, "tissue.overlap_px": 32, "tissue.views": 2,
        "tissue.significant_share": 0.2, "tissue.margin_um": 32.0, "tissue.refine_whole_px": 9,
        "tissue.cleanup.min_epidermis_um2": 9.0, "tissue.cleanup.min_keratin_um2": 9.0,
        "tissue.cleanup.min_dermis_um2": 9.0, "tissue.cleanup.min_background_um2": 9.0,
        "tissue.cleanup.max_keratin_gap_um2": 9.0, "tissue.cleanup.border_share": 0.5, "tissue.any_scale": True,
    },
    CELLS: {
        "cells.diameter_um": 8.0, "cells.flow_threshold": 0.5, "cells.cellprob_threshold": 0.5,
        "cells.min_area_um2": 9.0, "cells.margin_um": 9.0, "cells.tile_overlap": 0.2,
        "cells.segmenter": "watershed", "cells.stain_vectors": "slide",
    },
    ("epidermis_layers",): {
        "layers.layer_um": 8.0, "layers.max_gap_um": 9.0, "layers.weak_od": 0.1, "layers.moderate_od": 0.3,
        "layers.strong_od": 0.7, "layers.min_h_od": 0.1, "layers.profile_step_um": 1.0,
        "layers.stain_vectors": "slide",
    },
    ("epidermis_layers", "gene_profiles"): {"layers.pattern_min_dab_od": 0.2, "layers.pattern_ratio": 2.0},
    tuple(f"{kind}_hold_out_scores" for kind in ("tissue", "cell", "nuclei")): {
        "promotion.margin": 0.1,
    },
    ("nuclei_slides",): {"nuclei_images.declared_mpp": 0.5, "nuclei_images.max_side_px": 9},
    ("nuclei_patches",): {
        "nuclei_patches.size_px": 128, "nuclei_patches.stride_px": 64, "nuclei_patches.least_foreground": 0.1,
        "nuclei_patches.boundary_px": 2, "nuclei_patches.declared_mpp": 0.5, "nuclei_patches.normalise_stain": True,
    },
    NUCLEI: {
        "nuclei.tile_px": 128, "nuclei.overlap_px": 32, "nuclei.views": 2, "nuclei.skip_background": False,
        "nuclei.only_tissue": False, "nuclei.normalise_stain": True, "nuclei.instances.sure_threshold": 0.8,
        "nuclei.instances.sure_opening_um": 1.0, "nuclei.instances.inside_threshold": 0.4,
        "nuclei.instances.opening_um": 1.0, "nuclei.instances.nucleus_threshold": 0.4, "nuclei.instances.reach_um": 3.0,
        "nuclei.instances.min_area_um2": 9.0,
    },
    ("gene_profiles",): {"profiles.resamples": 100, "profiles.confidence": 0.9, "profiles.seed": 1},
    ("skin_atlas",): {"atlas.max_clustered": 9},
    ("hpa_agreement",): {
        "agreement.folds": 3, "agreement.min_antibodies": 9, "agreement.resamples": 100, "agreement.confidence": 0.9,
        "agreement.seed": 1, "agreement.listed": 9,
    },
    ("annotation_queue",): {
        "queue.regions": 9, "queue.slides": 9, "queue.side_px": 256, "queue.views": 2, "queue.diversity": 0.0,
        "queue.seed": 1,
    },
    ("til_scores",): {"til.near_um": 9.0, "til.square_um": 9.0, "til.min_probability": 0.5},
    ("cell_masks",): {"cell_weights": "toy"},
    ("nucleus_maps",): {"nuclei_weights": "toy"},
}  # fmt: skip


def leaves(model, within=""):
    for name, value in model:
        yield from leaves(value, f"{within}{name}.") if isinstance(value, SettingsModel) else [f"{within}{name}"]


def edited(model, path, value):
    name, _, rest = path.partition(".")
    return model.changed(**{name: edited(getattr(model, name), rest, value) if rest else value})


def versions(settings, root):
    specs = [spec for asset in (*skin.ASSETS, *nuclei.ASSETS) for spec in asset.specs]
    return {spec.key.to_user_string(): with_settings(spec, settings, root).code_version for spec in specs}


def test_every_setting_makes_exactly_the_assets_stale_whose_results_it_decides(tmp_path):
    names = [name for edits in EDITS.values() for name in edits]
    assert sorted(names) == sorted(leaves(Settings())), "every setting is in exactly one group"
    root = DataRoot(tmp_path)
    before = versions(Settings(), root)
    for assets, edits in EDITS.items():
        for name, value in edits.items():
            after = versions(edited(Settings(), name, value), root)
            assert {asset for asset in before if before[asset] != after[asset]} == set(assets), name


@pytest.mark.parametrize("kind", ["cell", "nuclei"])
def test_named_weights_decide_nothing_once_there_is_a_champion(tmp_path, kind):
    root = DataRoot(tmp_path)
    for version, decides in (("v001", False), ("settings", True)):
        promote(root, version, "sha", f"{kind}_champion")
        same = versions(Settings(), root) == versions(Settings(**{f"{kind}_weights": "toy"}), root)
        assert same is not decides


def test_the_record_and_the_code_version_come_from_one_declaration(tmp_path):
    names = ["cells", "compute.precision", "cell_weights unless cell_champion"]
    found = deciding_settings(Settings(), names, DataRoot(tmp_path))
    assert found["cells"] == {name: value for name, value in CellSettings().model_dump().items() if name != "batch"}
    assert found["compute.precision"] == "auto"
    assert found["cell_weights"] == "cyto2"
    with pytest.raises(AttributeError):
        deciding_settings(Settings(), ["renamed"], DataRoot(tmp_path))


def test_a_resource_reads_the_file_once_so_that_a_run_has_the_same_settings_throughout(tmp_path):
    resource = SettingsResource(path=str(written(tmp_path, 'cell_weights = "toy"')))
    first = resource.value
    written(tmp_path, "not TOML any more")
    assert resource.value is first


def test_all_threads_get_the_same_client(tmp_path, monkeypatch):
    made = []

    def slowly(settings):
        made.append(settings)
        time.sleep(0.05)
        return object()

    monkeypatch.setattr(hpa, "HpaClient", slowly)
    resource = HpaResource(settings=SettingsResource(path=str(tmp_path / "none.toml")))
    with ThreadPoolExecutor(8) as pool:
        clients = set(pool.map(lambda _: resource.client, range(8)))
    assert len(clients) == len(made) == 1


def promote(root, version, sha256, asset="tissue_champion"):
    values = {"version": version, "weights_sha256": sha256}
    put_record(root, asset, CHAMPION, outcome="promoted", data_version=sha256, values=values)


def test_the_champion_comes_with_the_record_its_weights_were_chosen_by(tmp_path):
    root = DataRoot(tmp_path)

    def read(path):
        return SimpleNamespace(sha256=path.parent.name)

    starter = find_tissue_weights(root)
    assert (starter.name, starter.file) == (STARTER, STARTER_WEIGHTS)
    for version in ("v1", "v2"):
        promote(root, version, sha256=version)
        champion = find_tissue_weights(root)
        assert champion.name == champion.load(read).sha256 == version
    promote(root, "v3", sha256="of another file")
    with pytest.raises(BadWeights, match="not those that were chosen"):
        find_tissue_weights(root).load(read)


def test_cyto2_is_fetched_where_it_is_missing(tmp_path, monkeypatch):
    def offline(folder):
        raise FetchFailed(f"{folder} stays empty.")

    monkeypatch.setattr(cyto2, "fetch_cyto2", offline)
    with pytest.raises(FetchFailed, match="models stays empty"):
        find_cell_weights(DataRoot(tmp_path), Settings().cell_weights)


def test_cell_weights_that_are_not_there_or_are_replaced_are_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    with pytest.raises(BadWeights, match="no cell network weights"):
        find_cell_weights(DataRoot(tmp_path), str(path))
    path.write_bytes(TOY_WEIGHTS.read_bytes())
    chosen = find_cell_weights(DataRoot(tmp_path), str(path))
    assert load_cells(chosen, CPU).sha256 == chosen.sha256
    with pytest.raises(BadWeights, match="not those that were chosen"):
        load_cells(replace(chosen, sha256="another"), CPU)
