"""GRPO in small: prompts, rewards, advantages, and a tiny model that earns more of a planted reward."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from tests.support.tiny_model import ENGLISH
from tests.support.tiny_run import TinyRun
from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.commands import evaluate
from tonsai_jax.errors import UserError
from tonsai_jax.inference.load import load_run
from tonsai_jax.reinforce import grpo as grpo_module
from tonsai_jax.reinforce.grpo import Settings, advantages, grpo
from tonsai_jax.reinforce.prompts import read_prompts
from tonsai_jax.reinforce.rewards import BUILT_IN, reward_of
from tonsai_jax.runtime.signals import StopRequest
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer


@pytest.mark.parametrize(
    ("rule", "text", "reward"),
    [
        ("contains", "It is 12.", 1),
        ("contains", "It is 21.", 0),
        ("equals", " 12\n", 1),
        ("equals", "12.", 0),
    ],
)
def test_the_built_in_rules_compare_with_the_answer(rule, text, reward):
    assert reward_of(rule)(text, {"answer": 12}) == reward


def test_a_rule_can_be_a_function_of_a_module_in_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules_of_a_test.py").write_text(
        "def length(text, record):\n    return len(text)\n\ndef bad(text, record):\n    return float('nan')\n"
    )
    assert reward_of("rules_of_a_test:length")("four", {}) == 4
    with pytest.raises(UserError, match=r"--reward=rules_of_a_test:bad: gave nan for the answer 'x'"):
        reward_of("rules_of_a_test:bad")("x", {})
    with pytest.raises(UserError, match=r"--reward=rules_of_a_test:none: cannot be loaded"):
        reward_of("rules_of_a_test:none")
    with pytest.raises(UserError, match=r"--reward='equal' is not known; did you mean 'equals'"):
        reward_of("equal")


def test_an_advantage_is_how_far_an_answer_is_above_its_group():
    found = advantages(np.array([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0]), group_size=4)
    np.testing.assert_allclose(found, [1, -1, -1, 1, 0, 0, 0, 0], rtol=1e-4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([Example(ENGLISH, "en")] * 5, vocab_size=300, output_dir=folder)
    return Tokenizer.from_folder(folder)


def prompts_of(folder, tokenizer, *records, **settings):
    file = folder / "prompts.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return read_prompts(str(file), tokenizer, **{"max_prompt_tokens": 60} | settings)


def test_prompts_come_in_the_usual_forms_without_their_answers(tmp_path, tokenizer):
    dialog = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    found = prompts_of(
        tmp_path, tokenizer, {"prompt": "Who?"}, {"question": "Who?", "answer": "Me."}, {"messages": dialog}
    )
    assert len({prompt.ids for prompt in found}) == 1
    assert tokenizer.decode(list(found[0].ids)).endswith("<|user|>Who?<|end|><|assistant|>")
    assert found[1].record["answer"] == "Me."


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "Who?"}, "line 2: not a prompt: it has none of the fields prompt, question"),
        ({"prompt": " "}, "line 2: not a prompt: the prompt is empty"),
        ({"prompt": "Who?"}, "line 2: not a prompt: the answer is missing"),
        ({"prompt": "Who? " * 30, "answer": "Me"}, r"line 2: this prompt has \d+ tokens, .* only 60 fit"),
    ],
)
def test_a_bad_prompt_is_named_by_file_and_line(tmp_path, tokenizer, record, reason):
    with pytest.raises(UserError, match=f"prompts.jsonl: {reason}"):
        prompts_of(tmp_path, tokenizer, {"prompt": "Who?", "answer": "Me"}, record, needed=("answer",))


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match="--group-size=1 must be at least 2"):
        Settings("runs/x", "equals", group_size=1)
    with pytest.raises(UserError, match="--learning-rate=0 must be above 0"):
        Settings("runs/x", "equals", learning_rate=0)


# The loop


@pytest.fixture(scope="session")
def base(made_once, rows):
    """The workdir of a run on text; the same run as in training/test_train.py."""
    return made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train()) / "run"


def practice(folder, base, workdir, *, stop_after=None):
    """Twelve rounds in which answers with many letters "e" are rewarded; returns the printed lines."""
    (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "Tell me {n}."}}\n' for n in range(6)))
    lines = []

    def say(line):
        lines.append(line)
        if stop_after is not None and line.lstrip().startswith(f"round {stop_after:>5}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    settings = Settings(
        str(base), "a_test:letters", prompts_per_round=4, updates=2, max_new_tokens=12, learning_rate=3e-3
    )
    with StopRequest(say) as stop_request:
        grpo(
            settings,
            str(folder / "prompts.jsonl"),
            workdir,
            lambda text, record: text.count("e") / 10,
            rounds=12,
            checkpoint_every=100,
            micro_batch_size=16,
            say=say,
            stop_request=stop_request,
        )
    return lines


@pytest.mark.full
def test_a_model_earns_more_of_a_reward_and_a_run_that_stopped_goes_on_as_if_it_had_not(
    tmp_path, base, rows, monkeypatch
):
    practice(tmp_path, base, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["train/reward"] for line in lines]
    assert len(rewards) == 12
    assert np.mean(rewards[-3:]) > 3 * np.mean(rewards[:3])
    assert lines[-1]["train/kl"] > lines[0]["train/kl"]

    lines = practice(tmp_path, base, tmp_path / "stopped", stop_after=5)
    assert "saved after round 6 of 12: SIGTERM" in lines[-1] or "saved after round 5 of 12: SIGTERM" in lines[-1]
    practice(tmp_path, base, tmp_path / "stopped")
    ours, theirs = load_run(tmp_path / "stopped"), load_run(tmp_path / "whole")
    assert ours.step == theirs.step == 24
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["optimizer"]["name"] == "adamw"
    np.testing.assert_array_equal(ours.params["token_embedding"], theirs.params["token_embedding"])

    with pytest.raises(
        UserError, match=r"/whole: this is a run of `tonsai grpo`.*another --workdir and --config.init_from="
    ):
        TinyRun(rows, tmp_path / "whole").train()
    monkeypatch.setattr("sys.argv", ["evaluate", "--workdir", str(tmp_path / "whole")])
    with pytest.raises(
        UserError, match="/whole: this run learned without token rows; name those to evaluate on with --data-dir"
    ):
        evaluate.main()

    other = Settings(str(base), "a_test:letters", group_size=4)
    with pytest.raises(UserError, match=r"its run has other settings \(--prompts-per-round was 4, --group-size was 8"):
        grpo(
            other, str(tmp_path / "prompts.jsonl"), tmp_path / "whole", BUILT_IN["equals"], rounds=12,
            checkpoint_every=1, micro_batch_size=0, say=print, stop_request=StopRequest(print),
        )  # fmt: skip


def progress_of(workdir):
    checkpoints = Checkpoints(workdir, KeepPolicy(last=2))
    step = checkpoints.resume_step(print)
    assert step is not None
    metadata = checkpoints.resume_metadata(step)
    checkpoints.close()
    return metadata


@pytest.mark.full
def test_a_run_in_float16_goes_on_with_its_loss_scale(tmp_path, base, monkeypatch):
    def in_float16(where, opened=grpo_module.open_pretrained):
        pretrained = opened(where)
        model_config = dataclasses.replace(pretrained.model_config, dtype="float16")
        return dataclasses.replace(pretrained, model_config=model_config)

    monkeypatch.setattr(grpo_module, "open_pretrained", in_float16)
    practice(tmp_path, base, tmp_path / "run", stop_after=5)
    saved = progress_of(tmp_path / "run")
    assert saved["step"] in (10, 12)
    practice(tmp_path, base, tmp_path / "run")
    ended = progress_of(tmp_path / "run")
    assert ended["loss_scale"]["scale"] == saved["loss_scale"]["scale"]
    assert ended["loss_scale"]["good_steps"] == saved["loss_scale"]["good_steps"] + 24 - saved["step"]
