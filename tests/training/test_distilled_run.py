"""A run with teachers, through the real commands: it stops and resumes as others do, and says what a teacher must be."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.support.families import config_of
from tests.support.made_once import MadeOnce
from tests.support.tiny_model import random_params, tiny_tokenizer
from tests.support.tiny_run import TinyRun
from tests.training.test_train import assert_same_run
from tonsai_jax.checkpoints.saved import open_checkpoint
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import export
from tonsai_jax.tokenizer.loading import Tokenizer

SHORT = ("steps=4", "optimizer.warmup_steps=0")


@pytest.fixture(scope="module")
def teachers(rows: Path, trained: Path, made_once: MadeOnce) -> tuple[Path, Path]:
    """Two runs of different shapes and seeds; copy them before you change them."""
    shape = ("seed=7", "model.num_layers=1", "model.d_model=32", "model.d_ff=64", "model.position=rope")
    folder = made_once("second-teacher", lambda folder: TinyRun(rows, folder / "run", (*SHORT, *shape)).train())
    return trained, folder / "run"


def taught_by(*teachers: Path) -> str:
    return f"distill.teachers=({''.join(f'{str(teacher)!r},' for teacher in teachers)})"


@pytest.mark.full
def test_a_stopped_run_resumes_bit_for_bit_without_files_of_its_own_and_keeps_to_its_teachers(
    run: TinyRun, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(teacher, tmp_path / f"teacher{n}")) for n, teacher in enumerate(teachers)]
    newest = copies[0] / "checkpoints" / "4"
    newest.rename(tmp_path / "later")
    run.overrides = (*SHORT, taught_by(*copies), "eval.every=2")
    never_stopped = TinyRun(run.rows, tmp_path / "never" / "run", run.overrides)
    printed = never_stopped.train()
    assert f"teacher: {copies[0]}, step 2, 0.1M parameters" in printed
    assert "  distillation " in printed
    run.train(steps_today=2)
    (tmp_path / "later").rename(newest)  # the teacher was trained further
    elsewhere = (
        f"distill.teachers=({f'{copies[0]}/'!r}, {str(copies[1])!r})"  # the same folders, written in another way
    )
    TinyRun(run.rows, run.workdir, (*SHORT, elsewhere, "eval.every=2")).train()
    assert_same_run(run, never_stopped)
    assert set(open_checkpoint(run.workdir).params()) == {
        "blocks", "final_norm", "position_embedding", "token_embedding",
    }  # fmt: skip
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/distillation" in row for row in rows) == 4

    alone = TinyRun(run.rows, tmp_path / "alone" / "run", (*SHORT, "eval.every=2"))
    alone.train()
    assert alone.losses()[1] == run.losses()[1], "the plain cross-entropy, before the first update"
    assert alone.losses()[4] != run.losses()[4]


@pytest.mark.full
def test_a_run_that_resumes_refuses_a_teacher_that_is_gone_or_has_changed(
    run: TinyRun, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(teachers[0], tmp_path / "teacher"))
    run.overrides = (*SHORT, taught_by(copy))
    run.train(steps_today=1)
    shutil.move(copy, tmp_path / "away")
    with pytest.raises(UserError, match=rf"^distill\.teachers={copy}: no such folder"):
        run.train()
    shutil.copytree(teachers[1], copy)  # it has a checkpoint at step 4 too
    with pytest.raises(
        UserError, match=rf"^distill\.teachers={copy}: its weights are others now than when this run began; "
    ):
        run.train()
    shutil.rmtree(copy)
    shutil.move(tmp_path / "away", copy)
    run.train()
    assert len(run.losses()) == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("model.vocab_size=500",),
            r"distill.teachers={}: has model.vocab_size=400, and this run has 500; add --config",
        ),
        (
            ("seq_len=128", "model.context_length=128"),
            r"distill.teachers={}: has a context of 64 tokens, shorter than seq_len=128; add --config.seq_len=64",
        ),
        (("distill.step=best",), r"/checkpoints: no checkpoint here was evaluated, so none is the best"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(
    run: TinyRun, trained: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message.format(trained)):
        run.train(taught_by(trained), *overrides)
    assert not [path for path in run.workdir.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_run_is_not_its_own_teacher(run: TinyRun) -> None:
    with pytest.raises(
        UserError, match=rf"^distill\.teachers={run.workdir}: is the run itself; its teachers are other"
    ):
        run.train(taught_by(run.workdir))


def test_a_teacher_with_another_tokenizer_is_refused(run: TinyRun, trained: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    shutil.rmtree(other / "tokenizer")
    tiny_tokenizer(other / "tokenizer")
    with pytest.raises(UserError, match=f"these token rows were made with another tokenizer than that of {other}"):
        run.train(taught_by(other))


@pytest.mark.full
def test_a_mixture_of_experts_is_no_teacher(run: TinyRun, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(run.rows / "tokenizer")
    config = dataclasses.replace(config_of("mixtral, top-2"), vocab_size=tokenizer.vocab_size)
    folder = export(config, random_params(config), tokenizer, tmp_path / "experts")
    with pytest.raises(
        UserError, match=rf"distill.teachers={folder}: is a mixture of experts; only dense models can be"
    ):
        run.train(taught_by(folder))


def test_a_folder_without_a_model_is_no_teacher(run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model here \(no config.json, and no checkpoints of a run\)"):
        run.train(taught_by(tmp_path))
    with pytest.raises(UserError, match=r"distill.teachers=/nowhere/run: no such folder"):
        run.train(taught_by(Path("/nowhere/run")))
