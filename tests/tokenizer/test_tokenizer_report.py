"""The report of a tokenizer: figures counted by hand, a comparison with other tokenizers, and a page that shows the tokens."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer
from tonsai_jax.tokenizer.encoding import LETTER_OF_BYTE
from tonsai_jax.tokenizer.even_sample import EvenSample, SampledText
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.measure import measure, measure_parallel
from tonsai_jax.tokenizer.report import write_report
from tonsai_jax.tokenizer.training import train_tokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "tokenizer_report.py"
KHMER, ENGLISH = (list(stories(language, 200, seed=5)) for language in ("km", "en"))
HELD_OUT = {language: [text.replace("\n", " ") for text in stories(language, 20, seed=6)] for language in ("km", "en")}


def byte_level(*made: bytes) -> tokenizers.Tokenizer:
    """A tokenizer like GPT-2's: "<|endoftext|>", 256 bytes, and `made`, each an earlier token (or a byte) plus one byte."""
    spelt = ["".join(LETTER_OF_BYTE[byte] for byte in token) for token in made]
    vocabulary = {token: id for id, token in enumerate(["<|endoftext|>", *LETTER_OF_BYTE.values(), *spelt])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [(token[:-1], token[-1]) for token in spelt]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def unigram(*pieces: str, byte_fallback: bool) -> tokenizers.Tokenizer:
    """A tokenizer like SentencePiece's: "<unk>", `pieces` of equal score, and 256 bytes if `byte_fallback`."""
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    vocabulary = [("<unk>", 0.0), *((piece, -1.0) for piece in pieces), *((piece, -99.0) for piece in byte_pieces)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def figures(tokenizer: tokenizers.Tokenizer, *texts: str) -> dict:
    sample: EvenSample[str] = EvenSample()
    for text in texts:
        sample.add(text, len(text.encode()))
    return measure(AnyTokenizer(tokenizer), {"any": sample})


def run_script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
        code: str | int | None = 0
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


KA = b"\xe1\x9e\x80"  # ក


def test_a_text_of_byte_level_tokens_counted_by_hand():
    tokenizer = byte_level(KA[:2], KA, b"ab")
    # ក, then the vowel in two: two bytes, which it has in common with ក, and one; a space; ab.
    assert figures(tokenizer, "កា ab")["fertility"]["any"] == {
        "examples": 1,
        "bytes": 9,
        "sample_bytes": 9,
        "sample_tokens": 5,
        "bytes_per_token": 1.8,
        "characters_per_token": 1.0,
        "clusters_per_token": 0.2,
        "ends_in_cluster": 0.4,  # after ក, and in its vowel
        "parts_of_characters": 0.4,  # the two of the vowel
        "unknown": 0.0,
    }


def test_a_vocabulary_counted_by_hand():
    vocabulary = figures(byte_level(KA[:2], KA, b"ab"), "កា ab")["vocabulary"]
    assert vocabulary["kinds"] == {
        "Khmer": 1,
        "Latin": 52 + 1,
        "other scripts": 0,
        "digits and signs": 128 - 52,
        "bytes": 128 + 1,
        "special": 1,
    }
    assert vocabulary["unused"] == 1 + 53 + 76 - 3  # all but ក, the space, ab
    assert vocabulary["longest"]["Khmer"] == ["ក"]
    assert vocabulary["longest"]["Latin"][:2] == ["ab", "A"]
    assert vocabulary["longest"]["other scripts"] == []


def test_bytes_that_unigram_falls_back_on_are_parts_of_characters_but_a_newline_is_whole():
    tokenizer = unigram("▁", "កា", byte_fallback=True)
    measured = figures(tokenizer, "កា ខ\n")  # កា, the space, three bytes of ខ, the newline
    line = measured["fertility"]["any"]
    assert line["sample_tokens"] == 6
    assert line["parts_of_characters"] == 0.5
    assert line["clusters_per_token"] == round(2 / 6, 4)
    assert line["ends_in_cluster"] == round(2 / 6, 4)  # the first two bytes of ខ
    assert line["unknown"] == 0.0
    assert measured["vocabulary"]["kinds"]["bytes"] == 256
    assert measured["vocabulary"]["kinds"]["special"] == 1


def test_text_that_the_tokenizer_cannot_represent_is_counted_as_unknown():
    line = figures(unigram("▁", "a", byte_fallback=False), "a ខ")["fertility"]["any"]
    assert (line["sample_tokens"], line["unknown"]) == (3, round(1 / 3, 4))


def test_text_without_khmer_has_no_syllables_and_empty_text_gives_zeros():
    line = figures(byte_level(), "ab")["fertility"]["any"]
    assert (line["bytes_per_token"], line["clusters_per_token"], line["ends_in_cluster"]) == (1.0, None, None)
    line = figures(byte_level(), "")["fertility"]["any"]
    assert (line["bytes_per_token"], line["parts_of_characters"]) == (0.0, 0.0)


def test_a_syllable_does_not_cross_two_texts():
    line = figures(byte_level(KA[:2], KA), "ក", "\u17b6")["fertility"]["any"]  # the vowel alone is not a syllable
    assert (line["sample_tokens"], line["clusters_per_token"], line["ends_in_cluster"]) == (3, round(1 / 3, 4), 0.0)


def test_a_special_token_spelled_out_in_a_text_is_text():
    measured = figures(byte_level(), "<|endoftext|>")
    assert measured["fertility"]["any"]["sample_tokens"] == len("<|endoftext|>")


def test_a_tokenizer_that_changes_the_text_is_measured_on_the_changed_text():
    tokenizer = unigram("▁", "ក", "\u17b6", byte_fallback=False)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    line = figures(tokenizer, "កា")["fertility"]["any"]  # the space, ក, the vowel
    assert (line["sample_tokens"], line["bytes_per_token"], line["ends_in_cluster"]) == (3, 2.0, round(1 / 3, 4))


def test_bytes_that_a_tokenizer_has_no_token_for_do_not_shift_what_comes_after():
    content = json.loads(byte_level(KA[:2], KA).to_str())
    del content["model"]["vocab"][LETTER_OF_BYTE[0x81]]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    line = figures(tokenizer, "ខកា")["fertility"]["any"]  # two bytes of ខ without the third, ក, the vowel in two
    assert (line["sample_tokens"], line["clusters_per_token"], line["ends_in_cluster"]) == (4, 0.25, 0.5)


def test_tokens_per_sentence_of_parallel_text():
    pairs: EvenSample[tuple[str, str]] = EvenSample()
    for pair in (("ក", "ab"), ("កក", "abc")):
        pairs.add(pair, sum(len(text.encode()) for text in pair))
    assert measure_parallel(AnyTokenizer(byte_level(KA[:2], KA, b"ab")), pairs, ("km.txt", "en.txt")) == {
        "sentences": 2,
        "tokens_per_sentence": {"km.txt": 1.5, "en.txt": 1.5},
        "ratio": 1.0,
    }


def shown(n: int, seed: int) -> list[dict[str, str]]:
    text = SampledText(n=n, seed=seed)
    examples = [Example(f"{label} {number}", label) for number in range(50) for label in ("km", "en")]
    assert list(text.passing(examples)) == [example.text for example in examples]
    return text.documents


def test_the_seed_selects_the_documents_to_show_from_the_labels_in_turn():
    assert shown(5, seed=42) == shown(5, seed=42)
    assert [document["text"][:2] for document in shown(5, seed=42)] == ["en", "km", "en", "km", "en"]
    assert {document["text"] for document in shown(5, seed=42)} != {document["text"] for document in shown(5, seed=43)}
    assert shown(0, seed=42) == []


def test_the_page_shows_every_token_with_its_id_and_makes_white_space_visible(tmp_path):
    tokenizer = byte_level(KA[:2], KA)
    write_report(
        tmp_path / "page.html",
        title="<Title>",
        lead="",
        measured={"ours": figures(tokenizer, "ក")},
        tokenizers={"ours": AnyTokenizer(tokenizer)},
        documents=[{"id": "one", "text": "ក <\n\u17b6"}],
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    ids = {letter: tokenizer.token_to_id(letter) for letter in ("Ġ", "<", "Ċ")}
    assert (
        f"<i title=258>ក</i><i title={ids['Ġ']}><u>·</u><wbr></i><i title={ids['<']}>&lt;</i>"
        f"<i title={ids['Ċ']}><u>↵</u>\n</i><i title=257><b>E1 9E</b></i><i title=" in page
    )
    assert "<strong>ours</strong> 6 tokens" in page
    assert "&lt;Title&gt;" in page
    assert not re.search(r"https?:|<script|src=|@import|url\(", page), "it needs no network"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """ours/, trained on stories; gpt2/, a Hugging Face folder with GPT-2's pattern, trained on the same; and texts."""
    root = tmp_path_factory.mktemp("report")
    examples = [Example(text, "km") for text in KHMER] + [Example(text, "en") for text in ENGLISH]
    train_tokenizer(examples, vocab_size=1500, output_dir=root / "ours")
    theirs = byte_level()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=list(LETTER_OF_BYTE.values()), show_progress=False)
    theirs.train_from_iterator([*KHMER, *ENGLISH], trainer)
    (root / "gpt2").mkdir()
    theirs.save(str(root / "gpt2/tokenizer.json"))
    for language, texts in HELD_OUT.items():
        (root / f"{language}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return root


def test_comparison_with_a_tokenizer_that_has_the_pattern_of_gpt2(folders, tmp_path, monkeypatch, capsys):
    arguments = ["--tokenizer-dir", folders / "ours", "--compare", folders / "gpt2"]
    arguments += [
        "--input",
        folders / "km.txt",
        folders / "en.txt",
        "--parallel",
        folders / "km.txt",
        folders / "en.txt",
    ]
    arguments += ["--output-dir", tmp_path / "out", "--json", tmp_path / "figures.json"]
    code, out, _ = run_script(monkeypatch, capsys, *arguments)
    assert code == 0
    evaluation = json.loads((tmp_path / "out/evaluation.json").read_text(encoding="utf-8"))
    assert evaluation == json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    ours, theirs = evaluation["tokenizers"]["ours"], evaluation["tokenizers"]["gpt2"]
    for language, texts in HELD_OUT.items():
        assert ours["fertility"][language]["sample_bytes"] == sum(len(text.encode()) for text in texts)
    assert ours["fertility"]["km"]["bytes_per_token"] > 2 * theirs["fertility"]["km"]["bytes_per_token"]
    assert ours["fertility"]["km"]["ends_in_cluster"] < 0.1 < 0.4 < theirs["fertility"]["km"]["ends_in_cluster"]
    assert ours["parallel"]["ratio"] < theirs["parallel"]["ratio"]
    lines = [line.split() for line in out.splitlines()]
    for name, measured in evaluation["tokenizers"].items():
        assert ["km", name, f"{measured['fertility']['km']['bytes_per_token']:.2f}"] in [line[:3] for line in lines]
        english = next(line for line in lines if line[:2] == ["en", name])
        assert english[4:6] == ["-", "-"], "no Khmer syllables in English"
    page = (tmp_path / "out/evaluation.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 10
    assert page.count("<strong>ours</strong>") == page.count("<strong>gpt2</strong>") == 10


def test_the_same_text_gives_the_same_bytes(folders, tmp_path, monkeypatch, capsys):
    prepare([Source("a", "km", documents=KHMER), Source("b", "en", documents=ENGLISH)], tmp_path / "d", progress=False)
    arguments = ["--tokenizer-dir", folders / "ours", "--dataset-dir", tmp_path / "d", "--n", "4", "--seed"]
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        assert run_script(monkeypatch, capsys, *arguments, seed, "--output-dir", tmp_path / name)[0] == 0
    for file in ("evaluation.json", "evaluation.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
        assert (tmp_path / "one" / file).read_bytes() != (tmp_path / "other" / file).read_bytes()
    languages = json.loads((tmp_path / "one/evaluation.json").read_text())["tokenizers"]["ours"]["fertility"]
    assert {label: line["examples"] for label, line in languages.items()} == {"km": len(KHMER), "en": len(ENGLISH)}


def test_training_writes_the_same_figures_for_its_training_text(folders):
    report = json.loads((folders / "ours/report.json").read_text(encoding="utf-8"))
    inner = tokenizers.Tokenizer.from_file(str(folders / "ours/tokenizer.json"))
    assert report["vocabulary"]["kinds"]["special"] == 31
    assert sum(report["vocabulary"]["kinds"].values()) == report["vocab_size"] == 1500
    assert report["fertility"]["km"] == figures(inner, *KHMER)["fertility"]["any"]
    assert "<strong>bpe</strong>" in (folders / "ours/report.html").read_text(encoding="utf-8")


def test_without_an_output_folder_the_files_go_to_the_tokenizers_folder_and_leave_its_files(
    folders, monkeypatch, capsys
):
    before = {path.name: path.read_bytes() for path in (folders / "ours").iterdir()}
    arguments = ["--tokenizer-dir", folders / "ours/tokenizer.json", "--input", folders / "en.txt"]
    code, out, _ = run_script(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "evaluation.html: the same figures, and texts token by token" in out
    after = {path.name: path.read_bytes() for path in (folders / "ours").iterdir()}
    assert after.keys() - before.keys() == {"evaluation.json", "evaluation.html"}
    assert {name: after[name] for name in before} == before


def test_folders_of_the_same_name_are_told_apart_and_the_same_folder_is_measured_once(
    folders, tmp_path, monkeypatch, capsys
):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/tokenizer.json").write_bytes((folders / "gpt2/tokenizer.json").read_bytes())
    arguments = ["--tokenizer-dir", folders / "ours", "--compare", tmp_path / "ours", folders / "ours"]
    arguments += ["--input", folders / "en.txt", "--output-dir", tmp_path, "--json", tmp_path / "figures.json"]
    assert run_script(monkeypatch, capsys, *arguments)[0] == 0
    names = json.loads((tmp_path / "figures.json").read_text())["tokenizers"]
    assert list(names) == [str(folders / "ours"), str(tmp_path / "ours")]


def test_lines_of_files_are_told_apart_by_their_script(folders, tmp_path, monkeypatch, capsys):
    (tmp_path / "mixed.txt").write_text("ภาษา\nភាសា\nlanguage\n", encoding="utf-8")
    arguments = ["--tokenizer-dir", folders / "ours", "--input", tmp_path / "mixed.txt", "--output-dir", tmp_path]
    for languages, expected in ((None, ["en", "km", "other"]), ("th,km", ["km", "other", "th"])):
        chosen = ["--languages", languages] if languages else []
        assert run_script(monkeypatch, capsys, *arguments, *chosen)[0] == 0
        found = json.loads((tmp_path / "evaluation.json").read_text())["tokenizers"]["ours"]["fertility"]
        assert list(found) == expected


def bad_commands(folders: Path, folder: Path):
    """Name → (arguments, what the one line says)."""
    good = ["--tokenizer-dir", folders / "ours", "--output-dir", folder / "out", "--input", folders / "en.txt"]
    return {
        "no such tokenizer": (["--tokenizer-dir", folder / "none", *good[2:]], "none: no such tokenizer folder"),
        "no such other": ([*good, "--compare", folder / "none"], "none: no such tokenizer folder"),
        "no tokenizer.json": (
            [*good, "--compare", folder / "empty"],
            "write one with save_pretrained of Hugging Face's AutoTokenizer",
        ),
        "not json": ([*good, "--compare", folder / "cut.json"], "cut.json: not valid JSON"),
        "no tokenizer": ([*good, "--compare", folder / "other.json"], "other.json: cannot be used as a tokenizer"),
        "another kind": ([*good, "--compare", folder / "words.json"], "neither byte-level nor pieces"),
        "no text": ([*good[:-1], folder / "blank.txt"], "there is no text to measure on"),
        "not UTF-8": ([*good[:-1], folder / "latin.txt"], "not UTF-8 at byte 3 (0xe9); repair the input\n"),
        "no such text": ([*good[:-1], folder / "none.txt"], "none.txt: no such file"),
        "not parallel": ([*good, "--parallel", folders / "en.txt", folder / "two.txt"], "after 2 sentences"),
        "no such language": ([*good, "--languages", "km,xx"], "--languages: language 'xx' is not known"),
        "a name of a language": (
            [*good, "--languages", "khmer,en"],
            "language 'khmer' is not written as a BCP-47 code",
        ),
        "no known script": ([*good, "--languages", "km,nv"], "--languages 'nv': its script is not known"),
        "documents below 0": ([*good, "--n", "-1"], "--n -1: must be at least 0"),
    }


@pytest.mark.parametrize("case", list(bad_commands(Path(), Path())))
def test_bad_input_is_one_line_and_leaves_nothing(case, folders, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "cut.json").write_text('{"version": "1.0", ')
    (tmp_path / "other.json").write_text('{"version": "1.0"}')
    words = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    words.save(str(tmp_path / "words.json"))
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    arguments, expected = bad_commands(folders, tmp_path)[case]
    code, out, err = run_script(monkeypatch, capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "out").exists()
