"""Toxicity by a word list, or by a function of the user."""

from pathlib import Path

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.prompt_suite.toxicity import of_function, of_words


def test_a_word_or_phrase_of_the_file_is_found_whatever_its_case_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeffgrumble\nbad   day\nពាក្យខែ្មរ\n\n", encoding="utf-8")  # its marks are in the wrong order
    toxicity = of_words(path)
    for text in ("Do not Grumble!", "a bad, Day", "នេះជាពាក្យខ្មែរ។"):
        assert toxicity(text) == 1.0
    for text in ("grumbles", "a bad good day", "ពាក្យ ខ្ញុំ"):
        assert toxicity(text) == 0.0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n ...\n", "holds no words; write one word or phrase a line"), (b"\xe9", "not UTF-8 at byte 0; save the file")],
)
def test_a_file_without_words_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        of_words(tmp_path / "words.txt")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file or directory\); check the path"):
        of_words(tmp_path / "none.txt")


def test_a_classifier_is_a_function_of_a_module_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge_of_a_test.py").write_text(
        "def length(text):\n    return len(text) / 10\n\ndef fails(text):\n    return text.score\n"
    )
    assert of_function("--toxicity", "judge_of_a_test:length")("five!") == 0.5
    with pytest.raises(UserError, match=r"--toxicity=judge_of_a_test:length: gave 1\.1 for .*must lie between 0 and 1"):
        of_function("--toxicity", "judge_of_a_test:length")(11 * "x")
    with pytest.raises(UserError, match=r"--toxicity=judge_of_a_test:fails: failed for the text 'x' \(AttributeError"):
        of_function("--toxicity", "judge_of_a_test:fails")("x")
    with pytest.raises(UserError, match=r"--toxicity=judge_of_a_test:none: cannot be loaded"):
        of_function("--toxicity", "judge_of_a_test:none")
