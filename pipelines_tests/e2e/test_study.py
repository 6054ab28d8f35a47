"""Numbers of the demo lead back to their pixels, and a study of it is computed again elsewhere."""

import subprocess
import sys

import pytest

from dermatome.synthetic.cohort import demo_genes
from pipelines_tests.e2e.platform import CHECKOUT
from pipelines_tests.experiments import explained

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_random_values_of_the_demo_are_computed_again_from_their_files(demo, capsys):
    assert explained.main([str(demo.root.path), "--values", "40", "--seed", "1"]) == 0
    assert "40 of 40 equal" in capsys.readouterr().out


def test_a_gene_of_the_demo_is_replayed_from_its_crate_with_another_number_of_threads(demo, tmp_path):
    def dermatome(*arguments):
        command = [sys.executable, "-m", "dermatome.cli.app", *map(str, arguments)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    gene = demo_genes()[0]
    crate = tmp_path / "study.crate.zip"
    said = dermatome("export", "crate", gene.gene, "--data", demo.root.path, "--out", crate)
    assert "1 genes and 3 slides" in said
    said = dermatome("replay", crate, "--images", demo.root.folder("slide_images"), "--threads", 1)
    for asset in ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers"):
        assert f"{asset}: 3 of 3 equal" in said
