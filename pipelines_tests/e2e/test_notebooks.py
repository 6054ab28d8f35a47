"""The notebooks of the documentation, cell by cell; the one on skin over the demo's data root."""

import json

import matplotlib
import numpy as np
import pytest

from pipelines_tests.e2e.platform import CHECKOUT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore:The network was trained")]


def run_notebook(name):
    """The variables that a notebook's cells leave."""
    matplotlib.use("Agg")
    notebook, variables = json.loads((CHECKOUT / "docs" / "notebooks" / name).read_text()), {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name} {cell['id']}", "exec"), variables)
            assert cell["outputs"] == [], "results are not kept in the repository"
    return variables


def test_the_skin_notebook_finds_what_the_platform_found(demo, tmp_path, monkeypatch):
    (tmp_path / "dermatome_data").symlink_to(demo.root.path)
    monkeypatch.chdir(tmp_path)
    found = run_notebook("skin.ipynb")
    assert found["layers"].pattern == "basal"
    assert found["largest_difference"] < 1e-6
    assert set(found["genes"]["gene"]) >= {"TOYBASAL", "TOYWHOLE"}


def test_the_nuclei_notebook_finds_and_scores_nuclei():
    found = run_notebook("nuclei.ipynb")
    table, scores = found["nuclei"].table, found["scores"]
    assert {"epithelial", "lymphocyte"} <= set(table["class"])
    assert scores.lymphocytes_per_mm2 > 0
    assert np.isfinite(found["density"]).all()
