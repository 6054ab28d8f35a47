"""Builds the wheel and looks into it: `python -m pipelines_tests.wheel_contents`."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(CHECKOUT)],
            check=True,
        )
        (wheel,) = Path(folder).glob("*.whl")
        names = set(zipfile.ZipFile(wheel).namelist())
    needed = {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "dermatome").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    tops = {name.split("/")[0] for name in names}
    strangers = {top for top in tops if top != "dermatome" and not top.endswith(".dist-info")}
    # A package named `assets` or `resources` in site-packages would shadow ours, or be shadowed by it.
    if strangers or needed - names:
        print(f"The wheel holds {sorted(strangers)} besides dermatome, and lacks {sorted(needed - names)}.")
        return 1
    print(f"The wheel holds dermatome alone, {len(names)} files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
