"""The texts that a run writes between steps, and the scores of its checkpoints."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from tests.support.tiny_chat import CONFIG, PARAMS, chat_tokenizer
from tonsai_jax.config import default_config
from tonsai_jax.evaluation.bits_per_byte import Evaluation, Score
from tonsai_jax.evaluation.prompt_suite import prompts
from tonsai_jax.evaluation.prompt_suite.checks import CHECKS
from tonsai_jax.hooks import Hooks
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


def test_of_several_processes_only_the_first_writes_texts(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    hooks.write_texts(500, PARAMS, samples=True, suite=True)
    assert not (hooks.workdir / "samples").exists()
    assert not (hooks.workdir / "prompt_suite").exists()


def test_a_checkpoint_without_the_metric_asked_for_has_no_score_and_a_line_says_what_there_is() -> None:
    lines: list[str] = []
    unused: dict[str, Any] = {field.name: None for field in dataclasses.fields(Hooks)} | {"say": lines.append}
    hooks = Hooks(**unused | {"best_metric": "eval/bits_per_byte/chat"})
    text = Evaluation({"wiki": Score(1.0, 2, 3)}, {"km": Score(1.0, 2, 3)})
    assert hooks.score(500, text) is None
    assert lines == [
        "step 500: its checkpoint has no score, eval/bits_per_byte/chat was not measured; there are: bits_per_byte, "
        "bits_per_byte/km, perplexity/km, bits_per_byte/source/wiki, perplexity/source/wiki"
    ]
    assert hooks.score(500, None) is None
    hooks = Hooks(**unused | {"best_metric": "eval/perplexity/km"})
    assert hooks.score(500, text) == text.languages["km"].perplexity
    assert len(lines) == 1
