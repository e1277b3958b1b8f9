"""`tonsai chat` in a terminal and in a pipe: lines are messages, answers go to standard output and nothing else does."""

import builtins
import io
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tests.support.console import tonsai
from tests.support.tiny_chat import CONFIG, PARAMS, WrittenAnswers, chat_of, chat_tokenizer
from tests.support.tiny_model import tiny_tokenizer
from tonsai_jax.chat.conversation import Message
from tonsai_jax.chat.template import ChatTemplate
from tonsai_jax.chat_ui.terminal import Terminal
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.weights import Weights
from tonsai_jax.inference import load
from tonsai_jax.inference.chat import Chat
from tonsai_jax.inference.load import Run
from tonsai_jax.sampling import Sampling


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return chat_tokenizer(tmp_path_factory.mktemp("tokenizer") / "chat")


@pytest.fixture(scope="module")
def chat(tokenizer):
    return chat_of(tokenizer)


def talk(chat: Chat, new: int = 20) -> None:
    Terminal(chat, max_new_tokens=new, sampling=Sampling(temperature=0), seed=0).run("tiny")


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str | BaseException) -> list[str]:
    """A person types these lines at a terminal, or presses Ctrl-C; then Ctrl-D. Returns the prompts that are shown."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    typed, prompts = iter([*lines, EOFError()]), []

    def read(prompt=""):
        prompts.append(prompt)
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", read)
    return prompts


def prompt_of(tokenizer, *texts: str, system: str = "") -> list[int]:
    messages = [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    return ChatTemplate.of(tokenizer).prompt([*([Message("system", system)] if system else []), *messages])


def test_each_line_of_a_pipe_is_a_message_and_each_answer_a_line(chat, tokenizer, monkeypatch, capsys):
    model = WrittenAnswers(monkeypatch, tokenizer.encode("yes"))
    pipe(monkeypatch, "one\n\n  two  \n")
    talk(chat)
    assert capsys.readouterr() == ("yes\nyes\n", "")
    assert model.prompts == [prompt_of(tokenizer, "one"), prompt_of(tokenizer, "one", "yes", "two")]


def test_reset_forgets_the_conversation_and_keeps_the_system_prompt(chat, tokenizer, monkeypatch, capsys):
    model = WrittenAnswers(monkeypatch, tokenizer.encode("yes"))
    pipe(monkeypatch, "/system Be kind.\none\n/reset\ntwo\n/system\nthree\n/quit\nfour")
    talk(chat)
    assert capsys.readouterr().out == "yes\nyes\nyes\n"
    assert model.prompts == [
        prompt_of(tokenizer, "one", system="Be kind."),
        prompt_of(tokenizer, "two", system="Be kind."),
        prompt_of(tokenizer, "two", "yes", "three"),
    ]


def test_a_text_that_begins_with_a_slash_follows_a_space(chat, tokenizer, monkeypatch, capsys):
    model = WrittenAnswers(monkeypatch, [])
    pipe(monkeypatch, " /etc\n")
    talk(chat)
    assert model.prompts == [prompt_of(tokenizer, "/etc")]
    assert capsys.readouterr() == ("\n", "(the model ended its answer at once)\n")


def test_a_question_without_an_answer_is_not_in_the_history(chat, tokenizer, monkeypatch, capsys):
    model = WrittenAnswers(monkeypatch, [])
    pipe(monkeypatch, "one\ntwo\n")
    talk(chat)
    assert model.prompts[1] == prompt_of(tokenizer, "two")


def test_a_mistake_in_a_pipe_ends_the_chat(chat, monkeypatch):
    pipe(monkeypatch, "/rest\none\n")
    with pytest.raises(UserError, match="/rest: no such command; /help shows them"):
        talk(chat)


def test_a_mistake_at_a_terminal_is_one_line_and_the_chat_goes_on(chat, tokenizer, monkeypatch, capsys):
    WrittenAnswers(monkeypatch, tokenizer.encode("yes"))
    prompts = type_lines(monkeypatch, "/rest", "x" * 200, "one")
    talk(chat)
    out, err = capsys.readouterr()
    assert out == "yes\n"
    assert [line.partition(";")[0] for line in err.splitlines() if line.startswith("error: ")] == [
        "error: /rest: no such command",
        "error: the message has 204 tokens, and only 108 fit: the model's context_length=128 less max_new_tokens=20",
    ]
    assert prompts == ["> "] * 4


def test_ctrl_c_stops_an_answer_and_what_was_said_stays_in_the_history(chat, tokenizer, monkeypatch, capsys):
    model = WrittenAnswers(monkeypatch, tokenizer.encode("one two three"))
    whole = model._generate
    pressed: list[str] = []

    def pressing_once(prompts, end_ids):
        for count, ids in enumerate(whole(prompts, end_ids)):
            if count == 5 and not pressed:
                pressed.append("Ctrl-C")
                raise KeyboardInterrupt
            yield ids

    monkeypatch.setattr(model, "_generate", pressing_once)
    type_lines(monkeypatch, "count", "go on", KeyboardInterrupt(), "again")
    talk(chat, new=30)
    out, err = capsys.readouterr()
    first, *others = out.splitlines()
    assert 0 < len(first) < len("one two three")
    assert others == ["one two three"] * 2
    assert "(stopped)" in err
    assert "(Ctrl-D ends the chat)" in err  # Ctrl-C at the prompt only drops the line
    assert model.prompts[1] == prompt_of(tokenizer, "count", first, "go on")


def test_the_reader_is_told_what_the_model_does_not_see_and_what_was_cut(chat, tokenizer, monkeypatch, capsys):
    WrittenAnswers(monkeypatch, tokenizer.encode("abcdefghi"))
    pipe(monkeypatch, "a long question about many words\n" * 4)
    talk(chat, new=9)
    err = capsys.readouterr().err.splitlines()
    assert "(2 old messages left out: the model's context is full)" in err
    assert err[0] == "(cut after 9 tokens; --max-new-tokens sets the limit)"


def test_input_that_is_not_utf8_is_refused(chat, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    with pytest.raises(UserError, match="standard input is not UTF-8 text"):
        talk(chat)


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    """A model in Hugging Face format."""
    folder = tmp_path_factory.mktemp("model") / "chat"
    return export(CONFIG, PARAMS, tokenizer, folder)


def test_the_command_opens_a_model_and_answers_a_pipe(model, tokenizer, monkeypatch):
    seen = WrittenAnswers(monkeypatch, tokenizer.encode("yes"))
    pipe(monkeypatch, "one\n")
    assert tonsai("chat", "--model", str(model)) == (0, "yes\n", "")
    assert seen.prompts == [prompt_of(tokenizer, "one")]


def test_the_command_opens_a_checkpoint_of_a_run(tokenizer, monkeypatch):
    def load_run(workdir, step):
        assert (workdir, step) == ("runs/tiny", 30)
        return Run("run", CONFIG, PARAMS, tokenizer, Path(workdir), ConfigDict(), step)

    monkeypatch.setattr(load, "load_run", load_run)
    WrittenAnswers(monkeypatch, tokenizer.encode("yes"))
    type_lines(monkeypatch, "one")
    code, out, err = tonsai("chat", "--workdir", "runs/tiny", "--step", "30")
    assert (code, out) == (0, "yes\n")
    assert err.startswith("runs/tiny, step 30: write a message; /help shows the commands, Ctrl-D ends the chat\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "one of the arguments --workdir --model is required (tonsai chat --help)"),
        (("--model", "absent"), "--model=absent: no such folder"),
        (("--model", "MODEL", "--step", "3"), "--model MODEL: is not the folder of a run, so it has no step 3"),
        (("--model", "MODEL", "--top-p", "2"), "top_p=2.0 must be in (0, 1]"),
        (("--model", "MODEL", "--compare", "MODEL"), "--compare shows two models side by side on the page: add --web"),
        (
            ("--model", "MODEL", "--port", "80"),
            "--port is that of the page for the browser: add --web, or leave it out",
        ),
        (
            ("--model", "MODEL", "--host", "::"),
            "--host is that of the page for the browser: add --web, or leave it out",
        ),
        (("--workdir", "MODEL"), "MODEL: this is an exported model, not a run"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(words, message, model):
    code, out, err = tonsai("chat", *(str(model) if word == "MODEL" else word for word in words))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {message.replace('MODEL', str(model))}")


@pytest.mark.parametrize("limit", ["0", "128"])
def test_a_limit_that_cannot_be_is_refused_before_the_chat_begins(model, monkeypatch, limit):
    prompts = type_lines(monkeypatch, "one")
    code, _, err = tonsai("chat", "--model", str(model), "--max-new-tokens", limit)
    assert (code, err.count("\n"), prompts) == (1, 1, [])
    assert err.startswith(
        f"error: max_new_tokens={limit} must be at least 1, and less than the model's context_length=128"
    )


def test_a_model_without_a_chat_template_is_refused_before_its_weights_are_read(tmp_path, monkeypatch):
    folder = export(CONFIG, PARAMS, tiny_tokenizer(tmp_path / "plain"), tmp_path / "base")
    monkeypatch.setattr(Weights, "params", lambda *_: pytest.fail("read"))
    code, _, err = tonsai("chat", "--model", str(folder))
    assert (code, err.count("\n")) == (1, 1)
    assert f"error: {folder}: this tokenizer has no chat template; take the tokenizer of a chat model" in err
