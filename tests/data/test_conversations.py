"""`tonsai prepare-sft`: files of conversations become packed rows, and a bad record is named by file and line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.made_once import MadeOnce
from tests.support.rows import write_rows
from tests.support.tiny_model import ENGLISH, KHMER
from tonsai_jax.chat.preview import preview
from tonsai_jax.chat.template import Encoded
from tonsai_jax.commands.prepare_sft import main
from tonsai_jax.data.conversations import ChatSource, add_conversations, figures, write_conversations
from tonsai_jax.data.loader import Loader
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.data.order import DataOrder
from tonsai_jax.data.rows import open_rows
from tonsai_jax.errors import UserError
from tonsai_jax.files import sha256_file
from tonsai_jax.stages import Stage
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer

ROW = 63


@pytest.fixture(scope="module")
def tokenizer_dir(made_once: MadeOnce) -> Path:
    examples = [Example(KHMER, "km"), Example(ENGLISH, "en")] * 5
    return made_once("chat_tokenizer", lambda folder: train_tokenizer(examples, vocab_size=400, output_dir=folder))


def write(path: Path, *records: object) -> Path:
    lines = (each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pairs(count: int) -> list[dict[str, str]]:
    return [{"question": f"What is {n}?", "answer": f"ចម្លើយ {n}"} for n in range(count)]


def prepare(file: Path, tokenizer_dir: Path, output_dir: Path, **settings: object):
    source = ChatSource("chat", "km", (str(file),))
    given: dict[str, Any] = {"row_tokens": ROW, "val_ratio": 0.1, "seed": 0, "progress": False} | settings
    return write_conversations([source], tokenizer_dir, output_dir, **given)


def segments(folder: Path, split: str) -> list[str]:
    """The conversations of a split as a person sees them, out of its rows."""
    manifest, tokenizer = read_manifest(folder), Tokenizer.from_folder(folder / "tokenizer")
    rows, found = open_rows(manifest, "chat", split), []
    for number in range(len(rows)):
        ids, marks = rows.packed_window(number)
        for part in np.split(np.arange(len(ids)), np.flatnonzero(marks & BEGIN)[1:]):
            if ids[part[0]] != tokenizer.pad_id:
                answers = ((marks[part] & ANSWER) != 0).tolist()
                found.append(preview(Encoded(ids[part].tolist(), answers), tokenizer, colored=False))
    return found


def test_every_conversation_is_in_one_of_the_splits_with_its_answer_marked(tmp_path: Path, tokenizer_dir: Path) -> None:
    file = write(tmp_path / "chat.jsonl", *pairs(40))
    [packed] = prepare(file, tokenizer_dir, tmp_path / "rows")
    train, validation = segments(tmp_path / "rows", "train"), segments(tmp_path / "rows", "validation")
    assert (len(train), len(validation)) == (36, 4)
    expected = [f"<|endoftext|><|user|>What is {n}?<|end|><|assistant|>⟦ចម្លើយ {n}<|end|>⟧" for n in range(40)]
    assert sorted(train + validation) == sorted(expected)
    answers = {split: packed.source.splits[split].bytes for split in ("train", "validation")}
    assert sum(answers.values()) == sum(len(f"ចម្លើយ {n}".encode()) for n in range(40))
    assert [line["conversations"] for line in figures([packed])] == [36, 4]


def test_a_conversation_that_is_there_twice_is_kept_once(tmp_path: Path, tokenizer_dir: Path) -> None:
    file = write(tmp_path / "chat.jsonl", *pairs(20), *pairs(5))
    [packed] = prepare(file, tokenizer_dir, tmp_path / "rows")
    assert packed.counts == {"conversations": 25, "duplicates": 5}
    assert sum(split.documents for split in packed.source.splits.values()) == 20


def test_validation_conversations_can_be_given(tmp_path: Path, tokenizer_dir: Path) -> None:
    train, validation = write(tmp_path / "train.jsonl", *pairs(20)), write(tmp_path / "held.jsonl", *pairs(25)[18:])
    source = ChatSource("chat", "km", (str(train),), validation=(str(validation),))
    [packed] = write_conversations(
        [source], tokenizer_dir, tmp_path / "rows", row_tokens=ROW, val_ratio=0.5, seed=0, progress=False
    )
    assert packed.counts == {"conversations": 27, "duplicates": 2}
    held_out = segments(tmp_path / "rows", "validation")
    assert sorted(text.split("What is ")[1].split("?")[0] for text in held_out) == ["20", "21", "22", "23", "24"]
    assert len(segments(tmp_path / "rows", "train")) == 20


def test_each_source_weighs_as_much_as_its_share_of_the_rows(tmp_path: Path, tokenizer_dir: Path) -> None:
    files = {name: write(tmp_path / f"{name}.jsonl", *pairs(count)) for name, count in (("few", 10), ("many", 40))}
    sources = [ChatSource(name, "km", (str(file),)) for name, file in files.items()]
    packed = write_conversations(
        sources, tokenizer_dir, tmp_path / "rows", row_tokens=ROW, val_ratio=0.1, seed=0, progress=False
    )
    few, many = (each.source.splits["train"].rows for each in packed)
    written = read_manifest(tmp_path / "rows").sources
    assert {name: source.weight for name, source in written.items()} == {
        "few": few / (few + many),
        "many": many / (few + many),
    }
    assert [each.source.weight for each in packed] == [written["few"].weight, written["many"].weight]


def test_the_inputs_of_packed_rows_follow_from_the_rows_and_an_earlier_manifest_that_counts_them_is_read(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    [packed] = prepare(write(tmp_path / "chat.jsonl", *pairs(40)), tokenizer_dir, tmp_path / "rows")
    path = tmp_path / "rows" / "manifest.json"
    manifest = json.loads(path.read_text())
    split = manifest["sources"]["chat"]["splits"]["train"]
    assert "slots" not in split
    read = read_manifest(tmp_path / "rows").sources["chat"].splits["train"]
    assert read.targets == read.slots == packed.source.splits["train"].slots == split["rows"] * ROW
    split["slots"] = split["rows"] * ROW
    del manifest["checksum"]
    path.write_text(json.dumps(manifest))
    assert read_manifest(tmp_path / "rows").sources["chat"].splits["train"] == read


def test_a_long_conversation_loses_its_last_turns(tmp_path: Path, tokenizer_dir: Path) -> None:
    turns = [{"from": ("human", "gpt")[n % 2], "value": f"turn number {n}"} for n in range(20)]
    file = write(tmp_path / "chat.jsonl", {"conversations": turns})
    [packed] = prepare(file, tokenizer_dir, tmp_path / "rows", val_ratio=0.0)
    assert packed.counts["shortened"] == 1
    [kept] = segments(tmp_path / "rows", "train")
    assert kept.startswith("<|endoftext|><|user|>turn number 0<|end|><|assistant|>⟦turn number 1<|end|>⟧<|user|>")
    assert kept.endswith("<|end|>⟧")
    assert "turn number 19" not in kept


def test_the_text_is_normalized_as_the_tokenizers_training_text(tmp_path: Path, tokenizer_dir: Path) -> None:
    file = write(tmp_path / "chat.jsonl", {"prompt": "ក\u200b\u200bខ", "response": "e\u0301"})
    prepare(file, tokenizer_dir, tmp_path / "rows", val_ratio=0.0)
    [found] = segments(tmp_path / "rows", "train")
    assert "⟦é<|end|>⟧" in found


GOOD = {"prompt": "Hi", "response": "Hello"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [{"content": "Hi"}]}, "line 2: not a conversation: message 1 of its messages has no role"),
        ({"prompt": "Hi", "response": " "}, "line 2: not a conversation: the response is empty"),
        ({"messages": [{"role": "usr", "content": "Hi"}]}, "line 2: not a conversation: message 1 of its messages has the role"),
        ({"prompt": "long " * 99, "response": "x"}, "tokens, but a row holds 64; make longer rows with --row-tokens"),
        ('{"prompt": "Hi",', "line 2 is not JSON"),
        ('["Hi"]', "line 2 is not a JSON object with fields"),
        ({"prompt": "\x07", "response": "x"}, "line 2: not a conversation: a text of the user has nothing but characters"),
    ],
)  # fmt: skip
def test_a_bad_record_is_named_by_file_and_line(
    tmp_path: Path, tokenizer_dir: Path, record: object, message: str
) -> None:
    file = write(tmp_path / "chat.jsonl", GOOD, record)
    with pytest.raises(UserError) as refused:
        prepare(file, tokenizer_dir, tmp_path / "rows")
    assert str(refused.value).startswith(f"{file}: line 2")
    assert message in str(refused.value)
    assert not (tmp_path / "rows").exists()
    [packed] = prepare(file, tokenizer_dir, tmp_path / "rows", on_error="skip", val_ratio=0.0)
    assert packed.source.splits["train"].documents == 1


def test_a_file_without_conversations_and_one_of_text_are_refused(tmp_path: Path, tokenizer_dir: Path) -> None:
    with pytest.raises(UserError, match="no conversations are left"):
        prepare(write(tmp_path / "bad.jsonl", {"text": "a"}), tokenizer_dir, tmp_path / "rows", on_error="skip")
    with pytest.raises(UserError, match="has no records; conversations are read from"):
        prepare(write(tmp_path / "book.txt", "Once upon a time"), tokenizer_dir, tmp_path / "rows")


def test_conversations_join_a_folder_of_text_rows_as_a_source(tmp_path: Path, tokenizer_dir: Path) -> None:
    text_rows(tmp_path / "rows", tokenizer_dir)
    file = write(tmp_path / "chat.jsonl", *pairs(30))
    source = ChatSource("instructions", "km", (str(file),))
    add_conversations([source], tmp_path / "rows", val_ratio=0.1, seed=0, progress=False)
    manifest = read_manifest(tmp_path / "rows")
    assert manifest.sources["instructions"].weight == 0
    assert manifest.sources["text"].weight == 1
    with pytest.raises(UserError, match="already has a source 'instructions'"):
        add_conversations([source], tmp_path / "rows", val_ratio=0.1, seed=0, progress=False)

    stage = Stage(steps=3, seq_len=ROW, global_batch_size=8, weights={"text": 0.5, "instructions": 0.5})
    loader = Loader(DataOrder(manifest, seed=0, stages=[stage]), document_mask=True)
    for batch in loader.batches(0):
        learned = (batch["marks"] & ANSWER).all(axis=1)
        assert learned.sum() == 4  # the windows of text, of which every token is learned
        begins = (batch["marks"][learned] & BEGIN) != 0
        np.testing.assert_array_equal(begins, batch["tokens"][learned] == 0)

    words = ["--input", str(file), "--tokenizer-dir", str(tokenizer_dir), "--output-dir", str(tmp_path / "rows")]
    with pytest.raises(UserError, match=r"holds token rows of text \(text\), which would be lost; .* --add-to"):
        main(words)
    with pytest.raises(UserError, match="a name has letters"):
        main([*words[:2], "--name", "../elsewhere", "--add-to", str(tmp_path / "rows")])

    without = Stage(steps=1, seq_len=21, global_batch_size=8, weights={"text": 1.0})
    [batch] = Loader(DataOrder(manifest, seed=0, stages=[without]), document_mask=True).batches(0)
    assert "marks" not in batch  # a stage of text alone is computed as in a run without conversations

    shorter = Stage(steps=3, seq_len=21, global_batch_size=8, weights={"instructions": 1.0})
    with pytest.raises(UserError, match="packed in rows of 63 tokens, which are not cut; set seq_len=63"):
        DataOrder(manifest, seed=0, stages=[shorter])


def text_rows(folder: Path, tokenizer_dir: Path) -> None:
    """Token rows of one source of text, with the tokenizer that they belong to."""
    write_rows(folder, {"text": np.arange(3000) % 300}, row_tokens=ROW, vocab_size=400)
    for file in tokenizer_dir.iterdir():
        (folder / "tokenizer" / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["tokenizer_hash"] = sha256_file(tokenizer_dir / "tokenizer.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_command_prints_what_is_learned_and_what_was_left_out(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "chat.jsonl", *pairs(10), {"prompt": "", "response": "x"})
    words = ["--khmer", str(file), "--tokenizer-dir", str(tokenizer_dir), "--row-tokens", "63", "--on-error", "skip"]
    figures_file = tmp_path / "figures.json"
    main([*words, "--preview", "1", "--output-dir", str(tmp_path / "rows"), "--json", str(figures_file)])
    printed = capsys.readouterr().out
    assert "<|user|>What is 0?<|end|><|assistant|>⟦ចម្លើយ 0<|end|>⟧" in printed
    assert "note: khmer: 1 of 11 left out: not a conversation" in printed
    assert json.loads(figures_file.read_text())["counts"] == {"khmer": {"conversations": 11, "no_conversation": 1}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokenizer-dir", "t", "--output-dir", "out"], "no conversations given; add --khmer, --english or --input"),
        (["--input", "c.jsonl", "--output-dir", "out"], "give --tokenizer-dir"),
        (["--input", "c.jsonl", "--add-to", "rows", "--tokenizer-dir", "t"], "leave out --tokenizer-dir"),
        (["--input", "c.jsonl", "--add-to", "rows", "--row-tokens", "512"], "leave out --row-tokens"),
        (["--khmer", "c.jsonl", "--name", "mine", "--add-to", "rows"], "--name is that of --input, which is not given"),
        (["--khmer", "c.jsonl", "--language", "km", "--add-to", "rows"], "--language is that of --input"),
        (["--input", "c.jsonl", "--preview", "-1", "--add-to", "rows"], "--preview -1 must be at least 0"),
        (["--input", "c.jsonl", "--add-to", "rows"], "rows: no token rows here"),
        (
            ["--input", "c.jsonl", "--name", "khmer", "--khmer", "c.jsonl", "--tokenizer-dir", "t", "--output-dir", "out"],
            "source 'khmer' is given twice",
        ),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        main(words)
    assert message in str(refused.value)
