"""Training on preferences, through the real command: pairs in, a model out that prefers the chosen answers."""

import json
import shutil

import numpy as np
import pytest

from tests.support.tiny_run import TinyRun
from tonsai_jax.data.conversations import ChatSource, write_conversations
from tonsai_jax.errors import UserError
from tonsai_jax.finish import COMPLETE_FILE

THINGS = ("mango", "book", "ball", "fish", "rice", "kite", "lamp", "boat")
PEOPLE = ("Dara", "Sok", "Bopha", "Mom", "Tom", "Lily")
DPO = (
    "model.dropout=0.0",
    "seq_len=64",
    "global_batch_size=4",
    "steps=12",
    "loss.objective=dpo",
    "optimizer.learning_rate=2e-3",
    "eval.every=6",
)


def planted(folder, tokenizer_dir):
    """Pairs in which the chosen answer says who has a thing, and the rejected one says nothing."""
    folder.mkdir()
    records = [
        {"prompt": f"Who has the {thing}?", "chosen": f"{name} has it.", "rejected": "I do not know that."}
        for thing in THINGS
        for name in PEOPLE
    ]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    source = ChatSource("pairs", "en", (str(folder / "pairs.jsonl"),), kind="pairs")
    write_conversations([source], tokenizer_dir, folder / "rows", row_tokens=64, val_ratio=0.2, seed=0, progress=False)


@pytest.fixture(scope="session")
def base(made_once, rows):
    """The workdir of a run on text, where preferences begin; the same run as in test_train.py."""
    return made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train()) / "run"


@pytest.fixture(scope="session")
def pairs(made_once, rows):
    return made_once("pairs", lambda folder: planted(folder, rows / "tokenizer")) / "rows"


def run_in(workdir, pairs, base, *overrides):
    return TinyRun(pairs, workdir, (*DPO, f"init_from={base}", *overrides))


def scores(workdir):
    """The scores of the held-out pairs by step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "eval/margin" in line}


@pytest.mark.full
def test_dpo_raises_the_margin_of_held_out_pairs_and_a_run_that_stopped_goes_on_as_if_it_had_not(tmp_path, pairs, base):
    whole = run_in(tmp_path / "whole", pairs, base)
    printed = whole.train()
    before, after = (scores(whole.workdir)[step] for step in (0, 12))
    assert (before["eval/margin"], before["eval/accuracy"]) == (0, 0.5)
    assert before["eval/loss"] == pytest.approx(np.log(2))
    losses = whole.losses()
    assert losses[min(losses)] == pytest.approx(np.log(2), abs=1e-5)  # each row of training has its own reference
    assert after["eval/margin"] > 0.5
    assert after["eval/accuracy"] > 0.9
    assert after["eval/loss"] < 0.5
    assert "the chosen answer is preferred in" in printed

    stopped = run_in(tmp_path / "stopped", pairs, base)
    stopped.train(steps_today=5)
    written = (stopped.workdir / "reference.npz").stat().st_mtime_ns
    stopped.train()
    assert stopped.losses() == whole.losses()
    assert (stopped.workdir / "reference.npz").stat().st_mtime_ns == written
    assert {path.name for path in stopped.workdir.iterdir()} >= {COMPLETE_FILE, "report.html"}


@pytest.mark.full
def test_a_run_goes_on_only_with_the_reference_that_it_began_with(tmp_path, pairs, base):
    run = run_in(tmp_path / "run", pairs, base, "eval.every=0")
    run.train(steps_today=1)
    file = run.workdir / "reference.npz"
    with np.load(file) as arrays:
        of_other_rows = dict(arrays) | {"rows": np.array("{}")}
    np.savez(file, **of_other_rows)
    with pytest.raises(UserError, match="log-probabilities of other rows than those in"):
        run.train()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"reference\.npz: damaged"):
        run.train()
    file.unlink()
    with pytest.raises(UserError, match=r"reference\.npz: this file is missing.*give another --workdir"):
        run.train()


@pytest.mark.full
def test_held_out_pairs_that_cannot_be_read_do_not_end_the_run(tmp_path, pairs, base, monkeypatch):
    broken = tmp_path / "rows"
    shutil.copytree(pairs, broken)
    run = run_in(tmp_path / "run", broken, base, "steps=4", "eval.every=2", "optimizer.warmup_steps=1")
    run.train(steps_today=1)  # it scores all pairs before the first step
    [shard] = (broken / "pairs").glob("validation-*")
    # After the start, which would refuse the file.
    monkeypatch.setattr("tonsai_jax.opening.check_shards", lambda *_: shard.write_bytes(b"not an array record"))
    printed = run.train()
    assert printed.count("the evaluation failed, training continues") == 2
    assert "complete: 4 steps" in printed


@pytest.mark.full
def test_an_objective_refuses_rows_of_the_other_kind_and_a_run_from_scratch(tmp_path, pairs, rows, base):
    with pytest.raises(
        UserError, match=r"source 'pairs' holds pairs .* from which loss\.objective=next_token does not learn"
    ):
        run_in(tmp_path / "run", pairs, base).train("loss.objective=next_token")
    with pytest.raises(UserError, match=r"source 'en' holds text, but loss\.objective=dpo learns from pairs"):
        run_in(tmp_path / "run", rows, base).train("seq_len=32")
    with pytest.raises(UserError, match=r"loss\.objective=dpo teaches a model .* add --config\.init_from"):
        TinyRun(pairs, tmp_path / "run", DPO).train()
    assert not (tmp_path / "run" / "config.json").exists()
