"""Decontamination: documents that hold a part of an evaluation set go, and it is written which and why."""

import json
from pathlib import Path

import pytest

from tonsai_jax.corpus.cleaning.decontaminate import Decontamination
from tonsai_jax.corpus.documents import read_documents, read_documents_manifest
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.recipe import Settings
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.errors import UserError

QUESTION = "Which river, the longest of all in Asia, flows through eleven provinces before it meets the sea?"
KHMER = "ប្រទេសកម្ពុជាមានទន្លេមេគង្គហូរកាត់ពីខាងជើងទៅខាងត្បូង ហើយប្រជាជនភាគច្រើនរស់នៅតាមដងទន្លេនេះតាំងពីបុរាណកាលមក"


def prepared(tmp_path: Path, texts: list[str], **keys: int) -> list[str]:
    (tmp_path / "eval.jsonl").write_text(
        json.dumps({"question": QUESTION, "choices": ["Yangtze", {"text": "Mekong"}]}) + "\n", encoding="utf-8"
    )
    (tmp_path / "km.txt").write_text(f"ខ្លី\n{KHMER}\n", encoding="utf-8")
    sets = Decontamination((str(tmp_path / "eval.jsonl"), str(tmp_path / "km.txt")), **keys)
    prepare([Source("a", "en", documents=texts)], tmp_path / "out", Settings(decontaminate=sets), progress=False)
    return [text for batch in read_documents(tmp_path / "out", "a") for text in batch]


def test_what_shares_a_row_of_words_or_clusters_goes_and_is_listed(tmp_path: Path) -> None:
    harmless = ["Mekong", "which river the longest of all in Asia flows through nine", KHMER[:30]]
    quoting = f"A quiz: {QUESTION.upper()[7:]} Guess"
    copied = f"មុន{KHMER[6:].replace(' ', '')}ក្រោយ"
    assert prepared(tmp_path, [harmless[0], quoting, *harmless[1:], copied]) == harmless
    manifest = read_documents_manifest(tmp_path / "out")
    assert manifest["sources"]["a"]["filters"] == {"contaminated": 2}
    assert manifest["decontaminate"]["texts"] == 2
    assert manifest["decontaminate"]["too_short"] == 3, "the two choices and the short line"
    first, second = map(json.loads, (tmp_path / "out" / "contaminated.jsonl").read_text(encoding="utf-8").splitlines())
    assert (Path(first["file"]).name, first["place"], first["text"]) == ("eval.jsonl", "line 1", QUESTION)
    assert (Path(second["file"]).name, second["text"]) == ("km.txt", KHMER)


def test_fewer_words_find_more(tmp_path: Path) -> None:
    assert prepared(tmp_path, ["other", "the river flows through eleven provinces before dawn"], words=5) == ["other"]


def test_a_changed_evaluation_set_is_read_again(tmp_path: Path) -> None:
    assert prepared(tmp_path, ["text", QUESTION]) == ["text"]
    (tmp_path / "eval.txt").write_text("one two three four five six seven eight nine ten eleven twelve thirteen")
    sets = Decontamination((str(tmp_path / "eval.txt"),))
    prepare([Source("a", "en", documents=["text", QUESTION])], tmp_path / "out", Settings(decontaminate=sets))
    assert read_documents_manifest(tmp_path / "out")["sources"]["a"]["documents"] == 2


def test_a_set_that_cannot_be_looked_for_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short\n")
    for files, message in (
        ((str(tmp_path / "short.txt"),), "every text of .*short.txt is too short"),
        (("gone.txt",), "gone.txt"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(
                [Source("a", "en", documents=["text"])],
                tmp_path / "out",
                Settings(decontaminate=Decontamination(files)),
                progress=False,
            )
