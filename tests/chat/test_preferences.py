"""Pairs of a chosen and a rejected answer: the forms that are read, what is refused, and which tokens are learned."""

import json

import numpy as np
import pytest

from tests.support.tiny_model import KHMER
from tonsai_jax.chat.conversation import BadRecordError, Message
from tonsai_jax.chat.preferences import pair_of
from tonsai_jax.data.conversations import ChatSource, write_conversations
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.data.rows import open_rows
from tonsai_jax.errors import UserError
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer


def messages(*texts):
    """User and assistant by turns."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def texts(conversation):
    return [message.content for message in conversation]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"question": "q", "chosen": "good", "rejected": "bad"},
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        {"prompt": messages("q"), "chosen": messages("q", "good")[1:], "rejected": messages("q", "bad")[1:]},
        {"prompt": "q", "chosen": messages("q", "good"), "rejected": messages("q", "bad")},
        {"chosen": messages("q", "good"), "rejected": messages("q", "bad"), "score_chosen": 3.0},
    ],
)
def test_the_usual_forms_are_read_alike(record):
    pair = pair_of(record)
    assert pair.chosen == (Message("user", "q"), Message("assistant", "good"))
    assert pair.rejected == (Message("user", "q"), Message("assistant", "bad"))
    assert pair.shared == 1


def test_what_comes_before_the_answers_is_kept():
    pair = pair_of({"system": "s", "instruction": "a", "input": "b", "chosen": "good", "rejected": "bad"})
    assert texts(pair.chosen) == ["s", "a\n\nb", "good"]
    assert pair.shared == 2
    long = {"chosen": messages("q", "a", "q2", "good"), "rejected": messages("q", "a", "q2", "bad")}
    assert pair_of(long).shared == 3


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "q", "chosen": "good"}, "the rejected is missing"),
        ({"prompt": "q", "chosen": " ", "rejected": "bad"}, "the chosen is empty"),
        ({"prompt": "", "chosen": "good", "rejected": "bad"}, "the prompt is empty"),
        ({"chosen": "good", "rejected": "bad"}, "it has no prompt"),
        ({"prompt": "q", "chosen": "same", "rejected": "same "}, "are the same"),
        ({"chosen": messages("q", "good"), "rejected": messages("p", "bad")}, "differ in message 1"),
        ({"chosen": messages("q", "a"), "rejected": messages("q", "a", "p", "b")}, "only the beginning"),
        ({"chosen": messages("q"), "rejected": messages("q", "bad")}, "its chosen: it does not end with an answer"),
    ],
)
def test_a_record_that_is_no_pair_is_refused_and_the_reason_said(record, reason):
    with pytest.raises(BadRecordError, match=reason):
        pair_of(record)


# Packed rows


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([Example(KHMER, "km")] * 5, vocab_size=300, output_dir=folder)
    return folder


def write(folder, tokenizer_dir, records, **settings):
    file = folder / "pairs.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    settings = {"row_tokens": 64, "val_ratio": 0.0, "seed": 0, "progress": False} | settings
    (packed,) = write_conversations(
        [ChatSource("pairs", "mul", (str(file),), kind="pairs")], tokenizer_dir, folder / "rows", **settings
    )
    return packed


def test_a_row_holds_whole_pairs_and_learns_only_where_they_differ(tmp_path, tokenizer_dir):
    records = [{"prompt": str(n), "chosen": f"{n}!", "rejected": f"{n}?" * (1 + n % 3)} for n in range(12)]
    records.append({"chosen": messages("1", "2", "3", "yes"), "rejected": messages("1", "2", "3", "no")})
    packed = write(tmp_path, tokenizer_dir, records)
    assert packed.counts["conversations"] == packed.source.splits["train"].documents == 13
    manifest = read_manifest(tmp_path / "rows")
    assert manifest.sources["pairs"].kind == "pairs"
    rows, tokenizer = open_rows(manifest, "pairs", "train"), Tokenizer.from_folder(tokenizer_dir)
    found: list[tuple[str, str]] = []
    for number in range(len(rows)):
        ids, marks = rows.packed_window(number)
        segments = np.split(np.arange(65), np.flatnonzero(marks & BEGIN)[1:])
        learned = [tokenizer.decode(ids[where][marks[where] & ANSWER > 0].tolist()) for where in segments]
        if not learned[-1]:
            learned.pop()  # padding
        found += zip(learned[::2], learned[1::2], strict=True)
    wanted = [(f"{n}!<|end|>", f"{n}?" * (1 + n % 3) + "<|end|>") for n in range(12)]
    assert sorted(found) == sorted([*wanted, ("yes<|end|>", "no<|end|>")])


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ({"prompt": "q", "chosen": "good"}, "line 2: not a pair: the rejected is missing"),
        ({"prompt": "q", "chosen": "long " * 20, "rejected": "x"}, "line 2: its chosen and rejected have together"),
        (
            {"prompt": "q", "chosen": "ក\u200b", "rejected": "ក"},
            "line 2: not a pair: its chosen and rejected are the same",
        ),
    ],
)
def test_a_bad_pair_is_named_by_file_and_line(tmp_path, tokenizer_dir, second_line, message):
    records = [{"prompt": "q", "chosen": "good", "rejected": "bad"}, second_line]
    with pytest.raises(UserError, match=f"pairs.jsonl: {message}"):
        write(tmp_path, tokenizer_dir, records)
    assert write(tmp_path, tokenizer_dir, records, on_error="skip").source.splits["train"].documents == 1
