"""Builds the wheel and looks into it: `python -m pipelines_tests.wheel_contents`."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
NEEDED = {
    "dermatome/cli/app.py", "dermatome/synthetic/cells_toy.safetensors", "dermatome/synthetic/cells_toy.json",
    "dermatome/synthetic/tissue_starter.safetensors",
    "dermatome/reports/templates/training.html.j2", "dermatome/py.typed", "dermatome/warehouse/dictionary.toml",
    "dermatome/web/atlas/static/openseadragon-5.0.1.min.js", "dermatome/web/atlas/templates/slide.html.j2",
    "dermatome/web/roi_editor.js", "dermatome/warehouse/sql/lineage.sql", "dermatome/web/style.css",
    "dermatome/labels/palettes/source.json",
}  # fmt: skip


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(CHECKOUT)],
            check=True,
        )
        (wheel,) = Path(folder).glob("*.whl")
        names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    strangers = {top for top in tops if top != "dermatome" and not top.endswith(".dist-info")}
    # A package named `assets` or `resources` in site-packages would shadow ours, or be shadowed by it.
    if strangers or not names >= NEEDED:
        print(f"The wheel holds {sorted(strangers)} besides dermatome, and lacks {sorted(NEEDED - names)}.")
        return 1
    print(f"The wheel holds dermatome alone, {len(names)} files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
