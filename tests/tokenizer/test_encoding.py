"""Encoders: each of them gives the ids of tokenizer.json."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer

BLOCKS = ((0x20, 0x7E), (0x1780, 0x17FF), (0x200B, 0x200F), (0x80, 0x2FFF), (0x1F600, 0x1F64F), (0x10000, 0x10FFFF))
PLACES = (
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "\0",
    "\u200b",
    "\u200b\u200b",
    "<|endoftext|>",
    "<unk>",
    "<0x0A>",
    "▁",
    "aaaaa",
)


def messy_texts(clean: list[str], megabytes: float) -> list[str]:
    """Pieces of real text, cut anywhere, with all kinds of characters between them."""
    rng = random.Random(4)
    texts, size = [], 0
    while size < megabytes * 1e6:
        parts = []
        for _ in range(rng.randint(1, 9)):
            text = rng.choice(clean)
            cut = rng.randint(0, len(text))
            parts.append(text[cut : cut + rng.randint(0, 400)])
            parts.append(rng.choice(PLACES) * rng.randint(0, 3))
            if rng.random() < 0.3:
                parts.append("".join(chr(rng.randint(*rng.choice(BLOCKS))) for _ in range(rng.randint(1, 20))))
        texts.append("".join(parts))
        size += len(texts[-1].encode())
    return texts


@pytest.fixture(scope="module")
def clean() -> list[str]:
    texts = [text for language in ("km", "en") for text in stories(language, 300, seed=3)]
    corpus = os.environ.get("TONSAI_CORPUS")
    for path in sorted(Path(corpus).glob("??/*.txt.gz")) if corpus else ():
        texts += gzip.decompress(path.read_bytes()).decode("utf-8")[:100_000].split("\n")
    return texts


@pytest.fixture(scope="module", params=["bpe", pytest.param("unigram", marks=pytest.mark.full)])
def folder(request, clean, made_once) -> Path:
    def train(folder: Path) -> None:
        examples = [Example(text, "any") for text in clean]
        train_tokenizer(
            examples, vocab_size=4000, output_dir=folder / request.param, model_type=request.param, sentences=0
        )

    return made_once(f"encoding-{request.param}", train) / request.param


def test_ids_are_those_of_tokenizer_json(folder: Path, clean: list[str]) -> None:
    texts = messy_texts(clean, 2)
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.encode_special_tokens = True
    expected = [encoding.ids for encoding in plain.encode_batch(texts, add_special_tokens=False)]
    ours = Tokenizer.from_folder(folder)
    assert ours.encode_batch(texts) == expected
    assert [ours.encode(text) for text in texts[:200]] == expected[:200]
    if (folder / "spm.model").exists():
        assert sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model")).encode(texts) == expected


def test_the_same_examples_give_the_same_bytes(folder: Path, clean: list[str], tmp_path: Path) -> None:
    again = tmp_path / "again"
    examples = [Example(text, "any") for text in clean]
    train_tokenizer(examples, vocab_size=4000, output_dir=again, model_type=folder.name)
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_a_bpe_without_all_possible_merges_is_encoded_by_its_own_merges(clean: list[str], tmp_path: Path) -> None:
    train_tokenizer([Example(text, "any") for text in clean], vocab_size=1000, output_dir=tmp_path / "t")
    file = tmp_path / "t" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-500]
    file.write_text(json.dumps(content))
    (tmp_path / "t" / "tokenizer_checksums.json").unlink()  # as after a change on purpose
    plain = tokenizers.Tokenizer.from_file(str(file))
    ours = Tokenizer.from_folder(tmp_path / "t")
    for text in clean[:50]:
        assert ours.encode(text) == plain.encode(text, add_special_tokens=False).ids


def test_unigram_trains_on_long_lines_and_on_a_part_of_many(tmp_path: Path) -> None:
    line = " ".join(text.replace("\n", " ") for text in stories("en", 300, seed=1))
    assert len(line) > 4192, "by default SentencePiece drops longer lines"
    train_tokenizer([Example(line, "any")], vocab_size=600, output_dir=tmp_path / "a", model_type="unigram")
    assert len(Tokenizer.from_folder(tmp_path / "a").encode(line)) < len(line) / 2, "the line was read"
    lines = [Example(f"line {number} of many words", "any") for number in range(2000)]
    part = train_tokenizer(lines, vocab_size=600, output_dir=tmp_path / "b", model_type="unigram", sentences=200)
    assert part["examples"] == 2000


def test_a_text_of_nothing_but_spaces_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no text to train a tokenizer on"):
        train_tokenizer([Example(" ", "any")], vocab_size=600, output_dir=tmp_path / "t", model_type="unigram")
    assert not (tmp_path / "t").exists()


def test_decoding_gives_back_the_text(folder: Path, clean: list[str]) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    sizes = tokenizer.token_bytes()
    for text in messy_texts(clean, 0.3):
        text = text.replace("▁", " ") if folder.name == "unigram" else text
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert sizes[ids].sum() == len(text.encode())


def test_transformers_gives_the_same_ids(folder: Path, clean: list[str]) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: uv sync --extra hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    assert (theirs.eos_token_id, len(theirs)) == (ours.end_of_text_id, ours.vocab_size)
    for text in messy_texts(clean, 0.1):
        text = text.replace("<|endoftext|>", "").replace("<unk>", "")  # which it reads as the tokens
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)


@pytest.mark.parametrize("text", [" " * 100_000, "\n" * 9000, "ក" * 100_000, "a b" * 50_000, "\t \u200b" * 9000])
def test_hostile_texts_have_the_same_ids_too(folder: Path, text: str) -> None:
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("space", [" " * 100_000, " " * 1100 + "\n" + "\t" * 3000, "\u3000" * 2000, "\n" * 5000])
def test_a_thousand_spaces_in_a_row_are_encoded(folder: Path, space: str) -> None:
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (space, f"word{space}ក្តៅ", f"{'a ' * 700}{space}b"):
        assert Tokenizer.from_folder(folder).encode(text) == plain.encode(text, add_special_tokens=False).ids
