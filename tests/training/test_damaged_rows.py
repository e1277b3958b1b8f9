"""A file of token rows that is damaged while a run trains: the run saves what it has learned, and names the row."""

import json
import re
import shutil
from pathlib import Path

import pytest

import tonsai_jax.opening
from tests.support.tiny_run import TinyRun, train_in_this_process
from tonsai_jax.data.loader import Loader
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.data.verify import check_shards
from tonsai_jax.errors import UserError, run_command
from tonsai_jax.stages import Stage


def damage_a_row_of(rows: Path) -> tuple[int, Path, bytes]:
    """Flips a bit of a row that is read late; returns the step that needs it, its file, and the file's good bytes."""
    manifest = read_manifest(rows)
    order = DataOrder(manifest, seed=0, stages=[Stage(24, 32, 16)])
    read = [order.window(order.segments[0], number) for number in range(24 * 16)]
    number, window = max(
        (first, each)
        for first, each in enumerate(read)
        if all((each.source, each.row) != (other.source, other.row) for other in read[:first])
    )
    path = manifest.sources[window.source].splits["train"].files[0].path
    whole = path.read_bytes()
    content = bytearray(whole)
    row = Loader(order).windows(0)[number]["tokens"].tobytes()
    content[content.index(row)] ^= 1
    path.write_bytes(content)
    return number // 16, path, whole


@pytest.mark.full
def test_a_row_that_is_damaged_while_a_run_trains_costs_no_step(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rows, tmp_path / "rows")
    damaged = []

    def checked_and_then_damaged(*args: object) -> None:
        check_shards(*args)  # type: ignore[arg-type]
        damaged.append(damage_a_row_of(tmp_path / "rows"))

    monkeypatch.setattr(tonsai_jax.opening, "check_shards", checked_and_then_damaged)
    run = TinyRun(tmp_path / "rows", tmp_path / "run", ("checkpoint.every=1000",))
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: train_in_this_process(run.command()))
    [(step, path, whole)] = damaged
    assert 2 <= step < 24
    assert ended.value.code == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(
        rf"error: {path}: damaged token rows \(row \d+: .*hash mismatch.*\); .*; the run is saved at step {step} and continues "
        r"from there; to go on without such rows, add --config\.data\.max_damaged_rows=1 or more",
        line,
    )
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()

    # At the next start the file is refused at once; repaired, the run goes on as if nothing had been wrong.
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"{path}: damaged token rows"):
        train_in_this_process(run.command())
    path.write_bytes(whole)
    run.train()
    good = TinyRun(rows, tmp_path / "good" / "run", ("checkpoint.every=1000",))
    good.train()
    assert run.losses() == good.losses()


def test_a_run_that_may_skip_a_damaged_row_learns_nothing_from_it_and_counts_it(
    rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rows, tmp_path / "rows")
    _, path, _ = damage_a_row_of(tmp_path / "rows")
    run = TinyRun(tmp_path / "rows", tmp_path / "run", ("data.max_damaged_rows=1",))
    run.train()
    assert f"warning: {path}: damaged token rows (row " in capfd.readouterr().err
    last = json.loads((run.workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["data/damaged_rows"] == 1
    assert last["step"] == 24


@pytest.mark.full
def test_a_damaged_or_half_copied_tokenizer_of_a_run_is_replaced_when_it_resumes(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run")
    run.train(steps_today=1)
    ours, theirs = run.workdir / "tokenizer", rows / "tokenizer"
    names = sorted(file.name for file in theirs.iterdir())
    assert sorted(file.name for file in ours.iterdir()) == names
    (ours / "tokenizer.json").write_bytes((ours / "tokenizer.json").read_bytes()[:1000])
    (ours / "tokenizer_config.json").unlink()
    litter = run.workdir / ".tokenizer.partial-999999999"
    litter.mkdir()
    run.train(steps_today=1)
    assert all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)
    assert not litter.exists()
