"""An extended tokenizer: old ids stay, other languages are encoded as before, Khmer takes fewer tokens."""

import json
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models

from tests.adapt.bases import ENGLISH_TEXT, KHMER_TEXT, KINDS, make_base
from tests.support.console import tonsai, without_progress
from tests.support.hard_strings import HARD_STRINGS
from tests.support.tiny_model import ENGLISH
from tonsai_jax.adapt.base_tokenizer import characters_of
from tonsai_jax.adapt.extend import extend_tokenizer
from tonsai_jax.text.syllables import SYLLABLE
from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer, is_text
from tonsai_jax.tokenizer.encoding import _is_our_bpe
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer

EXAMPLES = [*(Example(text, "km") for text in KHMER_TEXT), *(Example(text, "en") for text in ENGLISH_TEXT)]
ADDED = 600
OWN = characters_of("Khmr")
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By kind: the folder of the base, and of the same with more tokens."""
    made = {}
    for kind in KINDS:
        base = make_base(kind, tmp_path_factory.mktemp("base") / kind)
        made[kind] = base, base.with_name("extended")
        extend_tokenizer(base, EXAMPLES, new_tokens=ADDED, language="km", output_dir=made[kind][1])
    return made


def opened(folder: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


@every_kind
def test_every_old_id_keeps_its_token_and_new_ids_come_after_all(kind: str, folders) -> None:
    base, extended = map(opened, folders[kind])
    old, new = base.get_vocab(), extended.get_vocab()
    assert {token: new[token] for token in old} == old
    assert sorted(new.values())[len(old) :] == list(range(max(old.values()) + 1, max(old.values()) + 1 + ADDED))
    assert [added.content for added in base.get_added_tokens_decoder().values()] == [
        added.content for added in extended.get_added_tokens_decoder().values()
    ]


@every_kind
def test_text_without_khmer_is_encoded_as_before(kind: str, folders) -> None:
    base, extended = map(opened, folders[kind])
    texts = [text for text in (*HARD_STRINGS, *ENGLISH_TEXT) if not OWN.search(text)]
    assert len(texts) > 100
    for text in texts:
        assert extended.encode(text).ids == base.encode(text).ids


@every_kind
def test_text_comes_back_as_before(kind: str, folders) -> None:
    base, extended = map(opened, folders[kind])
    for text in (*HARD_STRINGS, *KHMER_TEXT):
        assert extended.decode(extended.encode(text).ids) == base.decode(base.encode(text).ids)


@every_kind
def test_khmer_takes_a_fraction_of_the_tokens(kind: str, folders) -> None:
    base, extended = map(opened, folders[kind])
    before, now = (sum(len(tokenizer.encode(text).ids) for text in KHMER_TEXT) for tokenizer in (base, extended))
    assert now < before / 6


@every_kind
def test_every_new_token_is_khmer_and_does_not_cut_a_frequent_syllable(kind: str, folders) -> None:
    base, extended = (AnyTokenizer(opened(folder)) for folder in folders[kind])
    new = extended.pieces[len(base.pieces) :]
    for piece in new:
        assert OWN.search(piece.decode()) if is_text(piece) else "ក".encode().startswith(piece[:1])
    for syllable, _ in Counter(SYLLABLE.findall("".join(KHMER_TEXT))).most_common(50):
        [ids] = extended.encode([syllable])
        assert len([id for id in ids if extended.pieces[id] != b" "]) == 1


def test_words_that_the_pattern_cut_at_marks_are_whole_only_where_it_did(folders) -> None:
    for kind, cut in (("gpt2", True), ("llama3", True), ("llama2", False), ("ours", False)):
        base, extended = folders[kind]
        assert json.loads((extended / "report.json").read_text())["whole_words"] is cut
        steps = [json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"] for folder in (base, extended)]
        assert (steps[0] != steps[1]) is cut


def test_our_own_tokenizer_is_still_encoded_by_tiktoken(folders) -> None:
    extended = folders["ours"][1]
    assert _is_our_bpe(json.loads((extended / "tokenizer.json").read_text()))
    tokenizer, slow = Tokenizer.from_folder(extended), opened(extended)
    for text in (*HARD_STRINGS, *KHMER_TEXT):
        assert tokenizer.encode(text) == slow.encode(text).ids


def test_a_khmer_tokenizer_of_ours_is_still_encoded_by_tiktoken_when_it_gets_more_khmer(tmp_path: Path) -> None:
    """New tokens are parts of old ones there, so old tokens get further merges."""
    train_tokenizer(EXAMPLES[:40], vocab_size=600, output_dir=tmp_path / "base")
    extend_tokenizer(tmp_path / "base", EXAMPLES, new_tokens=300, language="km", output_dir=tmp_path / "more")
    assert _is_our_bpe(json.loads((tmp_path / "more" / "tokenizer.json").read_text()))


def test_the_report_compares_before_and_now(folders) -> None:
    report = json.loads((folders["gpt2"][1] / "report.json").read_text())
    assert report["new_tokens"] == ADDED
    assert report["vocab_size"] - report["old_size"] == ADDED
    assert report["texts"]["en"]["same_ids"] == 1
    assert report["texts"]["km"]["same_ids"] == 0
    assert report["texts"]["km"]["bytes_per_token"] > 6 * report["texts"]["km"]["bytes_per_token_before"]


def test_the_same_texts_give_the_same_file(folders, tmp_path: Path) -> None:
    base, extended = folders["llama3"]
    extend_tokenizer(base, EXAMPLES[::-1], new_tokens=ADDED, language="km", output_dir=tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (extended / "tokenizer.json").read_bytes()


def test_a_file_with_the_old_vocabulary_stays_behind(folders) -> None:
    extended = folders["gpt2"][1]
    assert sorted(path.name for path in extended.iterdir()) == [
        "report.json",
        "tokenizer.json",
        "tokenizer_checksums.json",
        "tokenizer_config.json",
    ]


@every_kind
def test_transformers_gives_the_same_ids(kind: str, folders) -> None:
    transformers = pytest.importorskip("transformers", reason="`uv sync --extra hf` brings transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folders[kind][1]), opened(folders[kind][1])
    for text in (*KHMER_TEXT[:50], ENGLISH):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text).ids


def test_the_command_prints_the_table_and_the_next_command(folders, tmp_path: Path) -> None:
    (tmp_path / "km.txt").write_text("\n".join(text.replace("\n", " ") for text in KHMER_TEXT))
    words = ("--tokenizer-dir", str(folders["gpt2"][0]), "--input", str(tmp_path / "km.txt"), "--new-tokens", "100")
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    code, printed, err = tonsai("extend-tokenizer", *words, "--output-dir", str(out), "--json", str(figures))
    assert (code, without_progress(err)) == (0, "")
    assert "texts with the same ids" in printed
    assert "100 new tokens, with the ids from 500 to 599" in printed
    assert f"next: tonsai new-vocabulary --model MODEL --tokenizer-dir {out}" in printed
    assert json.loads(figures.read_text()) == json.loads((out / "report.json").read_text())


@pytest.fixture
def wrong(tmp_path: Path) -> dict[str, Path]:
    unigram = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    words = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    for name, tokenizer in (("unigram", unigram), ("wordpiece", words)):
        (tmp_path / name).mkdir()
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    (tmp_path / "km.txt").write_text("\n".join(text.replace("\n", " ") for text in KHMER_TEXT[:20]))
    (tmp_path / "en.txt").write_text(ENGLISH)
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--tokenizer-dir": "nowhere"}, "nowhere: no such tokenizer folder"),
        ({"--tokenizer-dir": "mine"}, "tokenizer.json: no such file"),
        ({"--tokenizer-dir": "hf:mine"}, "hf:mine: not a model of the Hub; write hf:ORG/NAME"),
        ({"--tokenizer-dir": "unigram"}, "a Unigram tokenizer cannot be extended, because its scores"),
        (
            {"--tokenizer-dir": "wordpiece"},
            "only byte-pair encoding over bytes, or with byte fallback, can be extended, not Word",
        ),
        ({"--input": "en.txt"}, "nothing to add; the texts have no letters of 'km'"),
        ({"--input": "no.txt"}, "no.txt: no such file"),
        ({"--new-tokens": "0"}, "--new-tokens 0: must be at least 1"),
        ({"--language": "khmer"}, "--language: language 'khmer' is not written as a BCP-47 code; did you mean 'km'?"),
        ({"--language": "sr"}, "--language sr: its script is not known"),
        ({"--output-dir": "mine"}, "mine: already exists and was not made by this command"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(changed, message, wrong, folders, tmp_path: Path) -> None:
    flags = {"--tokenizer-dir": "base", "--input": "km.txt", "--new-tokens": "50", "--output-dir": "out"} | changed
    flags = {
        flag: str(tmp_path / value)
        if flag in ("--tokenizer-dir", "--input", "--output-dir") and ":" not in value
        else value
        for flag, value in flags.items()
    }
    if "--tokenizer-dir" not in changed:
        flags["--tokenizer-dir"] = str(folders["gpt2"][0])
    before = sorted(tmp_path.rglob("*"))
    code, out, err = tonsai("extend-tokenizer", *(word for pair in flags.items() for word in pair))
    assert (code, out) == (1, "")
    assert message in err
    assert len(without_progress(err).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
