"""Names for results: a hash of everything that a result depends on, the code that computes it included.

A result that exists under its name is therefore right and is never computed again. A changed input, setting or module gives
another name.
"""

import ast
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
_WITHOUT_EFFECT = ("jobs", "reporting")  # they decide where tasks run and how figures look, not what a task computes


def content_key(*parts: Any) -> str:
    """A name of 24 hexadecimal digits for values that can be written as JSON (dataclasses and paths too)."""
    encoded = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=_as_json).encode("utf-8")
    return hashlib.sha256(encoded).hexdigest()[:24]


def code_hash(module: str, package: Path = PACKAGE) -> str:
    """A hash, 24 hexadecimal digits, of the source of a module and of all modules of the package that it imports.

    Indirect imports and imports inside functions count too. The folders `jobs` and `reporting` do not count: they have no
    effect on what a task computes. Imports are found in the source, which is not run.

    Args:
      module: its full name, such as "tonsai_jax.corpus.cleaning.clean".
      package: the folder of the package.

    Raises:
      ValueError: the module is not in the package.
    """
    if not _files_of(module, package):
        raise ValueError(f"{module}: not a module of {package}")
    files: set[Path] = set()
    to_read = {module}
    while to_read:
        new = {file for name in to_read for file in _files_of(name, package)} - files
        files |= new
        to_read = {name for file in new for name in _imports(file.read_bytes())}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:24]


@functools.cache
def loaded_code_hash(module: str) -> str:
    """`code_hash` of a module as this process runs it: the files are read once, so a later edit of them changes no name."""
    return code_hash(module)


def _files_of(name: str, package: Path) -> list[Path]:
    """The files that Python runs to import `name`: the module and the packages around it. None for other packages."""
    root, *parts = name.split(".")
    if root != package.name or (parts and parts[0] in _WITHOUT_EFFECT):
        return []
    module = package.joinpath(*parts)
    files = [package.joinpath(*parts[:depth], "__init__.py") for depth in range(len(parts) + 1)]
    files.append(module.with_suffix(".py"))
    found = [file for file in files if file.is_file()]
    return found if files[-1] in found or files[-2] in found else []


@functools.cache
def _imports(source: bytes) -> frozenset[str]:
    """Every name that may be a module in the imports of a file. They are written in full: tests/test_layering.py."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **dataclasses.asdict(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be part of a key")
