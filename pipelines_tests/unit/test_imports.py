"""Imports inside functions, which no import of a module checks."""

import ast
import importlib
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("assets", "dermatome", "orchestration", "resources")


def test_what_functions_import_exists():
    missing = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}: {node.module}.{name.name}"
        for package in PACKAGES
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.col_offset and node.module.split(".")[0] in PACKAGES
        for name in node.names
        if not exists(node.module, name.name)
    ]
    assert missing == []


def exists(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True
