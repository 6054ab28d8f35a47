"""A run that finds everything current imports nothing heavy: imports would be most of its time."""

import subprocess
import sys

from assets.partitions import SLIDES
from dermatome.registry.champion import Choice, promote
from dermatome.registry.model_kinds import TISSUE
from pipelines_tests.integration.test_staleness import made

RUN = """
import sys
from pathlib import Path
import dagster as dg
from orchestration.definitions import build_defs
job = build_defs(Path({root!r})).resolve_implicit_global_asset_job_def()
keys = [dg.AssetKey("epidermis_masks"), dg.AssetKey("epidermis_layers")]
with dg.DagsterInstance.local_temp({home!r}) as instance:
    instance.add_dynamic_partitions("slides", ["s1"])
    done = job.execute_in_process(instance=instance, partition_key="s1", asset_selection=keys)
    for key in keys:
        (event,) = done.asset_materializations_for_node(key.to_user_string())
        assert event.metadata["reused"].value, key
print([name for name in ("torch", "cellpose", "matplotlib", "segmentation_models_pytorch") if name in sys.modules])
"""


def test_a_run_that_reuses_everything_imports_nothing_heavy(root, instance, tmp_path):
    instance.add_dynamic_partitions(SLIDES.name, ["s1"])
    champion = promote(root, TISSUE, Choice("v001", "b" * 64, "hand", None), {}, code_version="1", run_id="r")
    image = {"slide_images": "slide_images of s1"}
    made(root, instance, "s1", "slide_images")
    made(root, instance, "s1", "epidermis_masks", **image, tissue_champion=champion.data_version)
    made(root, instance, "s1", "cell_masks")
    earlier = {asset: f"{asset} of s1" for asset in ("epidermis_masks", "cell_masks")}
    made(root, instance, "s1", "epidermis_layers", **image, **earlier)
    (home := tmp_path / "home").mkdir()
    code = RUN.format(root=str(root.path), home=str(home))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
