"""The same items in lm-eval: its own model on our export, our model in it, and our tasks give the same answers."""

import argparse
import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.console import tonsai
from tests.support.families import config_of
from tests.support.tiny_model import random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.tasks.multiple_choice import Question, answers_to
from tonsai_jax.evaluation.tasks.task import TaskModel
from tonsai_jax.huggingface.export import export
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.samples.stories import draw_stories

pytest.importorskip("lm_eval", reason="lm-eval is in the `lm-eval` extra: uv sync --extra lm-eval")
pytest.importorskip("torch", reason="PyTorch and Transformers are in the `hf` extra: uv sync --extra hf")

from tonsai_jax.evaluation.lm_eval_model import LMEvalModel  # after it is known that lm-eval is there

CONTEXT = 128  # shorter than many items, so that contexts are cut
YAML = """
task: made_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
"""
CHOICE = """output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]
"""
ROLLING = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{prompt}}"
metric_list: [{metric: bits_per_byte}]
"""
GENERATED = """output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""


def made_questions(count: int) -> list[Question]:
    """Which of four sentences goes on with a story, half of them in Khmer; no published data."""
    questions = []
    for language in ("km", "en"):
        stories = list(islice(draw_stories(language, seed=5), 4 * count))
        for number in range(count // 2):
            told = 1 + number % 4
            four = [story for story in stories[4 * number : 4 * number + 60] if story.ways[told + 1]][:4]
            right = number % 3
            choices = [story.fill(story.ways[told + 1]) for story in four]
            questions.append(Question(four[right].text(told), tuple(choices), right))
    return questions


def lm_eval_run(model: Any, folder: Path, kind: str, questions: list[Question], **settings: Any) -> dict[str, Any]:
    """What lm-eval finds for the items of a task that it reads from YAML and a local file."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder.mkdir(exist_ok=True)
    file = folder / "items.jsonl"
    rows = [{"prompt": q.prompt, "choices": list(q.choices), "answer": q.answer} for q in questions]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    body = {"choice": CHOICE, "rolling": ROLLING, "generated": GENERATED}[kind]
    text = YAML.format(kind=kind, file=file, cache=folder / "cache") + body
    (folder / f"{kind}.yaml").write_text(text, encoding="utf-8")
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[f"made_{kind}"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        **settings,
    )
    assert found is not None
    samples = sorted(found["samples"][f"made_{kind}"], key=lambda sample: sample["doc_id"])
    return {"results": found["results"][f"made_{kind}"], "samples": samples}


def nats_of(found: dict[str, Any]) -> np.ndarray:
    return np.array([[float(response[0][0]) for response in sample["resps"]] for sample in found["samples"]])


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama, GQA, tied", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tiny_tokenizer(folder / "tiny")
    config = dataclasses.replace(config_of(request.param), context_length=CONTEXT, vocab_size=tokenizer.vocab_size)
    return LanguageModel("tiny", config, random_params(config), tokenizer)


@pytest.fixture(scope="module")
def theirs(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """lm-eval's own model on the export, with its settings as they are."""
    from lm_eval.models.huggingface import HFLM

    folder = export(model.model_config, model.params, model.tokenizer, tmp_path_factory.mktemp("export") / "tiny")
    return HFLM(pretrained=str(folder), device="cpu", batch_size=16)


@pytest.mark.full
def test_scores_are_those_of_lm_eval_on_the_export(model: LanguageModel, theirs: Any, tmp_path: Path) -> None:
    questions = made_questions(200)
    assert len(questions) == 200
    expected = lm_eval_run(theirs, tmp_path, "choice", questions)
    in_lm_eval = lm_eval_run(LMEvalModel(model), tmp_path, "choice", questions)
    answers = answers_to("", questions, [], TaskModel(model))

    print("largest difference", np.abs(nats_of(in_lm_eval) - nats_of(expected)).max())
    np.testing.assert_allclose(nats_of(in_lm_eval), nats_of(expected), atol=1e-3, rtol=0)
    for metric, ours in (("acc", "accuracy"), ("acc_norm", "accuracy_characters"), ("acc_bytes", "accuracy_bytes")):
        right = [sample[metric] for sample in expected["samples"]]
        assert [sample[metric] for sample in in_lm_eval["samples"]] == right
        assert [float(a == q.answer) for a, q in zip(answers[ours], questions, strict=True)] == right
    assert answers["accuracy"] == nats_of(expected).argmax(axis=1).tolist()
    assert len(set(answers["accuracy"])) > 1
    assert expected["results"]["acc,none"] == np.mean([sample["acc"] for sample in expected["samples"]])


@pytest.mark.full
def test_whole_texts_and_generated_texts_are_those_of_lm_eval(
    model: LanguageModel, theirs: Any, tmp_path: Path
) -> None:
    questions = made_questions(12)
    for kind in ("rolling", "generated"):
        expected = lm_eval_run(theirs, tmp_path, kind, questions)
        found = lm_eval_run(LMEvalModel(model), tmp_path, kind, questions)
        if kind == "rolling":
            bits = "bits_per_byte,none"
            assert found["results"][bits] == pytest.approx(expected["results"][bits], rel=1e-5)
        else:
            texts = [
                [sample["resps"][0][0].rstrip("\ufffd") for sample in each["samples"]] for each in (found, expected)
            ]
            assert texts[0] == texts[1]


def test_arguments_that_it_does_not_know_are_one_line() -> None:
    with pytest.raises(UserError, match="lm-eval model argument revision: not known"):
        LMEvalModel.create_from_arg_obj({"workdir": "x", "revision": "main"})
    with pytest.raises(UserError, match="workdir=DIR of a run, or model=MODEL, is needed"):
        LMEvalModel.create_from_arg_obj({})


def test_a_step_without_a_run_is_one_line() -> None:
    code, _, err = tonsai("lm-eval", "--model", "export/tiny", "--step", "3", "--tasks", "arc_easy")
    assert (code, err) == (1, "error: --step is a checkpoint of a run; give it with --workdir, not with --model\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", "abc"), "lm-eval: argument --limit/-L: invalid float value: 'abc'"),
        (("--nonsense", "3"), "lm-eval: unrecognized arguments: --nonsense 3"),
        (("--seed", "x"), "lm-eval: argument --seed: invalid "),
    ],
)
def test_a_mistake_in_the_flags_of_lm_eval_is_one_line(words: tuple[str, ...], message: str) -> None:
    code, _, err = tonsai("lm-eval", "--workdir", "run", "--tasks", "arc_easy", *words)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: {message}")
    assert argparse.ArgumentParser("x").error.__module__ == "argparse", "the parsers of others are as before"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionError("Couldn't reach\n'allenai/ai2_arc'"),
            "Couldn't reach 'allenai/ai2_arc'; the data of its tasks",
        ),
        (ValueError("no such split"), "no such split; check the values of the flags"),
        (ValueError("Tasks not found: arc"), "Tasks not found: arc; `lm-eval ls tasks` lists them"),
    ],
)
def test_what_stops_lm_eval_is_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        raise error

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", stopped)
    code, _, err = tonsai("lm-eval", "--workdir", "run", "--tasks", "arc_easy")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: lm-eval: {message}")


def test_a_defect_keeps_its_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        raise KeyError("x")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", stopped)
    with pytest.raises(KeyError):
        tonsai("lm-eval", "--workdir", "run", "--tasks", "arc_easy")
