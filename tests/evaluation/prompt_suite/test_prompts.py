"""The suite of this project, and the file of a user in the same format."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.prompt_suite.prompts import Prompt, read_suite
from tonsai_jax.text.normalize import normalize
from tonsai_jax.text.scripts import script_share

GOOD = '{"id": "a", "kind": "question", "language": "km", "prompt": "តើ"}'


def test_every_prompt_of_the_project_is_in_normal_form() -> None:
    assert [prompt.id for prompt in read_suite() if normalize(prompt.prompt) != prompt.prompt] == []


def test_the_suite_of_the_project_has_every_kind_in_full_batches() -> None:
    suite = read_suite()
    kinds = Counter(prompt.kind for prompt in suite)
    assert kinds.keys() == {
        "question", "summary", "translation", "continuation", "instruction", "code-switching", "numbers", "dates", "names",
    }  # fmt: skip
    assert min(kinds.values()) >= 4
    assert len(suite) % 16 == 0, "prompts are continued 16 at once; a smaller batch is compiled for itself"
    assert {prompt.language for prompt in suite} == {"km", "en"}


def test_prompts_of_the_project_are_in_their_language_and_translations_ask_for_the_other() -> None:
    for prompt in read_suite():
        assert prompt.prompt_language in ("km", "en")
        mixed = prompt.kind in ("translation", "code-switching")
        assert mixed or script_share(prompt.prompt, prompt.language) == 1, prompt.id
        assert mixed or prompt.language == prompt.prompt_language, prompt.id
    ways = Counter(prompt.language for prompt in read_suite() if prompt.kind == "translation")
    assert ways == {"km": 3, "en": 3}


def test_a_file_of_a_user_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    more = {
        "id": "b",
        "kind": "k",
        "language": "km",
        "prompt": "p",
        "also": ["en"],
        "max_new_tokens": 9,
        "min_characters": 0,
    }
    path.write_text(f"\ufeff{GOOD}\n\n{json.dumps(more)}\n", encoding="utf-8")
    assert read_suite(path) == [
        Prompt("a", "question", "km", "តើ"),
        Prompt("b", "k", "km", "p", also=("en",), max_new_tokens=9, min_characters=0),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b", "kind": "k", "language": "km"}', "the key 'prompt' is missing"),
        (GOOD.replace('"a"', '"b"').replace("តើ", " "), "prompt is ' '; it must be a text of at least one character"),
        (GOOD.replace('"a"', "3"), "id is 3; it must be a text"),
        (GOOD.replace("kind", "knd"), "no such key 'knd'; did you mean 'kind'?"),
        (GOOD.replace("km", "khmer"), "language 'khmer' is not written as a BCP-47 code; did you mean 'km'?"),
        (GOOD, "the id 'a' is that of an earlier prompt; give each its own"),
        (GOOD[:-1], "not JSON ("),
        ("[1]", "not an object with the keys id, kind, language, prompt"),
        (GOOD[:-1] + ', "max_new_tokens": 0}', "max_new_tokens is 0; it must be a whole number of at least 1"),
        (GOOD[:-1] + ', "min_characters": true}', "min_characters is True; it must be a whole number of at least 0"),
        (GOOD[:-1] + ', "also": "en"}', "also is 'en'; it must be a list of languages such as ['en']"),
    ],
)
def test_a_line_that_is_no_prompt_is_named_with_its_file(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as raised:
        read_suite(path)
    assert str(raised.value).startswith(f"{path}: line 2: {message}")


def test_a_file_without_prompts_or_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "latin.jsonl").write_bytes(b"caf\xe9")
    for name, message in (
        ("empty.jsonl", "holds no prompts; a line is an object with the keys id"),
        ("latin.jsonl", "not UTF-8 at byte 3; save the file as UTF-8"),
        ("none.jsonl", "cannot be read (No such file or directory); check the path"),
    ):
        with pytest.raises(UserError) as raised:
            read_suite(tmp_path / name)
        assert str(raised.value).startswith(f"{tmp_path / name}: {message}")
