"""Prepared documents: what is written is what is read, in row groups and parts of bounded size."""

import pyarrow.parquet as pq
import pytest

from tonsai_jax.corpus import documents
from tonsai_jax.corpus.documents import read_documents, read_documents_manifest
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json


def test_documents_come_back_in_order_over_many_row_groups_and_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 100)
    monkeypatch.setattr(documents, "PART_BYTES", 1000)
    texts = [f"document {number} " + "x" * (number % 50) for number in range(200)] + ["y" * 5000]
    texts = [text.strip() for text in texts]
    manifest = prepare([Source("a", "en", documents=texts)], tmp_path / "out", progress=False)
    entry = manifest["sources"]["a"]

    assert entry["files"][:2] == ["a/part-00000.parquet", "a/part-00001.parquet"]
    batches = list(read_documents(tmp_path / "out", "a"))
    assert [text for batch in batches for text in batch] == texts
    assert all(sum(map(len, batch)) <= 100 for batch in batches[:-1])
    assert entry["documents"] == len(texts)
    assert entry["bytes"] == sum(map(len, texts))
    tables = [pq.read_table(tmp_path / "out" / name) for name in entry["files"]]
    assert all(table["text"].nbytes <= 1000 + 4 * len(table) + 100 for table in tables[:-1])


def test_columns_are_text_language_source_and_an_id_of_file_and_byte(tmp_path):
    prepare([Source("km_news", "km", documents=["ក", "", "គ"])], tmp_path / "out", progress=False)
    table = pq.ParquetFile(tmp_path / "out/km_news/part-00000.parquet").read()
    assert table.to_pylist() == [
        {"text": "ក", "language": "km", "source": "km_news", "id": "km_news/0-0"},
        {"text": "គ", "language": "km", "source": "km_news", "id": "km_news/0-32"},
    ]


def test_what_is_no_folder_of_documents_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_documents_manifest(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        read_documents_manifest(tmp_path)
    write_json(tmp_path / "manifest.json", {"format": "tonsai_jax/rows", "version": 1})
    with pytest.raises(UserError, match="not a manifest of prepared documents"):
        read_documents_manifest(tmp_path)
    write_json(tmp_path / "manifest.json", {"format": documents.FORMAT, "version": 99})
    with pytest.raises(UserError, match="version 99, but this program reads 1"):
        read_documents_manifest(tmp_path)


def test_a_missing_damaged_or_unknown_part_is_named(tmp_path):
    prepare([Source("a", "en", documents=["text"])], tmp_path / "out", progress=False)
    part = tmp_path / "out/a/part-00000.parquet"
    with pytest.raises(UserError, match="no source 'b'; there are: a"):
        next(read_documents(tmp_path / "out", "b"))
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"part-00000.parquet: damaged"):
        next(read_documents(tmp_path / "out", "a"))
    part.unlink()
    with pytest.raises(UserError, match=r"part-00000.parquet: named in manifest.json but missing"):
        next(read_documents(tmp_path / "out", "a"))
