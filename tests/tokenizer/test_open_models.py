"""The tokenizers of open models: no byte is lost, no text becomes a special token, or the reason why it cannot be used."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import tokenizers

from tests.support.open_tokenizers import KINDS, gemma3, gpt2, llama2, llama3, qwen3, smollm2
from tests.support.tiny_model import config_with, random_params
from tests.tokenizer.test_encoding import messy_texts
from tonsai_jax.config import default_config
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.rows import Rows
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.run import evaluate_run
from tonsai_jax.inference.load import Run
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer import loading
from tonsai_jax.tokenizer.encoding import LETTER_OF_BYTE
from tonsai_jax.tokenizer.loading import Tokenizer

CLEAN = [text for language in ("km", "en") for text in stories(language, 20, seed=6)]
TEXTS = [
    "",
    " ",
    "\n",
    "  two spaces, a\ttab \r\n and\n\n\n\nlines  ",
    "ក្សត្រី ស្ត្រី \u200bឥឡូវ ៛១២៣៤ 1234567 x² e\u0301 \x00 \U0010ffff 👩🏽‍🚀🇰🇭",
    "<table> <think></think> <0x41> <0x0A> <unk> <|reserved_special_token_1|>",
]


@pytest.fixture(scope="module", params=list(KINDS))
def folder(request, tmp_path_factory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp("open") / request.param)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def test_no_byte_is_lost(folder: Path, tokenizer: Tokenizer) -> None:
    sizes = tokenizer.token_bytes()
    assert (sizes.dtype, sizes.shape) == ("int32", (tokenizer.vocab_size,))
    texts = TEXTS + [text.replace("\u2581", " ") for text in messy_texts(CLEAN, 0.05)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        written = tokenizer.prefix + (normalize("NFC", text) if folder.name == "qwen3" else text) if text else ""
        assert tokenizer.decode(ids) == written
        assert sizes[ids].sum() == len(written.encode())
        assert ids == tokenizer.encode(text)


def test_ids_are_those_of_tokenizer_json(folder: Path, tokenizer: Tokenizer) -> None:
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in messy_texts(CLEAN, 0.05):
        text = text.replace(
            "<", ""
        ).lstrip()  # no names of special tokens, nor a space first, of which Metaspace makes none
        assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids


def test_transformers_gives_the_same_ids_and_special_ids(folder: Path, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: uv sync --extra hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if folder.name != "gpt2":  # whose class knows the token, but whose files do not
        ids = tokenizer.special_ids
        assert (theirs.eos_token_id, theirs.bos_token_id or ids.bos) == (ids.eos, ids.bos)
    for text in CLEAN[:10]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)


def test_text_never_becomes_a_special_token(folder: Path, tokenizer: Tokenizer) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    names = [token["content"] for token in content["added_tokens"] if token["special"]]
    special = {id for id, piece in enumerate(tokenizer.pieces) if not piece}
    assert {tokenizer.end_of_text_id, *tokenizer.end_ids} <= special
    for name in names:
        for text in (name, f"a {name} b{name}{name}\n{name}"):
            ids = tokenizer.encode(text)
            assert not special & {*ids}
            assert tokenizer.decode(ids) == tokenizer.prefix + text


def test_parts_of_a_long_text_are_the_whole(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ["\n\n".join(CLEAN), " x".join(TEXTS * 9), "word  two \n\n three\n four and \t five" * 90]
    expected = [tokenizer.encode(text) for text in whole]
    monkeypatch.setattr(loading, "_PART_CHARACTERS", 300)
    for text, ids in zip(whole, expected, strict=True):
        parts = list(tokenizer.encode_in_parts(text))
        assert len(parts) > 2
        assert [id for part in parts for id in part] == ids


def test_a_text_is_not_cut_where_a_token_is_of_several_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = llama2(tmp_path / "t")

    def join(value: dict[str, Any]) -> None:
        value["model"]["vocab"]["a\u2581b"] = len(value["model"]["vocab"])
        value["model"]["merges"] += [["a", "\u2581b"]]
        value["model"]["vocab"].setdefault("\u2581b", len(value["model"]["vocab"]))

    edit(folder / "tokenizer.json", join)
    tokenizer = Tokenizer.from_folder(folder)
    monkeypatch.setattr(loading, "_PART_CHARACTERS", 10)
    assert len(list(tokenizer.encode_in_parts("a b " * 50))) == 1


def ids_of(tokenizer: Tokenizer) -> tuple[Any, ...]:
    def name(id: int) -> str:
        return tokenizer.decode([id])

    return name(tokenizer.end_of_text_id), [name(id) for id in tokenizer.end_ids], name(tokenizer.pad_id)


def test_special_ids_come_from_all_files(tmp_path: Path) -> None:
    made = {name: ids_of(Tokenizer.from_folder(maker(tmp_path / name))) for name, maker in KINDS.items()}
    end = "<|endoftext|>"
    assert made["gpt2"] == (end, [end], end)
    assert made["smollm2"] == (end, [end], end)
    begin = "<|begin_of_text|>"
    assert made["llama3"] == (begin, [begin, "<|eot_id|>", "<|end_of_text|>"], begin)
    assert made["qwen3"] == (end, [end, "<|im_end|>"], end), "the token between documents, and not the end of a turn"
    assert made["llama2"] == made["mixtral"] == ("<s>", ["<s>", "</s>"], "<s>")
    assert made["gemma3"] == ("<bos>", ["<bos>", "<eos>", "<end_of_turn>"], "<pad>")


def test_a_chat_template_names_the_end_of_a_turn_where_no_other_file_does(tmp_path: Path) -> None:
    folder = gemma3(tmp_path / "t")
    (folder / "generation_config.json").unlink()
    assert ids_of(Tokenizer.from_folder(folder))[1] == ["<bos>", "<eos>"]
    (folder / "chat_template.jinja").write_text("<start_of_turn>{{ messages[0].content }}<end_of_turn>")
    assert ids_of(Tokenizer.from_folder(folder))[1] == ["<bos>", "<eos>", "<end_of_turn>"]


def test_ids_of_a_model_of_text_and_images_are_found(tmp_path: Path) -> None:
    folder = gemma3(tmp_path / "t")
    (folder / "generation_config.json").rename(folder / "config.json")
    edit(folder / "config.json", lambda value: (value.update(text_config=dict(value)), value.pop("eos_token_id")))
    assert ids_of(Tokenizer.from_folder(folder))[1] == ["<bos>", "<eos>", "<end_of_turn>"]


def test_a_model_with_only_tokenizer_json_takes_its_special_ids_from_config_json(tmp_path: Path) -> None:
    folder = smollm2(tmp_path / "t")
    whole = ids_of(Tokenizer.from_folder(folder))
    (folder / "generation_config.json").rename(folder / "config.json")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    assert ids_of(Tokenizer.from_folder(folder)) == whole
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer_config\.json: no such file"):
        Tokenizer.from_folder(folder)


def test_a_model_needs_rows_for_text_and_special_tokens_in_use_only(folder: Path, tokenizer: Tokenizer) -> None:
    unused = 1 if folder.name == "gemma3" else 0  # the token of images
    assert tokenizer.required_rows == tokenizer.vocab_size - unused
    edit(folder / "generation_config.json", lambda value: value.update(pad_token_id=tokenizer.vocab_size - 1))
    edit(folder / "tokenizer_config.json", lambda value: value.pop("pad_token", None))
    assert Tokenizer.from_folder(folder).required_rows == tokenizer.vocab_size


def test_an_id_without_a_token_is_a_gap(tmp_path: Path) -> None:
    folder = gemma3(tmp_path / "t")
    whole = Tokenizer.from_folder(folder)
    edit(folder / "tokenizer.json", lambda value: value["model"]["vocab"].update(unused=whole.vocab_size + 9))
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.vocab_size == whole.vocab_size + 10
    assert tokenizer.token_bytes()[-10:].tolist() == [0] * 9 + [6]
    assert tokenizer.encode(CLEAN[0]) == whole.encode(CLEAN[0])


def test_control_characters_without_a_token_are_an_error_and_no_loss(tmp_path: Path) -> None:
    folder = gpt2(tmp_path / "t")
    letters = {LETTER_OF_BYTE[byte] for byte in (0x01, 0xC0, 0xF1)}

    def cut(value: dict[str, Any]) -> None:
        vocabulary = value["model"]["vocab"]
        for number, letter in enumerate(sorted(letters)):
            vocabulary[f"unused{number}"] = vocabulary.pop(letter)

    edit(folder / "tokenizer.json", cut)
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.decode(tokenizer.encode("ភាសា \x02\t\n")) == "ភាសា \x02\t\n"
    for text, name in (("a\x01b", "U\\+0001"), ("\U00050000", "U\\+50000")):
        with pytest.raises(UserError, match=f"no token for the character {name}; remove it from the text"):
            tokenizer.encode(text)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def tokenizer_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer.json", change)


def word_piece(folder: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    made.save(str(folder / "tokenizer.json"))


def without(name: str, *others: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        for other in others:
            (folder / other).write_text("{}")

    return change


def without_end_of_text(folder: Path) -> None:
    for name in ("special_tokens_map.json", "generation_config.json"):
        (folder / name).unlink()
    edit(folder / "tokenizer_config.json", lambda value: value.pop("eos_token"))


def lfs_pointer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4e9a\nsize 33384568\n"
    )


REFUSED: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None], str]] = {
    "WordPiece": (gpt2, word_piece, "a WordPiece tokenizer, which loses text"),
    "no bytes": (
        llama2,
        tokenizer_json(lambda v: v["model"].update(byte_fallback=False)),
        "has no tokens for bytes",
    ),
    "some bytes missing": (
        gemma3,
        tokenizer_json(lambda v: v["model"]["vocab"].pop("<0xE1>")),
        r"no token for 1 of the bytes of UTF-8 \(the first is 0xE1\)",
    ),
    "lowercase": (
        qwen3,
        tokenizer_json(lambda v: v.update(normalizer={"type": "Lowercase"})),
        "its normalizer Lowercase changes text",
    ),
    "NFKC in a sequence": (
        qwen3,
        tokenizer_json(
            lambda v: v.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]})
        ),
        "its normalizer NFKC changes text",
    ),
    "spaces dropped": (
        gpt2,
        tokenizer_json(lambda v: v["pre_tokenizer"].update(type="WhitespaceSplit")),
        r"decoding does not give back the encoded text.*\(normalizer none, pre_tokenizer WhitespaceSplit",
    ),
    "space before words": (
        gpt2,
        tokenizer_json(lambda v: v["pre_tokenizer"].update(add_prefix_space=True)),
        "set add_prefix_space of ByteLevel to false",
    ),
    "swallowed spaces": (
        qwen3,
        tokenizer_json(lambda v: v["added_tokens"][-1].update(rstrip=True)),
        "its added token '</think>' swallows the spaces next to it",
    ),
    "no end of text": (
        smollm2,
        without_end_of_text,
        "no end-of-text token is named here; set eos_token in tokenizer_config.json",
    ),
    "end of text of another model": (
        smollm2,
        lambda folder: edit(folder / "tokenizer_config.json", lambda value: value.update(eos_token="</s>")),
        "eos_token in tokenizer_config.json is '</s>', which is not a token of tokenizer.json",
    ),
    "only SentencePiece's file": (
        llama2,
        without("tokenizer.json", "tokenizer.model"),
        r"has tokenizer.model but no tokenizer.json, which is needed.*AutoTokenizer.from_pretrained.*save_pretrained",
    ),
    "only the files of GPT-2": (gpt2, without("tokenizer.json", "vocab.json", "merges.txt"), "has vocab.json but no"),
    "a Git-LFS pointer": (gemma3, lfs_pointer, "tokenizer.json: only a Git-LFS pointer.*run `git lfs pull`"),
    "cut off": (llama3, tokenizer_json(lambda v: v.pop("model")), "cannot be read as a tokenizer"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_used_is_refused_by_the_reason(case: str, tmp_path: Path) -> None:
    make, change, reason = REFUSED[case]
    folder = make(tmp_path / "t")
    change(folder)
    with pytest.raises(UserError, match=reason) as caught:
        Tokenizer.from_folder(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_files_of_a_tokenizer_are_enough_and_leave_the_weights(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    tokenizer = Tokenizer.from_folder(folder)
    (tmp_path / "copy").mkdir()
    for file in tokenizer.files:
        shutil.copyfile(file, tmp_path / "copy" / file.name)
    copied = Tokenizer.from_folder(tmp_path / "copy")
    assert not (tmp_path / "copy" / "model.safetensors").exists()
    assert ids_of(copied) == ids_of(tokenizer)
    text = random.Random(0).choice(CLEAN)
    assert copied.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("make", [llama2, pytest.param(gemma3, marks=pytest.mark.full)])
def test_rows_keep_the_tokenizer_and_an_evaluation_counts_the_bytes_of_the_text(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Also of the first word of a document, which for Llama 2 has a space more than the text."""
    prepare([Source("a", "en", documents=CLEAN)], tmp_path / "docs", progress=False)
    folder = make(tmp_path / "model")
    settings: dict[str, Any] = {"val_ratio": 0.5, "seed": 0, "row_tokens": 64, "progress": False}
    manifest = tokenize_dataset(tmp_path / "docs", folder, tmp_path / "rows", **settings)
    tokenizer = Tokenizer.from_folder(tmp_path / "rows" / "tokenizer")
    assert ids_of(tokenizer) == ids_of(Tokenizer.from_folder(folder))
    config = config_with(vocab_size=tokenizer.vocab_size)
    run = Run("run", config, random_params(config), tokenizer, tmp_path, default_config(), step=1)
    score = evaluate_run(run, manifest, seq_len=64, batch_size=16, max_batches=0).parts["a"].score
    ids = row_ids(manifest)
    documents = tokenizer.decode(ids[1:]).replace(tokenizer.decode([tokenizer.end_of_text_id]) + tokenizer.prefix, "")
    assert score.bytes == len(documents.removesuffix(tokenizer.decode([tokenizer.end_of_text_id])).encode())


def row_ids(manifest: RowsManifest) -> list[int]:
    """All ids of the validation rows, up to the last end of text."""
    rows = Rows(manifest.sources["a"].splits["validation"], row_tokens=manifest.row_tokens, dtype=manifest.dtype)
    windows = [rows.window(row, 0, manifest.row_tokens) for row in range(len(rows))]
    ids = [windows[0][:1], *(window[1:] for window in windows)]
    return np.concatenate(ids)[: rows.split.tokens].tolist()
