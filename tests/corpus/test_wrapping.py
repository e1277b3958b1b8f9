"""Hard-wrapped text files are found by their lines, and read as the paragraphs that they were."""

import itertools
import os
import random
import re
import textwrap
from pathlib import Path
from unittest import mock

import pytest

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources import wrapping as module
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.lines import open_bytes
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.corpus.sources.wrapping import PREFIX_BYTES, Wrapping, find_wrapping, unwrap, wrapping_of
from tonsai_jax.text.syllables import SYLLABLE

WORDS = [
    "the",
    "whale",
    "a",
    "sea",
    "of",
    "and",
    "harpoon",
    "deck",
    "in",
    "captain",
    "that",
    "mast",
    "which",
    "we",
    "wind",
]
SYLLABLES = ["កា", "ខេត្ត", "ស្រុក", "ភូ", "មិ", "ព្រះ", "រា", "ជា", "ណា", "ចក្រ", "ប្រ", "ទេស", "គ្នា", "ខ្មែរ", "នៅ", "និង"]


def paragraphs(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    sentences = [" ".join(chance.choices(WORDS, k=chance.randint(8, 30))).capitalize() + "." for _ in range(4 * count)]
    return [" ".join(sentences[4 * number : 4 * number + 4]) for number in range(count)]


def khmer_paragraphs(count: int) -> list[str]:
    chance = random.Random(0)

    def phrase() -> str:
        return "".join(chance.choices(SYLLABLES, k=chance.randint(4, 12)))

    return [" ".join(phrase() for _ in range(30)) + "។" for _ in range(count)]


def wrapped_at_spaces(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def wrapped_at_syllables(text: str, width: int) -> str:
    """As word processors do it: the space at which a line ends goes away."""
    lines = [""]
    for unit in re.findall(f"{SYLLABLE.pattern}|.", text):
        if len(lines[-1]) + len(unit) > width:
            lines.append("")
        lines[-1] += unit if lines[-1] or unit != " " else ""
    return "\n".join(line.rstrip() for line in lines)


def wrapping(text: str) -> Wrapping | None:
    return wrapping_of(text.encode()[:PREFIX_BYTES])


def read(path: Path, document=None) -> list[str]:
    return [text.strip() for text in Source("a", "en", path=str(path), document=document).texts(Faults())]


@pytest.mark.parametrize("width", [60, 72, 80])
@pytest.mark.parametrize(("gap", "boundary"), [("\n\n", "paragraph"), ("\n    ", "file")])
def test_a_wrapped_book_is_found(width, gap, boundary):
    text = gap.join(wrapped_at_spaces(paragraph, width) for paragraph in paragraphs(40))
    found = wrapping(text)
    assert found is not None
    assert (found.boundary, abs(found.width - width) <= 1) == (boundary, True)


def test_its_documents_are_the_paragraphs_with_their_lines_joined(tmp_path):
    text = "\n\n".join(wrapped_at_spaces(paragraph, 72) for paragraph in paragraphs(40))
    (tmp_path / "book.txt").write_text(text.replace("\n", "\r\n"))
    assert read(tmp_path / "book.txt") == paragraphs(40)


def test_without_blank_lines_the_file_is_one_document_and_an_indented_line_begins_a_paragraph(tmp_path):
    text = "\n".join("    " + wrapped_at_spaces(paragraph, 72) for paragraph in paragraphs(40))
    (tmp_path / "book.txt").write_text(text)
    (document,) = read(tmp_path / "book.txt")
    assert [line.strip() for line in document.split("\n")] == paragraphs(40)


@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
def test_what_is_asked_for_is_done_and_no_line_is_joined(tmp_path, document):
    text = "\n\n".join(wrapped_at_spaces(paragraph, 72) for paragraph in paragraphs(40))
    (tmp_path / "book.txt").write_text(text)
    pattern = {"line": "\n+", "paragraph": "\n\n", "file": "never"}[document]
    assert read(tmp_path / "book.txt", document) == re.split(pattern, text)


@pytest.mark.parametrize(
    ("wrap", "glue"), [(wrapped_at_spaces, " "), (wrapped_at_syllables, "")], ids=["at spaces", "at syllables"]
)
def test_khmer_lines_are_joined_as_they_were_broken(wrap, glue):
    text = "\n\n".join(wrap(paragraph, 80) for paragraph in khmer_paragraphs(60))
    found = wrapping(text)
    assert found is not None
    assert found.glue == glue
    joined = unwrap(text, found)
    if glue:
        assert joined.split("\n\n") == khmer_paragraphs(60)
    else:  # nobody can tell whether there was a space where a line ends
        assert joined.replace(" ", "").split("\n\n") == [each.replace(" ", "") for each in khmer_paragraphs(60)]
        assert joined.count(" ") <= sum(paragraph.count(" ") for paragraph in khmer_paragraphs(60))


LISTS = {
    "sentences": "\n".join(" ".join(paragraphs(60)).replace(". ", ".\n").split("\n")),
    "sentences without an end": " ".join(paragraphs(60)).replace(". ", "\n"),
    "Khmer phrases": "\n".join(" ".join(khmer_paragraphs(20)).split()),
    "Khmer sentences": "\n".join(khmer_paragraphs(200)),
    "paragraphs": "\n\n".join(paragraphs(60)),
    "verse": "\n".join(
        line.capitalize() for text in paragraphs(20) for line in wrapped_at_spaces(text, 44).split("\n")
    ),
    "addresses": "\n".join(f"https://example.org/news/articles/{number:030}" for number in range(500)),
    "a pattern": "\n".join(
        f"the quick brown fox number {number} jumps over the lazy dog" for number in range(100, 900)
    ),
    "numbered": "\n".join(
        f"{number} {text[: 48 + number % 4]}" for number, text in enumerate(paragraphs(300), start=100)
    ),
    "columns": "\n".join(
        " ".join(f"{'abcdef'[(row * col) % 6]}{row * col:06}" for col in range(1, 9)) for row in range(99)
    ),
    "Khmer by a pattern": "\n".join(f"ប្រទេសកម្ពុជា ទី {number} កុមារទៅសាលារៀន ហើយសិក្សា" for number in range(100, 900)),
    "numbers": "\n".join(f"{number:064x}" for number in range(500)),
    "five wrapped lines": "\n".join(wrapped_at_spaces(paragraphs(1)[0], 60).split("\n")[:5]),
    "nothing": "",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_texts_are_read_by_line_as_ever(name, tmp_path):
    (tmp_path / "list.txt").write_text(LISTS[name], encoding="utf-8")
    assert wrapping(LISTS[name]) is None
    (span,) = Source("a", "en", path=str(tmp_path / "list.txt")).by_file()[0].spans
    assert (span.boundary, span.wrapping) == ("line", None)


def test_only_lines_that_were_full_are_joined():
    found = Wrapping(72, "paragraph", " ")
    full = "x" * 60
    for text, joined in {
        f"{full}\nnext": f"{full} next",
        f"  {full}  \n  next": f"  {full} next",
        "a short line of verse,\nand the next": "a short line of verse,\nand the next",
        f"{full}\n    indented": f"{full}\n    indented",
        f"    {full}\nof the same paragraph": f"    {full} of the same paragraph",
        f"{full}\n- an item\n2. another": f"{full}\n- an item\n2. another",
        f"{full} well-\nknown": f"{full} well-known",
        f"{full} this -\nthat": f"{full} this - that",
        f"{full}\n\nanother": f"{full}\n\nanother",
        f"{full}\r\nnext\r\n": f"{full} next\r\n",
        f"{full}ក\nខ": f"{full}ក ខ",
        f"short\n{full} long words": f"short\n{full} long words",
        f"short\n{full}{full} word": f"short {full}{full} word",
        "": "",
    }.items():
        assert unwrap(text, found) == joined, text
    assert unwrap(f"{full}ក\nខ and\nថ។\nក", Wrapping(60, "paragraph", "")) == f"{full}កខ and\nថ។\nក"


@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
def test_the_documents_do_not_depend_on_how_a_file_is_cut(tmp_path, ending):
    import gzip

    text = "Title\n\n" + "\n\n".join(wrapped_at_spaces(paragraph, 72) for paragraph in paragraphs(1500))
    path = tmp_path / f"book{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    assert len(text) > 2 * PREFIX_BYTES
    source = Source("a", "en", path=str(path))
    (whole,) = source.pieces(10**9)
    pieces = source.pieces(50_000)
    assert len(pieces) > 5 or ending == ".txt.gz"
    expected = list(whole.documents(Faults()))
    assert list(itertools.chain.from_iterable(piece.documents(Faults()) for piece in pieces)) == expected
    assert [text.strip() for _, text in expected] == ["Title", *paragraphs(1500)]


def test_prepare_judges_each_file_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    judge = mock.Mock(wraps=wrapping_of)
    monkeypatch.setattr(module, "wrapping_of", judge)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n".join(f"line {number} of {name}" for number in range(20)))
    source = Source("a", "en", path=str(tmp_path / "*.txt"))
    prepare([source], tmp_path / "out", progress=False)
    assert judge.call_count == 2
    (tmp_path / "b.txt").write_text(wrapped_at_spaces(" ".join(paragraphs(9)), 60))
    assert [piece.spans[0].boundary for piece in source.by_file()] == ["line", "file"]
    assert judge.call_count == 3


def test_a_file_that_cannot_be_read_is_not_judged(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(b"no gzip")
    assert find_wrapping(tmp_path / "a.txt.gz") is None
    assert find_wrapping(tmp_path / "none.txt") is None


CORPUS = os.environ.get("TONSAI_CORPUS")


def real(name: str) -> str:
    with open_bytes(Path(str(CORPUS), f"{name}.txt.gz")) as stream:
        return stream.read(400_000).decode("utf-8", "ignore")


@pytest.mark.skipif(not CORPUS, reason="TONSAI_CORPUS is not set: a folder with real Khmer and English text")
@pytest.mark.parametrize("name", ["en/se_moby_dick", "en/se_middlemarch", "km/wiki5k", "km/constitution"])
def test_real_text_that_is_wrapped_is_found_and_real_lists_are_not(name):
    text = real(name)
    ends = re.compile(r"(?<=[.!?។])\s+")
    sentences = [sentence for line in text.split("\n") for sentence in ends.split(line) if sentence]
    groups = [" ".join(sentences[start : start + 4]) for start in range(0, len(sentences), 4)]
    for width in (60, 72, 80):
        for wrap in (wrapped_at_spaces, wrapped_at_syllables):
            if wrap is wrapped_at_syllables and name.startswith("en"):
                continue
            for gap in ("\n\n", "\n"):
                found = wrapping(gap.join(wrap(group, width) for group in groups))
                assert found is not None, (width, wrap, gap)
                assert not name.startswith("km") or found.glue == (" " if wrap is wrapped_at_spaces else "")
    assert wrapping("\n".join(sentences)) is None
    assert wrapping(text) is None
    assert wrapping("\n".join(text.split())) is None, "phrases in Khmer, words in English"


@pytest.mark.skipif(not CORPUS, reason="TONSAI_CORPUS is not set: a folder with real Khmer and English text")
def test_prompts_without_any_punctuation_are_a_list():
    assert wrapping(real("km/google_tts_prompts")) is None
