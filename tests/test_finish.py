"""What a run does at its end: on several hosts, and the report, also of a run that fails."""

from pathlib import Path

import jax
import pytest

from tests.support.tiny_run import TinyRun
from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.finish import COMPLETE_FILE, _chat_flags, report_of_failure, report_run


@pytest.mark.full
def test_a_model_that_no_device_holds_is_complete_without_texts_and_says_how_to_export_it(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tonsai_jax.finish.usable_bytes", lambda: 1000)
    run = TinyRun(rows, tmp_path / "run", ("steps=1", "export=True", "optimizer.warmup_steps=0"))
    printed = run.train()
    assert "no continuations and no export: the whole model takes 0.0 GiB, and a device here has 0.0" in printed
    assert f"tonsai export --workdir {run.workdir}" in printed
    assert not (run.workdir / "export").exists()
    assert read_json(run.workdir / COMPLETE_FILE)["samples"] == []
    # Trained further, it is not complete until its new end.
    run.train("steps=3", steps_today=1)
    assert not (run.workdir / COMPLETE_FILE).exists()


def test_the_flags_for_a_chat_are_those_that_sample_as_the_run_did() -> None:
    config = default_config()
    config.sample.temperature, config.sample.max_new_tokens = 0.0, 40
    assert _chat_flags(config) == "--temperature 0 --max-new-tokens 40"
    config.sample.update(top_k=0, top_p=0.9, min_p=0.05, repetition_penalty=1.1, stop=("the end", "។"))
    assert _chat_flags(config) == (
        "--temperature 0 --top-k 0 --top-p 0.9 --min-p 0.05 --repetition-penalty 1.1 --stop 'the end' --stop '។' "
        "--max-new-tokens 40"
    )


def test_a_report_that_cannot_be_written_is_one_line_and_never_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    report_run(tmp_path, lines.append)
    assert lines == [
        f"no report: {tmp_path}: no metrics.jsonl and no config.json, so this is not the workdir of a run; check the path"
    ]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    monkeypatch.setattr("tonsai_jax.report.write.write_page", lambda *_, **__: 1 / 0)
    report_run(tmp_path, lines.append)
    assert lines[1:] == ["no report (ZeroDivisionError: division by zero)"]


def test_only_the_first_host_writes_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    report_run(tmp_path, print)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("trained", [True, False])
def test_a_run_that_fails_has_a_report_if_it_took_a_step(trained: bool, tmp_path: Path) -> None:
    def train() -> None:
        if trained:
            (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": null}\n')
        raise UserError("the loss was not finite")

    with pytest.raises(UserError, match="not finite"), report_of_failure(tmp_path, print):
        train()
    assert (tmp_path / "report.html").exists() == trained
