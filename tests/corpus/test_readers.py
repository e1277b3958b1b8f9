"""Every local format gives the same texts; what cannot be read is named."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.formats import file_format, find_files
from tonsai_jax.corpus.sources.readers import read_file, read_span
from tonsai_jax.corpus.sources.record_files import read_records
from tonsai_jax.corpus.sources.records import Reading
from tonsai_jax.errors import UserError

TEXTS = ["សួស្តី ពិភពលោក", 'She said "no", twice.', "one, two\tthree"]


def encode(ending, texts, column="text"):
    if ending == ".txt":
        return "".join(f"{text}\n" for text in texts).encode()
    if ending == ".json":
        return json.dumps([{column: text, "n": 1} for text in texts]).encode()
    if ending in (".jsonl", ".ndjson"):
        return "".join(json.dumps({column: text, "n": 1}) + "\n" for text in texts).encode()
    if ending == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({"n": [1] * len(texts), column: texts}), sink)
        return sink.getvalue()
    lines = io.StringIO()
    writer = csv.writer(lines, delimiter="\t" if ending == ".tsv" else ",")
    writer.writerows([["n", column], *([1, text] for text in texts)])
    return lines.getvalue().encode()


def read(path, *, errors="stop", column="text", boundary="line"):
    faults = Faults(errors)
    texts = [text.rstrip("\n") for text in read_file(path, text_column=column, boundary=boundary, faults=faults)]
    return texts, dict(faults.counts)


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", [".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv"])
def test_every_format_gives_the_same_texts_compressed_or_not(tmp_path, ending, compression):
    raw = encode(ending, TEXTS)
    packed = {"": raw, ".gz": gzip.compress(raw), ".zst": zstandard.compress(raw)}[compression]
    path = tmp_path / f"corpus.v1{ending}{compression}"
    path.write_bytes(packed)
    assert read(path) == (TEXTS, {})


def test_parquet_gives_the_same_texts_from_every_row_group(tmp_path):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": TEXTS * 1000, "n": range(3000)}), path, row_group_size=700)
    assert read(path) == (TEXTS * 1000, {})


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_field_may_span_lines_and_be_long(tmp_path, ending):
    texts = ["first\nsecond", "x" * 300_000]
    path = tmp_path / f"corpus{ending}"
    path.write_bytes(encode(ending, texts))
    assert read(path)[0] == texts


@pytest.mark.parametrize(
    ("boundary", "documents"),
    [
        ("line", ["a", "b", "c"]),
        ("paragraph", ["a\nb", "c"]),
        ("file", ["a\nb\n\n\nc"]),
    ],
)
def test_a_document_of_a_txt_file_is_a_line_a_paragraph_or_the_file(tmp_path, boundary, documents):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nb\n\n\nc\n")
    assert read(path, boundary=boundary)[0] == documents


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".txt"])
def test_a_byte_order_mark_at_the_start_is_no_part_of_the_text(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"\xef\xbb\xbf" + encode(ending, TEXTS))
    assert read(path)[0] == TEXTS


@pytest.mark.parametrize(
    ("ending", "content", "offset", "left"),
    [
        (".txt", b"fine\nb\xffd\nfine too\n", 6, ["fine", "fine too"]),
        (".jsonl", b'{"text": "a"}\n{"text": "\xff"}\n{"text": "c"}\n', 24, ["a", "c"]),
        (".csv", b'text,n\na,1\n"b\n\xff\nb",2\nc,3\n', 14, ["a", "c"]),
    ],
)
def test_not_utf8_names_file_and_byte_and_skip_leaves_out_that_document_only(tmp_path, ending, content, offset, left):
    path = tmp_path / f"bad{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad{ending}: not UTF-8 at byte {offset} \(0xff\).*--on-error skip"):
        read(path)
    assert read(path, errors="skip") == (left, {"not_utf8": 1})


def test_not_utf8_in_parquet_names_the_row(tmp_path):
    values = pa.array([b"fine", b"b\xffd", b"also fine"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, values.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="row 2: not UTF-8 at byte 1"):
        read(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", errors="skip") == (["fine", "also fine"], {"not_utf8": 1})


@pytest.mark.parametrize(
    ("name", "content", "message", "left", "counts"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": \n{"text": "c"}\n',
            "line 2 is not JSON",
            ["a", "c"],
            {"broken": 1},
        ),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n', "line 2 is not a JSON object", ["a"], {"broken": 1}),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": 5}\n',
            "line 2: column 'text' holds int",
            ["a"],
            {"not_text": 1},
        ),
        (
            "a.csv",
            b"n,text\n1,a\n2,b,c\n3,d\n",
            "line 3 has 3 fields, the first line 2",
            ["a", "d"],
            {"broken": 1},
        ),
        ("a.tsv", b'text\na\n"never closed\nb\n', "record at line 3 is not valid tsv", ["a"], {"broken": 1}),
        ("a.txt", b"", "the file is empty", [], {"empty_file": 1}),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "the file is empty", [], {"empty_file": 1}),
        ("a.jsonl.gz", b"", "the file is empty", [], {"empty_file": 1}),
        ("a.parquet", b"", "the file is empty", [], {"empty_file": 1}),
    ],
)
def test_broken_input_is_named_or_counted(tmp_path, name, content, message, left, counts):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)
    assert read(path, errors="skip") == (left, counts)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_missing_column_lists_those_that_are_there(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(encode(ending, TEXTS, column="body"))
    with pytest.raises(UserError, match=r"no column 'text'; there are: (n, body|body, n); set `text_column`"):
        read(path, errors="skip")
    assert read(path, column="body")[0] == TEXTS


def test_a_missing_text_counts_as_an_empty_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": null}\n{"other": 1}\n')
    assert read(path) == (["a", "", ""], {})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wrong.txt.gz", b"plain text under the wrong name"),
        ("wrong.parquet", b"plain text under the wrong name"),
    ],
)
def test_a_file_that_is_something_else_is_named_or_counted(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read(path)
    assert read(path, errors="skip") == ([], {"damaged_file": 1})


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_a_cut_off_file_stops_or_gives_what_comes_before_the_damage(tmp_path, ending, compress):
    texts = [f"line {number} {hash(str(number))}" for number in range(20_000)]
    path = tmp_path / f"cut{ending}{'.gz' if compress is gzip.compress else '.zst'}"
    packed = compress(encode(ending, texts))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=f"{path.name}: cannot be read.*--on-error skip"):
        read(path)
    left, counts = read(path, errors="skip")
    assert counts == {"damaged_file": 1}
    assert left == texts[: len(left)]
    assert len(left) > 5000


def test_every_byte_before_the_damage_is_given(tmp_path):
    path = tmp_path / "cut.txt.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\nthree\n")[:-4])  # the text is whole, its checksum is not
    assert read(path, errors="skip") == (["one", "two", "three"], {"damaged_file": 1})


def test_parquet_damaged_inside_gives_the_row_groups_before(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"{number} {hash(str(number))}" for number in range(9000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=3000, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    assert read(path, errors="skip") == (texts[:3000], {"damaged_file": 1})


def test_a_file_that_disappears_is_named_or_counted(tmp_path):
    with pytest.raises(UserError, match=r"gone.txt: cannot be read .FileNotFoundError"):
        read(tmp_path / "gone.txt")
    assert read(tmp_path / "gone.txt", errors="skip") == ([], {"damaged_file": 1})


@pytest.mark.parametrize(("ending", "first"), [(".jsonl", 0), (".csv", 2), (".tsv", 2), (".parquet", 0)])
def test_the_records_of_a_file_come_whole_with_their_places(tmp_path, ending, first):
    path = tmp_path / f"a{ending}"
    path.write_bytes(encode(ending, TEXTS))
    found = list(read_records(path, Faults()))
    one = "1" if ending in (".csv", ".tsv") else 1
    assert [record for _, _, record in found] == [{"n": one, "text": text} for text in TEXTS]
    assert found[0][0] == first
    assert found[0][1] == {".parquet": "row 1", ".jsonl": "line 1"}.get(ending, "line 2")


@pytest.mark.parametrize(
    ("content", "counts"), [(b"", {"empty_file": 1}), (b'{"n": 1}\n{"n"', {"broken": 1}), (None, {"damaged_file": 1})]
)
def test_what_is_wrong_with_a_file_of_records_is_counted(tmp_path, content, counts):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    faults = Faults("skip")
    assert [record for _, _, record in read_records(path, faults)] == [{"n": 1}] * bool(content)
    assert faults.counts == counts


def limited(path, limit, boundary="line"):
    faults = Faults("skip")
    reading = Reading(("text",), "")
    spans = read_span(path, reading=reading, boundary=boundary, faults=faults, limit=limit)
    return [text.strip() for _, text in spans], dict(faults.counts)


LONG = "y" * 3_000_000


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".parquet", ".txt.gz"])
def test_a_document_that_is_too_long_is_a_fault_and_the_next_is_read(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    raw = encode(ending.removesuffix(".gz"), ["before", LONG, "after"])
    path.write_bytes(gzip.compress(raw) if ending.endswith(".gz") else raw)
    assert limited(path, 1_000_000) == (["before", "after"], {"too_long": 1})
    with pytest.raises(
        UserError, match=r"a\.\w+.*: one document of 3\.0 MB, the limit is 1\.0 MB; raise `max_document_mb`"
    ):
        list(read_span(path, reading=Reading(("text",), ""), boundary="line", faults=Faults(), limit=1_000_000))


@pytest.mark.parametrize(("boundary", "left"), [("paragraph", ["a", "c"]), ("file", [])])
def test_a_long_paragraph_or_file_is_too_long_though_its_lines_are_not(tmp_path, boundary, left):
    path = tmp_path / "a.txt"
    path.write_text("a\n\n" + "bbbb\n" * 1000 + "\nc\n")
    assert limited(path, 3000, boundary) == (left, {"too_long": 1})


def test_a_csv_line_that_is_too_long_leaves_its_quotes_behind(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f'n,text\n1,a\n2,"{LONG}\nstill 2"\n3,c\n')
    assert limited(path, 1_000_000) == (["a", "c"], {"too_long": 1})


def test_a_quote_that_never_closes_does_not_take_in_the_rest_of_a_large_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('n,text\n1,a\n2,"' + "never closed\n" * 1000 + "3,c\n")
    texts, counts = limited(path, 3000)
    assert texts[0] == "a"
    assert texts[-1] == "c"
    assert counts["too_long"] >= 1


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_nul_bytes_name_the_place(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(encode(ending, ["a", "bXd", "c"]).replace(b"X", b"\0"))
    with pytest.raises(UserError, match=rf"a{ending}: a NUL byte at byte \d+: damage, or UTF-16"):
        read(path)
    assert read(path, errors="skip") == (["a", "c"], {"nul_bytes": 1})


def test_json_that_is_nested_without_end_is_broken(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("[" * 200_000 + '\n{"text": "a"}\n')
    assert read(path, errors="skip") == (["a"], {"broken": 1})


def test_find_files_takes_a_file_a_folder_or_a_glob_in_sorted_order(tmp_path):
    for name in ("b.txt", "a.jsonl.gz", "sub/c.parquet", ".hidden/d.txt", ".e.txt", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_files(str(tmp_path))]
    assert found == ["a.jsonl.gz", "b.txt", "sub/c.parquet"]
    assert find_files(str(tmp_path / "b.txt")) == [tmp_path / "b.txt"]
    assert find_files(str(tmp_path / "*.txt")) == [tmp_path / "b.txt"]
    assert find_files(str(tmp_path / "**/*.parquet")) == [tmp_path / "sub/c.parquet"]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nowhere.txt", "no such file or folder"),
        ("*.csv", "no file matches"),
        ("empty", "no file that can be read; known formats: .txt"),
        ("notes.md", "unknown file format; known formats: .txt"),
    ],
)
def test_find_files_says_what_is_missing(tmp_path, location, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").touch()
    with pytest.raises(UserError, match=message):
        find_files(str(tmp_path / location))


def test_file_format_looks_through_compression():
    names = ["a.TXT", "a.b.jsonl.zst", "a.csv.gz", "a.parquet", "a.parquet.gz", "a.gz", "a"]
    assert [file_format(Path(name)) for name in names] == [
        ".txt",
        ".jsonl",
        ".csv",
        ".parquet",
        None,
        None,
        None,
    ]
