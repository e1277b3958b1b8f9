"""Prepared documents: what is written is what is read, in row groups and parts of bounded size."""

import pyarrow.parquet as pq
import pytest

from tests.support.flips import assert_no_flip_is_silent
from tonsai_jax.corpus import documents
from tonsai_jax.corpus.documents import read_documents, read_documents_manifest
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json


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


def edit_manifest(folder, change, *, keeps_checksum=False):
    manifest = read_json(folder / "manifest.json")
    change(manifest)
    if not keeps_checksum:
        del manifest["checksum"]
    write_json(folder / "manifest.json", manifest)


@pytest.fixture
def prepared(tmp_path):
    prepare([Source("a", "en", documents=["text", "more text"])], tmp_path / "out", progress=False)
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "..", "a/b", "a\0b", ".a", ""])
def test_no_name_of_a_source_leaves_the_folder_of_a_command_that_reads_documents(prepared, name):
    edit_manifest(prepared, lambda manifest: manifest["sources"].update({name: manifest["sources"].pop("a")}))
    with pytest.raises(UserError, match=r"manifest\.json: .* cannot be the name of a source"):
        read_documents_manifest(prepared)


@pytest.mark.parametrize("file", ["../out/a/part-00000.parquet", "/etc/passwd", "a/../../x", "a\0b", 7, None, ""])
def test_no_path_of_a_documents_manifest_leaves_its_folder(prepared, file):
    edit_manifest(prepared, lambda manifest: manifest["sources"]["a"].update(files=[file]))
    with pytest.raises(UserError, match=r"manifest\.json: names the file .* not a file inside"):
        read_documents_manifest(prepared)


def test_a_changed_documents_manifest_says_so_and_how_to_keep_the_change(prepared):
    edit_manifest(prepared, lambda manifest: manifest["sources"]["a"].update(weight=0.5), keeps_checksum=True)
    with pytest.raises(
        UserError, match=r"damaged, or changed since it was written .* remove the key \"checksum\" from it"
    ):
        read_documents_manifest(prepared)
    edit_manifest(prepared, lambda manifest: None)
    assert read_documents_manifest(prepared)["sources"]["a"]["weight"] == 0.5


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("weight", "x"),
        ("weight", -1),
        ("language", 3),
        ("documents", "2"),
        ("bytes", -1),
        ("files", {}),
        ("license", 1),
    ],
)
def test_a_value_of_a_wrong_type_in_a_documents_manifest_is_one_line(prepared, key, wrong):
    edit_manifest(prepared, lambda manifest: manifest["sources"]["a"].update({key: wrong}))
    with pytest.raises(UserError, match=r"manifest\.json: "):
        read_documents_manifest(prepared)


def test_no_flipped_bit_of_a_documents_manifest_is_silent(prepared):
    assert_no_flip_is_silent(prepared / "manifest.json", lambda: read_documents_manifest(prepared), flips=100)
