"""The texts that a run writes between steps, and what it does at its end: on several hosts, and the report."""

import json
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from tests.support.tiny_chat import CONFIG, PARAMS, chat_tokenizer
from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.prompt_suite import prompts
from tonsai_jax.evaluation.prompt_suite.checks import CHECKS
from tonsai_jax.hooks import Hooks, _chat_flags, complete_run, report_of_failure, report_run
from tonsai_jax.inference import generate
from tonsai_jax.training.metrics import MetricsWriter

SUITE = [
    prompts.Prompt("khmer", "continuation", "km", "ភាសា", max_new_tokens=8),
    prompts.Prompt("english", "continuation", "en", "The", max_new_tokens=8),
]


@pytest.fixture
def config() -> ConfigDict:
    config = default_config()
    config.sample.max_new_tokens = 8
    return config


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def hooks(config: ConfigDict, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hooks:
    monkeypatch.setattr(prompts, "read_suite", lambda: SUITE)
    writer = MetricsWriter(tmp_path, start_step=0, active=True, wandb_project="", wandb_name="", config={})
    unused: Any = None
    return Hooks(
        config=config, workdir=tmp_path, stages=(), model_config=CONFIG, manifest=unused,
        tokenizer=chat_tokenizer(tmp_path / "tokenizer"), mesh=unused, eval_step=unused, writer=writer, say=said.append,
    )  # fmt: skip


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_samples_and_suite_are_written_for_the_step_and_one_generator_makes_both(
    hooks: Hooks, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[generate.Generator] = []
    init = generate.Generator.__init__

    def count(self: generate.Generator, *given: Any) -> None:
        made.append(self)
        init(self, *given)

    monkeypatch.setattr(generate.Generator, "__init__", count)
    hooks.write_texts(500, PARAMS, samples=True, suite=True)
    assert len(made) == 1
    samples = lines_of(hooks.workdir / "samples" / "step-000500.jsonl")
    assert [sample["prompt"] for sample in samples] == list(hooks.config.sample.prompts)
    assert all(sample.keys() == {"prompt", "continuation"} for sample in samples)
    suite = lines_of(hooks.workdir / "prompt_suite" / "step-000500.jsonl")
    assert [(each["id"], each["language"], each["prompt"]) for each in suite] == [
        ("khmer", "km", "ភាសា"),
        ("english", "en", "The"),
    ]
    assert all(each["checks"].keys() == CHECKS.keys() for each in suite)
    [row] = lines_of(hooks.workdir / "metrics.jsonl")
    assert row["step"] == 500
    assert row["eval/prompts/script_share/en"] == pytest.approx(suite[1]["checks"]["script_share"], abs=1e-4)
    assert said[0].startswith("  prompt suite, km: script ")
    assert len(said) == 1 + len(samples)

    hooks.write_texts(1000, PARAMS, samples=False, suite=True)
    again = lines_of(hooks.workdir / "prompt_suite" / "step-001000.jsonl")
    assert again == suite, "the same parameters give the same texts at every step"
    assert not (hooks.workdir / "samples" / "step-001000.jsonl").exists()


def test_the_suite_can_be_switched_off(hooks: Hooks, config: ConfigDict, said: list[str]) -> None:
    config.eval.prompt_suite = False
    hooks.write_texts(500, PARAMS, samples=False, suite=True)
    assert said == []
    assert not (hooks.workdir / "prompt_suite").exists()


def test_a_suite_that_fails_is_one_line_and_the_samples_are_written(
    hooks: Hooks, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(prompts, "read_suite", fail)
    hooks.write_texts(500, PARAMS, samples=True, suite=True)
    assert said[0] == "step 500: no prompt suite, training continues (RuntimeError: no memory)"
    assert (hooks.workdir / "samples" / "step-000500.jsonl").is_file()


def test_prompts_that_are_all_too_long_are_said_and_nothing_is_written(
    hooks: Hooks, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "read_suite", lambda: [prompts.Prompt("a", "k", "km", "ភាសា", max_new_tokens=128)])
    hooks.write_texts(500, PARAMS, samples=False, suite=True)
    assert said == ["  prompt suite, 1 of 1 prompt left out, too long for the model's context"]
    assert not (hooks.workdir / "prompt_suite").exists()


def test_a_chat_model_answers_the_prompts(hooks: Hooks, config: ConfigDict) -> None:
    hooks.write_texts(1, PARAMS, samples=False, suite=True)
    config.sample.chat = True
    hooks.write_texts(2, PARAMS, samples=False, suite=True)
    first, second = (lines_of(hooks.workdir / "prompt_suite" / f"step-00000{step}.jsonl") for step in (1, 2))
    assert [each["continuation"] for each in first] != [each["continuation"] for each in second]


def test_on_several_hosts_no_texts_are_written(hooks: Hooks, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    hooks.write_texts(500, PARAMS, samples=True, suite=True)
    assert said == []
    assert not (hooks.workdir / "samples").exists()


@pytest.mark.parametrize("export", [True, False])
def test_a_run_on_several_hosts_says_that_it_does_not_export_and_what_does(
    export: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    config = default_config()
    config.export = export
    lines: list[str] = []
    complete_run(tmp_path, config, None, lines.append)
    assert ("in spite of config.export" in lines[0]) == export
    assert f"tonsai export --workdir {tmp_path} --output-dir {tmp_path / 'export'}" in lines[1]
    assert not any(tmp_path.iterdir())


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
