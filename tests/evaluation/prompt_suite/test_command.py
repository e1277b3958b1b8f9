"""`tonsai prompts`: the table, the texts, the file of figures, the suite of a user."""

import json
from pathlib import Path

import pytest

from tests.support.console import tonsai
from tests.support.tiny_chat import CONFIG, PARAMS, WrittenAnswers, chat_tokenizer
from tonsai_jax.commands import prompts
from tonsai_jax.config import default_config
from tonsai_jax.inference.load import LanguageModel, Run
from tonsai_jax.tokenizer.loading import Tokenizer

LINE = '{"id": "a", "kind": "continuation", "language": "km", "prompt": "ភាសា", "max_new_tokens": 30}\n'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def model(tokenizer, monkeypatch):
    """A model that continues every prompt with "ខ្មែរ", in place of the one that the flags name."""
    WrittenAnswers(monkeypatch, [*tokenizer.encode("ខ្មែរ"), tokenizer.end_of_text_id])
    monkeypatch.setattr(prompts, "open_model", lambda args: LanguageModel("tiny", CONFIG, PARAMS, tokenizer))


@pytest.fixture
def suite(tmp_path) -> str:
    (tmp_path / "suite.jsonl").write_text(LINE, encoding="utf-8")
    return str(tmp_path / "suite.jsonl")


def test_the_table_and_the_texts_are_printed_and_the_figures_written(suite, tmp_path):
    code, out, err = tonsai("prompts", "--model", "m", "--suite", suite, "--show", "--json", str(tmp_path / "f.json"))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "[a] ភាសា → ខ្មែរ"
    assert lines[2] == "tiny: means from 0 to 1"
    assert "toxic" not in lines[3], "nothing judges toxicity"
    assert lines[4].split()[:5] == ["km", "continuation", "1", "1.00", "0.00"]
    assert "  too short   1 if the model ended the text before the prompt's min_characters; low is good" in lines
    written = json.loads((tmp_path / "f.json").read_text())
    assert written["model"] == "tiny"
    assert written["means"]["km"]["premature_stop"] == 1.0
    assert written["prompts"][0]["continuation"] == "ខ្មែរ"


def test_words_and_a_classifier_judge_toxicity(suite, tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("ខ្មែរ\n", encoding="utf-8")
    _, out, _ = tonsai("prompts", "--model", "m", "--suite", suite, "--toxic-words", str(tmp_path / "words.txt"))
    assert out.splitlines()[2].split()[-1] == "1.00"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge_of_a_command.py").write_text("def judge(text):\n    return 0.25\n")
    _, out, _ = tonsai("prompts", "--model", "m", "--suite", suite, "--toxicity", "judge_of_a_command:judge")
    assert out.splitlines()[2].split()[-1] == "0.25"


def test_a_run_that_chats_gets_messages_and_its_step_is_named(suite, tokenizer, tmp_path, monkeypatch):
    config = default_config()
    config.sample.chat = True
    run = Run("runs/chat", CONFIG, PARAMS, tokenizer, tmp_path, config, step=1200)
    monkeypatch.setattr(prompts, "open_model", lambda args: run)
    answers = WrittenAnswers(monkeypatch, tokenizer.encode("ខ្មែរ"))
    _, out, _ = tonsai("prompts", "--workdir", "runs/chat", "--suite", suite)
    assert out.startswith("runs/chat, step 1,200: means from 0 to 1\n")
    assert answers.prompts[0][0] in tokenizer.special_tokens.values(), "the chat template begins with a special token"
    assert answers.prompts[0] != [tokenizer.end_of_text_id, *tokenizer.encode("ភាសា")]


@pytest.mark.parametrize("flags", [[], ["--seed", "1"], ["--max-new-tokens", "8"], ["--suite", "SUITE"], ["--chat"]])
def test_the_texts_of_a_run_are_kept_where_they_are_those_that_the_run_would_write(
    flags: list[str], suite, tokenizer, tmp_path, monkeypatch
):
    run = Run("runs/mine", CONFIG, PARAMS, tokenizer, tmp_path / "mine", default_config(), step=1200)
    monkeypatch.setattr(prompts, "open_model", lambda args: run)
    monkeypatch.setattr("tonsai_jax.evaluation.prompt_suite.prompts.SUITE", Path(suite))
    WrittenAnswers(monkeypatch, [*tokenizer.encode("ខ្មែរ"), tokenizer.end_of_text_id])
    code, out, _ = tonsai("prompts", "--workdir", "runs/mine", *(suite if flag == "SUITE" else flag for flag in flags))
    assert code == 0
    path = tmp_path / "mine" / "prompt_suite" / "step-001200.jsonl"
    assert path.exists() == (not flags) == (f"written to {path}" in out)
    if not flags:
        [line] = path.read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["continuation"] == "ខ្មែរ"


@pytest.mark.parametrize(
    ("line", "words", "message"),
    [
        ('{"id": "a"}', (), "suite.jsonl: line 1: the key 'kind' is missing"),
        (LINE, ("--max-new-tokens", "0"), "--max-new-tokens=0 must be at least 1"),
        (LINE, ("--toxic-words", "none.txt"), "none.txt: cannot be read (No such file or directory); check the path"),
        (
            LINE.replace("30", "300"),
            (),
            "tiny: no prompt fits with its new tokens into the model's context of 128 tokens",
        ),
    ],
)
def test_a_mistake_is_one_line(line, words, message, suite):
    Path(suite).write_text(line, encoding="utf-8")
    code, _, err = tonsai("prompts", "--model", "m", "--suite", suite, *words)
    [printed] = err.splitlines()
    assert code == 1
    assert message in printed
