"""Keys: what differs has another key, and an edit of the code changes the keys of the stages that use it, and no others."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tonsai_jax.corpus.cleaning.boilerplate import count_lines
from tonsai_jax.corpus.cleaning.clean import Clean
from tonsai_jax.corpus.duplicates.near import compute_signatures
from tonsai_jax.corpus.writing import WriteSource
from tonsai_jax.jobs.cache import PACKAGE, code_hash, content_key
from tonsai_jax.jobs.executor import Executor

CLEAN, LINES, SIGN, WRITE = (task.__module__ for task in (Clean, count_lines, compute_signatures, WriteSource))
ENCODE = "tonsai_jax.data.encoded"


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("copy") / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def hashes_after_edit(package: Path, name: str) -> dict[str, bool]:
    """For each module with a task: whether its hash changes when a line is added to a file."""
    file = package / name
    modules = (CLEAN, LINES, SIGN, WRITE, ENCODE)
    before = {module: code_hash(module, package) for module in modules}
    source = file.read_bytes()
    file.write_bytes(source + b"\nEDITED = True\n")
    try:
        return {module: code_hash(module, package) != before[module] for module in modules}
    finally:
        file.write_bytes(source)


def test_a_key_tells_apart_what_differs() -> None:
    assert content_key({"a": 1, "b": 2}, "x") == content_key({"b": 2, "a": 1}, "x")
    parts: list[list[Any]] = [[1, 2], [[1, 2]], ["1", 2], [Executor()], [Executor(workers=2)]]
    assert len({content_key(*each) for each in parts}) == len(parts)


@pytest.mark.parametrize("name", ["corpus/report.py", "reporting/page.py", "corpus/prepare.py", "jobs/engine.py"])
def test_an_edit_of_the_report_or_of_the_engine_repeats_no_work(copied: Path, name: str) -> None:
    assert not any(hashes_after_edit(copied, name).values())


@pytest.mark.parametrize(
    "name", ["text/khmer.py", "text/syllables.py", "text/normalize.py", "corpus/cleaning/rules.py"]
)
def test_an_edit_of_the_khmer_or_quality_rules_repeats_the_cleaning(copied: Path, name: str) -> None:
    assert hashes_after_edit(copied, name)[CLEAN]


def test_an_edit_repeats_only_the_stages_that_use_the_module(copied: Path) -> None:
    assert hashes_after_edit(copied, "corpus/duplicates/near.py") == {
        CLEAN: False, LINES: False, SIGN: True, WRITE: False, ENCODE: False
    }  # fmt: skip
    changed = hashes_after_edit(copied, "tokenizer/encoding.py")
    assert [module for module, has_changed in changed.items() if has_changed] == [ENCODE]
    assert all(hashes_after_edit(copied, "files.py").values())


def test_the_hash_depends_on_the_source_alone(copied: Path) -> None:
    assert code_hash(CLEAN, copied) == code_hash(CLEAN)
    assert len({code_hash(module) for module in (CLEAN, LINES, SIGN, WRITE, ENCODE)}) == 5


def test_imports_inside_functions_and_of_packages_count(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "inner/__init__.py": "",
        "inner/used.py": "",
        "inner/unused.py": "",
        "task.py": "def f():\n    from package.inner import used\n    import json\n    return used, json\n",
    }
    for name, source in files.items():
        (package / name).write_text(source)
    before = code_hash("package.task", package)
    for name in files:
        (package / name).write_text(files[name] + "x = 1\n")
        assert (code_hash("package.task", package) != before) == (name != "inner/unused.py"), name
        (package / name).write_text(files[name])
    with pytest.raises(ValueError, match="not a module"):
        code_hash("package.missing", package)
    with pytest.raises(ValueError, match="not a module"):
        code_hash("json", package)
