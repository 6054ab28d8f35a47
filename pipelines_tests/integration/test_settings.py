"""Settings, and the resources that act on them."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dermatome.errors import BadSetting, BadWeights, FetchFailed, MissingInput
from dermatome.inference.compute import Compute
from dermatome.settings import Settings, load_settings
from dermatome.skin.cells import cyto2
from dermatome.skin.cells.network import TOY_WEIGHTS
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import StageRecord, write_record
from dermatome.training import weights
from orchestration.definitions import build_defs
from resources import CellSegmenterResource, HpaResource, TissueSegmenterResource, hpa
from resources.settings import SettingsResource

CPU = Compute("cpu", "fp32", 1, "CPU")


def written(tmp_path, text):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_no_file_means_the_defaults(tmp_path):
    assert load_settings(tmp_path / "settings.toml") == Settings()


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    changed = load_settings(
        written(tmp_path, 'cell_weights = "toy"\n[images]\ndeclared_mpp = 0.25\n[tissue.cleanup]\n')
    )
    assert changed.images.declared_mpp == 0.25
    assert changed.cell_weights == "toy"
    assert changed.tissue == Settings().tissue


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[images]\nmmp = 1", "'images.mmp' that does not exist: use one of declared_mpp"),
        ("[tissue.cleanup]\nx = 1", "'tissue.cleanup.x' that does not exist"),
        ("[nuclei.instances]\nx = 1", "'nuclei.instances.x' that does not exist"),
        ("[nucleus]\nx = 1", "'nucleus' that does not exist"),
        ('[images]\ndeclared_mpp = "wide"', "images.declared_mpp .* is wrong"),
        ('[compute]\ndevice = "tpu"', "compute.device .* is wrong"),
        ("images = ", "is not a TOML file"),
    ],
)
def test_mistakes_are_named(tmp_path, text, said):
    with pytest.raises(BadSetting, match=said):
        load_settings(written(tmp_path, text))


def test_a_value_out_of_range_is_refused(tmp_path):
    with pytest.raises(BadSetting):
        load_settings(written(tmp_path, "[layers]\nlayer_um = -1"))


def test_a_setting_changes_the_code_version_of_what_it_acts_on_alone(tmp_path):
    def versions():
        graph = build_defs(tmp_path).resolve_asset_graph()
        return {key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()}

    before = versions()
    written(tmp_path, "[layers]\nlayer_um = 9.0")
    after = versions()
    assert {name for name in before if before[name] != after[name]} == {"epidermis_layers"}


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


def promote(root, version, sha256):
    write_record(
        root.record("tissue_champion", CHAMPION),
        StageRecord(
            asset="tissue_champion",
            partition=CHAMPION,
            fingerprint="",
            code_version="1",
            inputs={},
            settings={},
            outcome="promoted",
            data_version=sha256,
            values={"version": version, "weights_sha256": sha256},
        ),
    )


def test_the_champion_comes_with_the_record_its_weights_were_chosen_by(tmp_path, monkeypatch):
    root = DataRoot(tmp_path)

    def load_weights(path):
        return SimpleNamespace(sha256=path.parent.name, network=SimpleNamespace(to=lambda device: None))

    monkeypatch.setattr(weights, "load_weights", load_weights)
    resource = TissueSegmenterResource()
    with pytest.raises(MissingInput, match="no champion yet"):
        resource.champion(root)
    for version in ("v1", "v2"):
        promote(root, version, sha256=version)
        champion = resource.champion(root)
        assert champion.version == champion.load(CPU).sha256 == version
    promote(root, "v3", sha256="of another file")
    with pytest.raises(BadWeights, match="not those that were promoted"):
        resource.champion(root).load(CPU)


def test_cyto2_is_fetched_where_it_is_missing(tmp_path, monkeypatch):
    def offline(folder):
        raise FetchFailed(f"{folder} stays empty.")

    monkeypatch.setattr(cyto2, "fetch_cyto2", offline)
    resource = CellSegmenterResource(settings=SettingsResource(path=str(tmp_path / "none.toml")))
    with pytest.raises(FetchFailed, match="models stays empty"):
        resource.weights(DataRoot(tmp_path))


def test_cell_weights_that_are_not_there_or_are_replaced_are_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    settings = SettingsResource(path=str(written(tmp_path, f'cell_weights = "{path}"')))
    resource = CellSegmenterResource(settings=settings)
    with pytest.raises(BadWeights, match="no cell network weights"):
        resource.weights(DataRoot(tmp_path))
    path.write_bytes(TOY_WEIGHTS.read_bytes())
    chosen = resource.weights(DataRoot(tmp_path))
    assert chosen.load(CPU).sha256 == chosen.sha256
    with pytest.raises(BadWeights, match="is not the one that was chosen"):
        replace(chosen, sha256="another").load(CPU)


def test_the_batch_runner_decides_no_number(tmp_path):
    def versions():
        graph = build_defs(tmp_path).resolve_asset_graph()
        return {key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()}

    before = versions()
    written(tmp_path, "[batch]\nreaders = 3\n[compute]\nthreads = 2")
    assert versions() == before
