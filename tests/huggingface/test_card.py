"""The model card says truthfully what a run learned from, and shows how to ask a model that learned to answer."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tests.support.rows import write_rows
from tests.support.tiny_model import config_with
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.config import default_config
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.files import write_json
from tonsai_jax.huggingface.card import model_card
from tonsai_jax.huggingface.card_details import CardDetails, SourceDetails, details_of_run
from tonsai_jax.saved_config import to_json
from tonsai_jax.training.state import TrainState

QUESTION = "tokenizer.apply_chat_template("
NOT_TAUGHT = "has not been taught to follow instructions"


def card_of(details: CardDetails) -> str:
    return model_card("tiny", config_with(), details, chat_template=True)


def config_of_run(rows: Path, **kinds: str) -> Any:
    write_rows(rows, {name: np.arange(100) for name in kinds}, kinds=kinds)
    config = default_config()
    config.data.dir = str(rows)
    return config


def write_run(workdir: Path, config: Any) -> None:
    """A run with a checkpoint, as far as a card of a later run reads it."""
    manifest = read_manifest(config.data.dir)
    metadata = {
        "step": 1,
        "data": {"rows": {name: manifest.identity(name) for name in manifest.sources}},
        "model": dataclasses.asdict(config_with()),
        "config": to_json(config),
    }
    write_json(workdir / "config.json", to_json(config))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(TrainState(jnp.int32(1), {"scale": jnp.ones(1)}, {"count": jnp.ones(1)}), metadata)
    checkpoints.close()


def test_a_model_of_plain_text_from_scratch_is_a_base_model(tmp_path: Path) -> None:
    details = details_of_run(tmp_path, config_of_run(tmp_path / "rows", wiki="text"), 9)
    assert (details.learned_from, details.answers) == (("text",), False)
    card = card_of(details)
    assert NOT_TAUGHT in card
    assert QUESTION not in card


def test_a_model_of_conversations_is_asked_in_its_chat_template(tmp_path: Path) -> None:
    config = config_of_run(tmp_path / "rows", wiki="text", questions="conversations")
    details = details_of_run(tmp_path, config, 9)
    assert (details.learned_from, details.answers) == (("text", "conversations"), True)
    card = card_of(details)
    assert QUESTION in card
    assert "add_generation_prompt=True" in card
    assert "This run learned from plain text and the answers in conversations." in card
    assert "| questions | km | conversations |" in card
    assert NOT_TAUGHT not in card


def test_a_source_that_is_never_read_taught_nothing(tmp_path: Path) -> None:
    config = config_of_run(tmp_path / "rows", wiki="text", questions="conversations")
    config.data.weights = {"wiki": 1.0, "questions": 0.0}
    assert details_of_run(tmp_path, config, 9).learned_from == ("text",)
    config.stages = ({"steps": 1}, {"steps": 1, "weights": {"questions": 1.0}})
    assert details_of_run(tmp_path, config, 9).learned_from == ("text", "conversations")


def test_preferences_and_rewards_are_named(tmp_path: Path) -> None:
    config = config_of_run(tmp_path / "rows", choices="pairs")
    config.init_from, config.loss.objective = "hf:org/chat", "dpo"
    card = card_of(details_of_run(tmp_path, config, 9))
    assert "It was trained on pairs of a better and a worse answer;" in card
    assert QUESTION in card
    config.data.dir = str(tmp_path / "gone")
    assert details_of_run(tmp_path, config, 9).learned_from == ("pairs",)
    practice = default_config()
    practice.init_from = "hf:org/chat"
    saved = {"data": {"version": "grpo", "rows": {}}, "grpo": {}}
    card = card_of(details_of_run(tmp_path, practice, 9, saved))
    assert "It was trained on rewards for its own answers to prompts (GRPO);" in card
    assert "plain text" not in card
    assert QUESTION in card


def test_a_run_on_text_that_continues_a_chat_model_still_answers(tmp_path: Path) -> None:
    """The earlier run is known by its checkpoint, also through a run between the two."""
    earlier = config_of_run(tmp_path / "conversations", questions="conversations")
    between = config_of_run(tmp_path / "text", wiki="text")
    between.init_from = str(tmp_path / "sft")
    write_run(tmp_path / "sft", earlier)
    write_run(tmp_path / "between", between)
    config = between.copy_and_resolve_references()
    config.init_from = str(tmp_path / "between")
    details = details_of_run(tmp_path, config, 9)
    assert (details.learned_from, details.answers) == (("text",), True)
    card = card_of(details)
    assert "An earlier run taught it to answer, this one went on with plain text" in card
    assert QUESTION in card


def test_what_is_not_known_is_not_claimed(tmp_path: Path) -> None:
    """Token rows that are gone: what a run samples tells whether it learned to answer."""
    config = default_config()
    config.data.dir = str(tmp_path / "gone")
    card = card_of(details_of_run(tmp_path, config, 9))
    assert "What it learned from is not recorded" in card
    assert NOT_TAUGHT not in card
    config.sample.chat = True
    assert QUESTION in card_of(details_of_run(tmp_path, config, 9))


def test_scores_of_conversations_are_those_of_answers() -> None:
    source = SourceDetails("questions", "km", 1.0, kind="conversations")
    details = CardDetails(
        sources=(source,), bits_per_byte={"km": 1.5}, before={"km": 2.5}, base_model="org/base", answers=True
    )
    card = card_of(details)
    assert "Bits per byte on held-out answers" in card
    assert "Before: the model that this run continued from." in card  # org/base may be further away


def test_without_a_chat_template_no_card_calls_it() -> None:
    assert QUESTION not in model_card("tiny", config_with(), CardDetails(answers=True))
