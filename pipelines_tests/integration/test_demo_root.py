"""Which folders the demo takes for its own."""

import json
import socket

import pytest

from dermatome.errors import StorageFailed
from orchestration import demo


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(demo.cohort, "pages", lambda url: {})
    monkeypatch.setattr(demo.cohort, "images", dict)


@pytest.mark.parametrize("own", ["hpa_images/", "slide_sources/", "annotations/", "inbox/", "settings.toml"])
def test_a_persons_data_root_is_refused_and_left_as_it_was(root, own):
    path = root.path / own
    path.mkdir() if own.endswith("/") else path.write_text("")
    with (
        pytest.raises(StorageFailed, match=f"has {own.rstrip('/')}, but no demo.json. Run make demo DATA="),
        demo.demo_atlas(root),
    ):
        pass
    assert [found.name for found in root.path.iterdir()] == [own.rstrip("/")]


def test_the_demo_knows_its_own_again_and_keeps_its_port_and_settings(root):
    (root.path / "dagster").mkdir()
    with demo.demo_atlas(root) as atlas:
        first = atlas.url
    (root.path / "annotations").mkdir()
    changed = root.settings.read_text() + '[platform]\nowners = ["team:skin"]\n'
    root.settings.write_text(changed)
    with demo.demo_atlas(root) as atlas:
        assert atlas.url == first
    assert first in changed == root.settings.read_text()


def test_a_demo_killed_while_it_wrote_its_first_files_can_be_run_again(root, monkeypatch):
    def killed(path, data):
        if path == killed.at:
            raise KeyboardInterrupt
        write_atomic(path, data)

    write_atomic = demo.write_atomic
    monkeypatch.setattr(demo, "write_atomic", killed)
    for killed.at in (root.settings, root.path / demo.DEMO_FILE):
        with pytest.raises(KeyboardInterrupt), demo.demo_atlas(root):
            pass
    killed.at = None
    with demo.demo_atlas(root):
        assert root.settings.is_file()


def test_a_taken_port_names_the_usual_cause(root):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        (root.path / demo.DEMO_FILE).write_text(json.dumps({"port": other.getsockname()[1]}))
        with pytest.raises(StorageFailed, match="running make ui .* stop that first"), demo.demo_atlas(root):
            pass
