"""The tokenizer: decoding gives back the text, training is deterministic, Khmer is short, and errors are one clear line."""

import filecmp
import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import regex

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.recipe import Settings
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.errors import UserError
from tonsai_jax.text.normalize import Normalization
from tonsai_jax.tokenizer import bpe
from tonsai_jax.tokenizer.examples import (
    Example,
    dataset_examples,
    file_examples,
    share_out,
)
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import END_OF_TEXT
from tonsai_jax.tokenizer.training import train_tokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_tokenizer.py"
KHMER = [
    "ប្រទេសកម្ពុជាជាប្រទេសមួយនៅអាស៊ីអាគ្នេយ៍។ កុមារទៅសាលារៀនរាល់ថ្ងៃ។",
    "ខ្ញុំស្រឡាញ់ភាសាខ្មែរ។ ប្រទេសកម្ពុជាមានរាជធានីភ្នំពេញ។",
]
ENGLISH = [
    "The children walk to school every day, and the teacher reads them a story.",
    "It's the year 2026; the river rises in the rainy season.\nThe boats wait.",
]
EXAMPLES = [Example(text, "km") for text in KHMER * 30] + [Example(text, "en") for text in ENGLISH * 30]
TEXTS = [
    *KHMER,
    *ENGLISH,
    "",
    " ",
    "  two spaces, a\ttab \r\n and\n\n\nlines  ",
    "ភាសា\u200bខ្មែរ with zero-width spaces\u200b",
    "ក្សត្រី ស្ត្រី ឥឡូវ ៛១២៣៤៥៦៧ 1234567 x²",
    "👩🏽‍🚀🇰🇭 e\u0301 \x00 \ufffd \U0010ffff",
    "don't DON'T they'll <|endoftext|> <|endoftext|",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "trained"
    train_tokenizer(EXAMPLES, vocab_size=440, output_dir=path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_folder(folder)


def random_text(rng):
    blocks = [(0, 0x7F), (0x1780, 0x17FF), (0x200B, 0x200F), (0, 0xD7FF), (0xE000, 0x10FFFF)]
    return "".join(chr(rng.randint(*rng.choice(blocks))) for _ in range(rng.randint(0, 80)))


def run_script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
        code: str | int | None = 0
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_back_the_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_decoding_gives_back_random_text(tokenizer):
    rng = random.Random(1)
    texts = [random_text(rng) for _ in range(500)]
    batch = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in batch] == texts
    assert batch == [tokenizer.encode(text) for text in texts]


def test_token_bytes_of_a_text_sum_to_its_utf8_length(tokenizer):
    sizes = tokenizer.token_bytes()
    assert sizes.shape == (tokenizer.vocab_size,)
    assert sizes.dtype == "int32"
    assert sizes[tokenizer.end_of_text_id] == 0
    for text in TEXTS:
        assert sizes[tokenizer.encode(text)].sum() == len(text.encode())


@pytest.mark.parametrize("word", ["ប្រទេស", "កម្ពុជា", "ស្ត្រី", "teacher", "élève"])
def test_a_word_is_letters_with_their_marks_so_that_it_can_become_one_token(word, tmp_path):
    train_tokenizer([Example(word, "any")] * 2, vocab_size=400, output_dir=tmp_path / "t")
    assert len(Tokenizer.from_folder(tmp_path / "t").encode(word)) == 1


def test_words_are_split_at_spaces_newlines_and_zero_width_spaces(tmp_path):
    text = "កក\u200bកក កក\nកក"
    train_tokenizer([Example(text, "km")] * 9, vocab_size=400, output_dir=tmp_path / "t")
    tokenizer = Tokenizer.from_folder(tmp_path / "t")
    pieces = [tokenizer.decode([id]) for id in tokenizer.encode(text)]
    assert pieces == ["កក", "\u200bកក", " កក", "\n", "កក"]


def test_end_of_text_is_id_0_and_text_cannot_spell_it(tokenizer):
    assert tokenizer.end_of_text_id == 0
    assert tokenizer.decode([0]) == "<|endoftext|>"
    assert 0 not in tokenizer.encode("one<|endoftext|>two")
    assert 0 not in tokenizer.encode_batch(["one<|endoftext|>two"])[0]


def test_the_same_examples_give_the_same_bytes_on_one_core_and_on_all(folder, tmp_path):
    program = (
        "import sys; import tests.tokenizer.test_tokenizer as t; "
        "t.train_tokenizer(t.EXAMPLES, vocab_size=440, output_dir=sys.argv[1])"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "again")],
        check=True,
        env={**os.environ, "RAYON_NUM_THREADS": "1"},
    )
    names = ["chat_template.jinja", "report.html", "report.json", "special_tokens_map.json"]
    names += ["tokenizer.json", "tokenizer_checksums.json", "tokenizer_config.json"]
    assert sorted(os.listdir(folder)) == names
    assert filecmp.cmpfiles(folder, tmp_path / "again", names, shallow=False) == (names, [], [])


def test_the_report_counts_bytes_per_token_by_language(folder, tokenizer):
    report = json.loads((folder / "report.json").read_text())
    assert report["vocab_size"] == tokenizer.vocab_size == 440
    for label, texts in (("km", KHMER), ("en", ENGLISH)):
        text_bytes = sum(len(text.encode()) for text in texts)
        tokens = sum(len(tokenizer.encode(text)) for text in texts)
        line = report["fertility"][label]
        assert (line["examples"], line["bytes"]) == (60, 30 * text_bytes)
        assert line["bytes_per_token"] == pytest.approx(text_bytes / tokens, abs=1e-4)


def test_the_reports_sample_is_bounded_and_even(monkeypatch, tmp_path):
    monkeypatch.setattr("tonsai_jax.tokenizer.even_sample.SAMPLE_BYTES", 1000)
    examples = [Example(f"{index:010d}", "digits") for index in range(1000)]
    line = train_tokenizer(examples, vocab_size=300, output_dir=tmp_path / "t")["fertility"]["digits"]
    assert (line["examples"], line["bytes"], line["sample_bytes"]) == (1000, 10_000, 630)  # every 16th


def test_transformers_gives_the_same_ids(folder, tokenizer):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed; `uv sync --extra hf` brings it"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_of_text_id
    rng = random.Random(2)
    for text in [*TEXTS, *(random_text(rng) for _ in range(200))]:
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ids == tokenizer.encode(text)
        assert theirs.decode(ids) == text


def test_a_vocabulary_larger_than_the_corpus_can_give_says_how_many_it_got(tmp_path, monkeypatch, capsys):
    (tmp_path / "three.txt").write_text("សួស្តី ពិភពលោក\nhello world\nhello there\n")
    arguments = ("--input", tmp_path / "three.txt", "--vocab-size", 8000, "--output-dir", tmp_path / "out")
    code, out, _ = run_script(monkeypatch, capsys, *arguments, "--json", tmp_path / "figures.json")
    size = Tokenizer.from_folder(tmp_path / "out").vocab_size
    assert code == 0
    assert 287 < size < 330
    assert f"note: this text gives only {size} of 8,000 token ids" in out
    assert json.loads((tmp_path / "figures.json").read_text())["vocab_size"] == size


def test_raw_files_give_their_lines_in_turn_gz_and_zst_too(tmp_path):
    import gzip

    import zstandard

    (tmp_path / "a.txt").write_text("a1\n\na2\na3\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"b1\n"))
    (tmp_path / "c.txt.zst").write_bytes(zstandard.compress(b"c1\r\nc2"))
    inputs = [str(tmp_path / name) for name in ("a.txt", "b.txt.gz", "c.txt.zst")]
    texts = [text for text, _ in file_examples(inputs, faults=Faults())]
    assert texts == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert [text for text, _ in file_examples(inputs, faults=Faults(), max_examples=4)] == texts[:4]


@pytest.mark.parametrize(
    ("count", "sizes", "weights", "shares"),
    [
        (10, (100, 100), (0.6, 0.4), (6, 4)),
        (10, (3, 100), (0.6, 0.4), (3, 7)),
        (10, (100, 100, 100), (1 / 3, 1 / 3, 1 / 3), (4, 3, 3)),
        (50, (20, 10), (0.1, 0.9), (20, 10)),
        (10, (100, 100), (1.0, 0.0), (10, 0)),
        (1, (5, 5), (0.5, 0.5), (1, 0)),
        (999_999, (10**9, 10**9, 5), (0.7, 0.2, 0.1), (777_774, 222_220, 5)),
    ],
)
def test_max_examples_is_shared_among_sources_by_weight_up_to_their_size(count, sizes, weights, shares):
    names = [str(index) for index in range(len(sizes))]
    given = share_out(count, dict(zip(names, sizes, strict=True)), dict(zip(names, weights, strict=True)))
    assert tuple(given.values()) == shares
    assert sum(given.values()) == min(count, sum(s for s, w in zip(sizes, weights, strict=True) if w))


def test_max_examples_takes_documents_from_the_whole_of_each_source(tmp_path):
    khmer = [f"ខ្មែរ {index}" for index in range(60)]
    english = [f"English {index}" for index in range(100)]
    sources = [
        Source(name="a", language="km", weight=3, documents=khmer),
        Source(name="b", language="en", weight=1, documents=english),
    ]
    prepare(sources, tmp_path / "docs", progress=False)
    everything = list(dataset_examples(tmp_path / "docs"))
    assert everything == [(text, "km") for text in khmer] + [(text, "en") for text in english]
    some = list(dataset_examples(tmp_path / "docs", max_examples=40))
    assert some == [(text, "km") for text in khmer[1::2]] + [(text, "en") for text in english[9::10]]


def test_prompts_are_normalized_like_the_training_text(tmp_path):
    kept = Normalization(zwsp="keep", digits="arabic")
    train_tokenizer(EXAMPLES, vocab_size=300, output_dir=tmp_path / "kept", normalization=kept)
    train_tokenizer(EXAMPLES, vocab_size=300, output_dir=tmp_path / "default")
    prompt = "\nខែ្មរ\u200bភាសា ១ \n"
    assert Tokenizer.from_folder(tmp_path / "default").normalize_prompt(prompt) == "\nខ្មែរភាសា ១ \n"
    assert Tokenizer.from_folder(tmp_path / "kept").normalize_prompt(prompt) == "\nខ្មែរ\u200bភាសា 1 \n"
    config = json.loads((tmp_path / "kept" / "tokenizer_config.json").read_text())
    config["tonsai_normalization"]["khmr"] = True
    (tmp_path / "kept" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "kept" / "tokenizer_checksums.json").unlink()
    with pytest.raises(UserError, match="tonsai_normalization is not valid"):
        Tokenizer.from_folder(tmp_path / "kept").normalize_prompt("a")


def test_the_settings_of_a_prepared_dataset_are_kept(tmp_path, monkeypatch, capsys):
    settings = Settings(normalize=Normalization(quotes=True))
    prepare([Source("a", "km", documents=KHMER * 9)], tmp_path / "docs", settings, progress=False)
    arguments = ["--dataset-dir", tmp_path / "docs", "--vocab-size", "300", "--output-dir", tmp_path / "t"]
    assert run_script(monkeypatch, capsys, *arguments)[0] == 0
    assert Tokenizer.from_folder(tmp_path / "t").normalization == settings.normalize


@pytest.mark.parametrize(("pattern", "most"), [("grouped-digits", 3), ("single-digits", 1)])
def test_the_pattern_limits_the_digits_of_a_token(pattern, most, tmp_path):
    texts = [Example("ឆ្នាំ ២០២៦ year 2026 page 2026 ២០២៦", "any")] * 5
    train_tokenizer(texts, vocab_size=330, output_dir=tmp_path / "t", pattern=pattern)
    tokenizer = Tokenizer.from_folder(tmp_path / "t")
    pieces = [tokenizer.decode([id]) for id in range(tokenizer.vocab_size)]
    assert max(len(piece) for piece in pieces if piece.isdigit()) == most
    assert tokenizer.decode(tokenizer.encode(texts[0].text)) == texts[0].text


def bad_commands(folder):
    """Name → (arguments, what the one line says)."""
    good = ["--input", folder / "good.txt", "--vocab-size", "300", "--output-dir", folder / "out"]

    def given(**changes):
        values = dict(zip(good[::2], good[1::2], strict=True))
        values.update({"--" + key.replace("_", "-"): value for key, value in changes.items()})
        return [item for pair in values.items() if pair[1] is not None for item in pair]

    documents = given(input=None, dataset_dir=folder / "docs")
    return {
        "no such input": (given(input=folder / "none.txt"), "none.txt"),
        "empty input": (given(input=folder / "empty.txt"), "empty.txt"),
        "blank input": (given(input=folder / "blank.txt"), "no text"),
        "blank input of unigram": (
            given(input=folder / "blank.txt", model_type="unigram", vocab_size="600"),
            "no text",
        ),
        "no column of the input": (given(input=folder / "a.csv", text_column="b"), "there are: a; set `text_column`"),
        "no text in the one language": (given(language_weights="km=1"), "there is no text in 'km'"),
        "not utf-8": (given(input=folder / "latin.txt"), "latin.txt: not UTF-8 at byte 3"),
        "vocabulary too small": (given(vocab_size="256"), "256 is too small"),
        "unknown kind": (given(model_type="wordpiece"), "'wordpiece' is not known; use bpe, unigram or gpt2"),
        "unknown pattern": (
            given(pattern="single-digit"),
            "pattern='single-digit' is not known; did you mean 'single-digits'?",
        ),
        "pattern of unigram": (
            given(model_type="unigram", pattern="single-digits"),
            "pattern=single-digits is for model type bpe only, unigram has none; leave it out",
        ),
        "pattern of gpt2": (
            given(model_type="gpt2", pattern="single-digits"),
            "pattern=single-digits is for model type bpe only, gpt2 has none; leave it out",
        ),
        "gpt2 too small": (
            given(model_type="gpt2", vocab_size="286"),
            "vocab_size 286 is too small: the bytes and 31 special tokens need 287",
        ),
        "unigram too small": (
            given(model_type="unigram"),
            "vocab_size 300 is too small: the bytes and 31 special tokens need 541",
        ),
        "sentences of bpe": (given(input_sentence_size="900"), "only works with --model-type unigram"),
        "no examples wanted": (given(max_examples="0"), "--max-examples 0"),
        "no documents": (given(input=None, dataset_dir=folder / "none"), "none: no such folder"),
        "no such split": ([*documents, "--dataset-split", "test"], "no split 'test'"),
        "no such column": ([*documents, "--text-column", "content"], "text, language, source, id"),
        "not ours to replace": (given(output_dir=folder / "mine"), "was not made by this command"),
        "output is a file": (given(output_dir=folder / "good.txt"), "no folder can be made here, a file is in the way"),
    }


@pytest.mark.parametrize("case", list(bad_commands(Path())))
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path, monkeypatch, capsys):
    (tmp_path / "good.txt").write_text("hello world\n" * 10)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "a.csv").write_text("a\nhello\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    prepare([Source(name="a", language="km", documents=KHMER)], tmp_path / "docs", progress=False)
    before = sorted(os.listdir(tmp_path))
    arguments, expected = bad_commands(tmp_path)[case]
    code, out, err = run_script(monkeypatch, capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_errors_skip_counts_what_it_leaves_out(tmp_path, monkeypatch, capsys):
    (tmp_path / "latin.txt").write_bytes(b"good line\ncaf\xe9\ngood line\n")
    arguments = ("--input", tmp_path / "latin.txt", "--vocab-size", 300, "--output-dir", tmp_path / "out")
    code, out, _ = run_script(monkeypatch, capsys, *arguments, "--on-error", "skip")
    assert code == 0
    assert "note: left out 1 text: not_utf8" in out


def test_a_training_that_fails_leaves_the_earlier_tokenizer_and_one_that_ends_replaces_it(tmp_path):
    train_tokenizer(EXAMPLES, vocab_size=300, output_dir=tmp_path / "t")
    earlier = Tokenizer.from_folder(tmp_path / "t").hash

    def broken():
        yield EXAMPLES[0]
        raise UserError("the source broke off")

    with pytest.raises(UserError, match="broke off"):
        train_tokenizer(broken(), vocab_size=310, output_dir=tmp_path / "t")
    assert Tokenizer.from_folder(tmp_path / "t").hash == earlier
    train_tokenizer(EXAMPLES, vocab_size=310, output_dir=tmp_path / "t")
    assert Tokenizer.from_folder(tmp_path / "t").vocab_size == 310
    assert os.listdir(tmp_path) == ["t"]


def edit(path, **changes):
    value = json.loads(path.read_text())
    for key, change in changes.items():
        change(value) if callable(change) else value.update({key: change})
    path.write_text(json.dumps(value))


MUTILATIONS = {
    "no folder": (lambda f: f.rename(f.with_name("elsewhere")), "no such tokenizer folder"),
    "no tokenizer.json": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: no such file"),
    "no config": (lambda f: (f / "tokenizer_config.json").unlink(), "tokenizer_config.json: no such file"),
    "cut off": (lambda f: os.truncate(f / "tokenizer.json", 5000), "tokenizer.json: not valid JSON"),
    "not a tokenizer": (lambda f: (f / "tokenizer.json").write_text("[1]"), "cannot be read as a tokenizer"),
    "other end of text": (
        lambda f: edit(f / "tokenizer_config.json", eos_token="</s>"),
        "eos_token in tokenizer_config.json is '</s>'",
    ),
    "end of text is a list": (
        lambda f: edit(f / "tokenizer_config.json", eos_token=["<|endoftext|>"]),
        "eos_token in tokenizer_config.json is None",
    ),
    "bytes missing": (
        lambda f: edit(f / "tokenizer.json", cut=lambda v: cut_vocabulary(v, range(1, 31))),
        "30 of the 256 byte tokens are missing",
    ),
    "ids with a gap": (
        lambda f: edit(f / "tokenizer.json", cut=lambda v: v["model"]["vocab"].update({"ÿ": 9999})),
        "its ids are not 0 to",
    ),
    "changes text": (
        lambda f: edit(f / "tokenizer.json", normalizer={"type": "Lowercase"}),
        "decoding does not give back the encoded text",
    ),
    "not byte-level": (lambda f: edit(f / "tokenizer.json", decoder=None), "only byte-level"),
}


def cut_vocabulary(value, ids):
    """Takes ids out and moves the others up, so that nothing but the missing bytes is wrong."""
    model = value["model"]
    kept = sorted((id, token) for token, id in model["vocab"].items() if id not in ids)
    model["vocab"] = {token: id for id, (_, token) in enumerate(kept)}
    model["merges"] = []


@pytest.mark.parametrize("case", list(MUTILATIONS))
def test_a_mutilated_tokenizer_is_one_clear_line(case, tmp_path):
    train_tokenizer(EXAMPLES[:4], vocab_size=257, special_tokens=[END_OF_TEXT], output_dir=tmp_path / "t")
    mutilate, expected = MUTILATIONS[case]
    mutilate(tmp_path / "t")
    with pytest.raises(UserError, match=expected) as caught:
        Tokenizer.from_folder(tmp_path / "t")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mutilate", "expected"),
    [
        (lambda model, other: os.truncate(model, 3000), "spm.model: damaged"),
        (lambda model, other: model.write_bytes(b""), "spm.model: damaged"),
        (lambda model, other: shutil.copyfile(other, model), "spm.model: does not have the pieces of tokenizer.json"),
    ],
)
def test_a_mutilated_model_of_sentencepiece_is_one_clear_line(mutilate, expected, tmp_path):
    for name, examples in (("t", EXAMPLES), ("other", [Example(text, "en") for text in ENGLISH])):
        train_tokenizer(examples, vocab_size=545, model_type="unigram", output_dir=tmp_path / name)
    mutilate(tmp_path / "t" / "spm.model", tmp_path / "other" / "spm.model")
    with pytest.raises(UserError, match=expected) as caught:
        Tokenizer.from_folder(tmp_path / "t")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_the_earlier_tokenizer_stays(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(text for text, _ in EXAMPLES))
    command = [sys.executable, str(SCRIPT), "--input", str(tmp_path / "text.txt")]
    command += ["--vocab-size", "500", "--output-dir", str(tmp_path / "t")]
    subprocess.run(command, check=True, capture_output=True)
    before = Tokenizer.from_folder(tmp_path / "t").hash
    limited = f"ulimit -f 8; exec {' '.join(command)}"  # no file larger than 8 KiB
    result = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path / 't'}: the disk is full")
    assert result.stderr.count("\n") == 1
    assert Tokenizer.from_folder(tmp_path / "t").hash == before
    assert sorted(os.listdir(tmp_path)) == ["t", "text.txt"]


@pytest.mark.full
@pytest.mark.skipif("TONSAI_CORPUS" not in os.environ, reason="TONSAI_CORPUS (a folder of real text) is not set")
def test_real_khmer_takes_few_tokens(tmp_path):
    corpus = Path(os.environ["TONSAI_CORPUS"])
    inputs = [str(corpus / "km"), str(corpus / "en")]
    examples = list(file_examples(inputs, faults=Faults()))
    languages = [Example(text, Path(label).parent.name) for text, label in examples]
    report = train_tokenizer(
        (example for index, example in enumerate(languages) if index % 20),
        vocab_size=8000,
        output_dir=tmp_path / "t",
    )
    assert report["vocab_size"] == 8000
    tokenizer = Tokenizer.from_folder(tmp_path / "t")
    for language, least in (("km", 6.4), ("en", 3.8)):
        held_out = [text for text, label in languages[::20] if label == language]
        tokens = sum(len(ids) for ids in tokenizer.encode_batch(held_out))
        assert sum(len(text.encode()) for text in held_out) / tokens >= least


def test_words_counted_by_runs_are_those_of_the_pattern():
    rng = random.Random(0)
    letters = " " * 6 + "\n\n.ab'sក្ខា12\t\r\x1c\x85\u00a0\u200b\u3000"
    texts = [*TEXTS, *("".join(rng.choices(letters, k=rng.randint(0, 12))) for _ in range(20_000))]
    words = Counter(word for text in texts for word in regex.findall(bpe.PATTERN, text))
    assert bpe._count(texts, bpe.PATTERN) == words


def test_words_counted_in_many_batches_by_processes_are_the_same(monkeypatch):
    texts = [text for text, _ in EXAMPLES]
    whole = bpe._count_words(iter(texts), bpe.PATTERN)
    monkeypatch.setattr(bpe, "_BATCH_CHARACTERS", 500)
    assert bpe._count_words(iter(texts), bpe.PATTERN) == whole
    assert bpe._count_words(iter([]), bpe.PATTERN) == Counter()
