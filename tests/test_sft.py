"""The whole path of instruction tuning: invented pairs in Khmer and English, `tonsai prepare-sft`, training, answers."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_run import TinyRun
from tonsai_jax.chat.conversation import Message
from tonsai_jax.commands.prepare_sft import main as prepare_sft
from tonsai_jax.hooks import COMPLETE_FILE
from tonsai_jax.inference.chat import Chat
from tonsai_jax.inference.generate import Generator
from tonsai_jax.inference.load import load_run
from tonsai_jax.sampling import Sampling

ROW_TOKENS = 64
ANIMALS = {"cat": "ឆ្មា", "dog": "ឆ្កែ", "cow": "គោ", "bird": "បក្សី", "fish": "ត្រី"}
PLACES = {"river": "ទន្លេ", "forest": "ព្រៃ", "market": "ផ្សារ", "school": "សាលា", "field": "វាល"}


def pairs(count: int) -> list[dict[str, str]]:
    """Questions whose answers nobody can guess; half are in Khmer."""
    rng = random.Random(0)
    found: dict[str, str] = {}
    while len(found) < count:
        animal, place, number = rng.choice(list(ANIMALS)), rng.choice(list(PLACES)), rng.randrange(100)
        if len(found) % 2:
            found[f"Where is {animal} {number}?"] = f"The {animal} is in the {place}."
        else:
            found[f"{ANIMALS[animal]}ទី{number} នៅឯណា?"] = f"{ANIMALS[animal]}នៅ{PLACES[place]}។"
    return [{"question": question, "answer": answer} for question, answer in found.items()]


@pytest.mark.full
def test_a_run_on_invented_pairs_learns_them_and_answers(rows: Path, tmp_path: Path) -> None:
    given = pairs(60)
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(pair, ensure_ascii=False) for pair in given), encoding="utf-8")
    words = ["--input", str(file), "--tokenizer-dir", str(rows / "tokenizer"), "--val-ratio", "0"]
    prepare_sft([*words, "--row-tokens", str(ROW_TOKENS), "--output-dir", str(tmp_path / "rows")])

    length = (
        "epochs=40",
        "steps=0",
        f"seq_len={ROW_TOKENS}",
        "global_batch_size=8",
        f"model.context_length={ROW_TOKENS}",
    )
    settings = (
        "model.dropout=0.0",
        "model.document_mask=True",
        "log_every=50",
        "checkpoint.every=1000",
        "sample.chat=True",
    )
    prompt = f"sample.prompts=({given[0]['question']!r},)"
    run = TinyRun(tmp_path / "rows", tmp_path / "run", (*length, *settings, prompt, "sample.temperature=0.0"))
    printed = run.train()

    loaded = load_run(tmp_path / "run")
    chat = Chat(Generator(loaded.model_config, loaded.params, loaded.tokenizer))
    asked = random.Random(1).sample(given, 20)
    greedy: dict[str, Any] = {"max_new_tokens": 30, "sampling": Sampling(temperature=0), "seed": 0}
    answers = ["".join(chat.reply([Message("user", pair["question"])], **greedy)) for pair in asked]
    assert sum(answer == pair["answer"] for answer, pair in zip(answers, asked, strict=True)) >= 19
    [sample] = json.loads((tmp_path / "run" / COMPLETE_FILE).read_text())["samples"]
    assert sample["prompt"] == given[0]["question"]
    assert f"tonsai chat --workdir {tmp_path / 'run'}" in printed
