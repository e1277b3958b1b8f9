"""The stages: every result is named by the code of its task, so an edited module repeats its stages and those after them."""

from pathlib import Path

import pytest

from tonsai_jax.corpus import pipeline
from tonsai_jax.corpus.cleaning.clean import Clean
from tonsai_jax.corpus.cleaning.decontaminate import Decontamination
from tonsai_jax.corpus.cleaning.redact import Redaction
from tonsai_jax.corpus.cleaning.rules import Quality
from tonsai_jax.corpus.duplicates.exact import Deduplication
from tonsai_jax.corpus.pipeline import STAGE_VERSIONS, Pipeline
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.corpus.writing import SourcePieces, WriteSource
from tonsai_jax.jobs.engine import Engine
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.text.normalize import Normalization

TEXTS = [f"{number} the river flows through many provinces and meets the sea\nmenu" for number in range(6)]
EVERY_STAGE = set(STAGE_VERSIONS)


def run_every_stage(folder: Path) -> dict[str, set[str]]:
    """Runs all stages in `folder`; returns, for each, the names of the results there."""
    text = folder / "text.txt"
    text.write_text("\n\n".join(TEXTS))
    questions = folder / "questions.txt"
    questions.write_text("which river flows through eleven provinces before it meets the sea in the very far south\n")
    pieces = Source("a", "en", path=str(text), document="paragraph").pieces(2**20)
    work = folder / "work"
    with Engine(Executor(workers=1)) as engine:
        stages = Pipeline(work, engine, progress=False)
        sets, _ = stages.index_sets(Decontamination((str(questions),)), Normalization())
        clean = Clean(Normalization(), Redaction(), Quality(), sets, keep_dropped=False, on_error="stop")
        keys = stages.piece_keys(clean, pieces)
        stages.clean(clean, list(zip(keys, pieces, strict=True)))
        ((stored, _),) = stages.strip_boilerplate([keys], 2)
        groups = stages.find_duplicates(stored, Deduplication(near=True))
        write = WriteSource(groups.exact, groups.near, scored=False, keep_dropped=False)
        stages.write(write, [SourcePieces("a", "en", ((stored[0], 0),), ())])
    return {folder.name: {file.name for file in folder.glob("*.json")} for folder in work.iterdir()}


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules in this set have another hash, as after an edit."""
    modules: set[str] = set()
    original = pipeline.loaded_code_hash
    monkeypatch.setattr(pipeline, "loaded_code_hash", lambda module: original(module) + "edited" * (module in modules))
    return modules


@pytest.mark.parametrize(
    ("module", "repeated"),
    [
        ("cleaning.clean", EVERY_STAGE - {"contamination"}),
        ("cleaning.decontaminate", EVERY_STAGE),
        ("cleaning.boilerplate", EVERY_STAGE - {"contamination", "clean"}),
        ("duplicates.exact", {"duplicates", "matched", "near", "written"}),
        ("duplicates.near", {"signed", "matched", "near", "written"}),
        ("writing", {"written"}),
    ],
)
def test_an_edit_repeats_its_stages_and_those_after_them(
    tmp_path: Path, edited: set[str], module: str, repeated: set[str]
) -> None:
    before = run_every_stage(tmp_path)
    assert before.keys() == EVERY_STAGE
    assert run_every_stage(tmp_path) == before, "without an edit every result is used again"
    edited.add(f"tonsai_jax.corpus.{module}")
    after = run_every_stage(tmp_path)
    assert {stage for stage in after if after[stage] != before[stage]} == repeated


def test_another_version_of_a_stage_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_every_stage(tmp_path)
    monkeypatch.setitem(STAGE_VERSIONS, "signed", STAGE_VERSIONS["signed"] + 1)
    after = run_every_stage(tmp_path)
    assert {stage for stage in after if after[stage] != before[stage]} == {"signed", "matched", "near", "written"}
