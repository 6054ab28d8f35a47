import pytest

from dermatome.errors import BadSetting
from orchestration.definitions import build_defs
from resources.settings import Settings, load_settings


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
        ("[nuclei]\nx = 1", "'nuclei' that does not exist"),
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
