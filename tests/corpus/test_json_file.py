"""A .json file is read record by record: an array, or records one after the other."""

import io
import json
import tracemalloc

import pytest

from tonsai_jax.corpus.sources import json_file
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import find_files
from tonsai_jax.corpus.sources.json_file import json_values
from tonsai_jax.corpus.sources.record_files import read_records
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.errors import UserError

RECORDS = [
    {"text": 'ខ្មែរ \\ "[{,}]" \n \U0001f600', "n": [1, {"a": None}], "ok": False},
    {},
    {"text": "x" * 300},
    {"n": 1.5e3},
]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 10**6])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii", [True, False])
def test_the_records_are_those_that_were_written_however_the_file_is_cut(monkeypatch, chunk, indent, ascii):
    monkeypatch.setattr(json_file, "_CHUNK", chunk)
    array = json.dumps(RECORDS, indent=indent, ensure_ascii=ascii)
    lines = "\n\n".join(json.dumps(record, indent=indent, ensure_ascii=ascii) for record in RECORDS)
    for written in (array, lines, f"\ufeff \n{array}\n"):
        assert [value for value, _ in json_values(io.BytesIO(written.encode()), 10**6)] == RECORDS


def read(tmp_path, raw: bytes, limit: int = 10**6):
    (tmp_path / "a.json").write_bytes(raw)
    faults = Faults("skip")
    found = [(number, record) for number, _, record in read_records(tmp_path / "a.json", faults, limit=limit)]
    return found, dict(faults.counts)


@pytest.mark.parametrize(
    ("raw", "numbers", "counts"),
    [
        (b'[{"a": 1}, 5, {"a": 2}]', [0, 2], {"broken": 1}),
        (b'[{"a": 1}, {"a": }, {"a": 2}]', [0], {"broken": 1}),
        (b'[{"a": 1}, {"a": "never closed', [0], {"broken": 1}),
        (b'[{"a": 1}', [0], {"broken": 1}),
        (b'[{"a": "\xff"}, {"a": 2}]', [1], {"not_utf8": 1}),
        (b'[{"a": 1}, {"a": "' + b"x" * 5000 + b'"}]', [0, 1], {}),
        (b"[]", [], {}),
        (b"", [], {"empty_file": 1}),
        (b"[" * 100_000, [], {"broken": 1}),
        (b"not json", [], {"broken": 1}),
    ],
)
def test_what_cannot_be_read_is_counted(tmp_path, raw, numbers, counts):
    found, counted = read(tmp_path, raw)
    assert ([number for number, _ in found], counted) == (numbers, counts)


def test_a_record_above_the_limit_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(json_file, "_CHUNK", 1000)
    found, counts = read(tmp_path, b'[{"a": 1}, {"a": "' + b"x" * 50_000 + b'"}]', limit=5000)
    assert ([number for number, _ in found], counts) == ([0], {"too_long": 1})


def test_a_long_array_is_never_in_memory(tmp_path):
    record = {"instruction": "Write.", "input": "", "output": "word " * 200}
    (tmp_path / "a.json").write_text("[" + ",\n".join([json.dumps(record)] * 10_000) + "]")
    tracemalloc.start()
    assert sum(1 for _ in Source("a", "en", path=str(tmp_path)).texts(Faults())) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.json").stat().st_size > 10e6
    assert peak < 9e6


def test_an_alpaca_file_becomes_its_instructions(tmp_path):
    records = [
        {"instruction": "Add.", "input": "1 + 1", "output": "2"},
        {"instruction": "Hi", "input": "", "output": "Ho"},
    ]
    (tmp_path / "alpaca.json").write_text(json.dumps(records, indent=1))
    source = Source("a", "en", path=str(tmp_path / "alpaca.json"))
    assert list(source.texts(Faults())) == ["Add.\n\n1 + 1\n\n2", "Hi\n\nHo"]
    (piece,) = source.pieces(10)
    assert [key for key, _ in piece.documents(Faults())] == ["a/0-0", "a/0-1"]


def test_the_message_names_the_record(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": }]')
    with pytest.raises(UserError, match=r"a\.json: record 2 is not JSON .*; the file cannot be read from there on"):
        list(read_records(tmp_path / "a.json", Faults()))


def test_in_a_folder_a_json_file_beside_texts_describes_them(tmp_path):
    (tmp_path / "info.json").write_text("{}")
    assert [path.name for path in find_files(str(tmp_path))] == ["info.json"]
    (tmp_path / "a.txt").write_text("text")
    assert [path.name for path in find_files(str(tmp_path))] == ["a.txt"]
    assert [path.name for path in find_files(f"{tmp_path}/*")] == ["a.txt", "info.json"]
