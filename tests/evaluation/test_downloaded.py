"""Tests of tonsai_jax/evaluation/downloaded.py."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.scorecard_data import ENGLISH, KHMER, write_flores, write_ntrex, write_sib200
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.downloaded import read_flores, read_ntrex, read_sib200

BOTH = {"km": KHMER, "en": ENGLISH}


def test_ntrex_is_one_sentence_a_line_in_any_folder_below(tmp_path: Path) -> None:
    write_ntrex(tmp_path / "NTREX" / "NTREX-128")
    assert read_ntrex(tmp_path).texts == BOTH


def test_a_sentence_may_hold_a_line_separator_of_unicode(tmp_path: Path) -> None:
    km = [f"{KHMER[0]}\u2028{KHMER[1]}", *KHMER[1:]]
    write_ntrex(tmp_path, km)
    assert read_ntrex(tmp_path).texts["km"] == km


def test_flores_is_read_from_the_hubs_files_and_from_those_of_flores_200(tmp_path: Path) -> None:
    write_flores(tmp_path / "jsonl")
    for form in ("parquet", "older"):
        (tmp_path / form / "devtest").mkdir(parents=True)
    for code, texts in (("khm_Khmr", KHMER), ("eng_Latn", ENGLISH)):
        pq.write_table(pa.table({"id": range(20), "text": texts}), tmp_path / "parquet" / "devtest" / f"{code}.parquet")
        (tmp_path / "older" / "devtest" / f"{code}.devtest").write_text("\n".join(texts) + "\n", encoding="utf-8")
    for form in ("jsonl", "parquet", "older"):
        assert read_flores(tmp_path / form).texts == BOTH


def test_sib200_is_a_table_with_quoted_sentences(tmp_path: Path) -> None:
    write_sib200(tmp_path)
    topics = read_sib200(tmp_path, "en", "test")
    assert topics[0]["text"] == f'{ENGLISH[0]} "{ENGLISH[1]}"'
    assert [topic["text"] for topic in topics[1:]] == ENGLISH[1:]
    assert Counter(topic["category"] for topic in topics)["travel"] == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "newstest2019-ref.khm.txt",
            None,
            "{folder}: there is no newstest2019-ref.khm.txt in it; docs/scorecard.md has",
        ),
        ("newstest2019-ref.khm.txt", b"", "{path}: the file is empty; download it again"),
        ("newstest2019-src.eng.txt", b"one\n\nthree\n", "{path}: sentence 2 is empty; download the file again"),
        ("newstest2019-src.eng.txt", b"one\n\xff\n", "{path}: not UTF-8 at byte 4; download the file again"),
        (
            "newstest2019-src.eng.txt",
            b"one\ntwo\n",
            "newstest2019-ref.khm.txt has 20 sentences and {path} has 2: they do not",
        ),
        ("newstest2019-src.eng.txt", b"version https://git-lfs.github.com/spec/v1\n", "{path}: only a Git-LFS pointer"),
        (
            "devtest/khm_Khmr.jsonl",
            None,
            "{folder}: there is no devtest/khm_Khmr.parquet or devtest/khm_Khmr.jsonl or khm_",
        ),
        ("devtest/khm_Khmr.jsonl", b'{"text": "one"}\n{"txt"', '{path}: line 2 is not JSON with a "text"; download'),
        ("devtest/khm_Khmr.jsonl", b'["text"]', '{path}: line 1 is not JSON with a "text"; download'),
        ("devtest/khm_Khmr.parquet", b"text", '{path}: no parquet file with a column "text" ('),
        ("khm_Khmr/test.tsv", None, "{folder}: there is no khm_Khmr/test.tsv in it; docs/scorecard.md has"),
        ("khm_Khmr/test.tsv", b"index_id\tcategory\ttext\n", "{path}: not a table with the columns category and text"),
        ("khm_Khmr/test.tsv", b"text\none\n", "{path}: not a table with the columns category and text"),
    ],
)
def test_a_missing_or_damaged_file_is_one_line_that_names_it(name: str, content, message: str, tmp_path: Path) -> None:
    for write in (write_ntrex, write_flores, write_sib200):
        write(tmp_path)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_everything(tmp_path)
    assert message.format(folder=tmp_path, path=path) in str(raised.value)
    assert "\n" not in str(raised.value)


def read_everything(folder: Path) -> None:
    read_ntrex(folder)
    read_flores(folder)
    read_sib200(folder, "km", "test")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder; give the one with the downloaded test sets"):
        read_ntrex(tmp_path / "nowhere")
