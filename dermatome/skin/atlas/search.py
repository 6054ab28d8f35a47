"""The search of the atlas, the only script of any report. Page and server allow only this script, by its hash."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

SCRIPT = (files("dermatome.skin.atlas") / "templates" / "search.js").read_text()
SCRIPT_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
"""The script as a source of a Content-Security-Policy."""
