"""Documents to token rows: nothing lost or moved, the same bytes every time, and whole or not at all."""

import contextlib
import glob
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tonsai_jax.corpus import documents
from tonsai_jax.corpus.documents import read_documents_manifest
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data import encoded, tokenize
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.data.rows import open_rows
from tonsai_jax.data.tokenize import figures, tokenize_dataset
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, sha256_file, write_json
from tonsai_jax.tokenizer.examples import Example, dataset_examples
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "tokenize_dataset.py"
KHMER = [f"ប្រទេសកម្ពុជា ទី {index} " + "កុមារទៅសាលារៀន។ " * (index % 7) for index in range(150)]
ENGLISH = [f"Story {index}: the river <|endoftext|> rises.\n" + "It rains. " * (index % 11) for index in range(60)]
DOCUMENTS = {
    "khmer": [text.strip() for text in KHMER],
    "english": [text.strip() for text in ENGLISH],
    "lone": ["one"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with prepared documents in docs/ and a tokenizer in tokenizer/."""
    path = tmp_path_factory.mktemp("tokenize")
    sources = [
        Source(name="khmer", language="km", weight=0.6, documents=DOCUMENTS["khmer"]),
        Source(name="english", language="en", weight=0.4, documents=DOCUMENTS["english"]),
        Source(name="lone", language="en", weight=0.0, documents=DOCUMENTS["lone"]),
    ]
    prepare(sources, path / "docs", progress=False)
    train_tokenizer(dataset_examples(path / "docs"), vocab_size=300, output_dir=path / "tokenizer")
    return path


def make_rows(folder, output, *, val_ratio=0.1, seed=42, row_tokens=64):
    return tokenize_dataset(
        folder / "docs", folder / "tokenizer", output, val_ratio=val_ratio, seed=seed, row_tokens=row_tokens
    )


def read_documents_back(manifest, source, split):
    """The texts of a split, cut out of its token rows at every end-of-text."""
    rows = open_rows(manifest, source, split)
    stream = np.concatenate(
        [np.frombuffer(rows.read(index), manifest.dtype)[:-1] for index in range(len(rows))]
        + [np.frombuffer(rows.read(len(rows) - 1), manifest.dtype)[-1:]]
    )[: rows.split.tokens]
    tokenizer = Tokenizer.from_folder(manifest.directory / "tokenizer")
    ends = np.flatnonzero(stream == manifest.end_of_text_id)
    assert ends[-1] == len(stream) - 1
    return [tokenizer.decode(ids[:-1].tolist()) for ids in np.split(stream, ends[:-1] + 1)]


def hashes(directory):
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256_file(path) for path in files}


def run_script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
        code: str | int | None = 0
    except SystemExit as stop:
        code = stop.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return code, *capsys.readouterr()


def test_rows_give_the_documents_back_each_once_and_in_order(folder, tmp_path):
    manifest = make_rows(folder, tmp_path / "rows")
    for source, texts in DOCUMENTS.items():
        train = read_documents_back(manifest, source, "train")
        validation = read_documents_back(manifest, source, "validation") if len(texts) > 1 else []
        order = {text: index for index, text in enumerate(texts)}
        assert sorted(train + validation) == sorted(texts)
        assert train == sorted(train, key=order.__getitem__)
        assert validation == sorted(validation, key=order.__getitem__)


def test_the_manifest_counts_what_is_there(folder, tmp_path):
    manifest = make_rows(folder, tmp_path / "rows")
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    assert (manifest.vocab_size, manifest.end_of_text_id) == (300, 0)
    assert manifest.tokenizer_hash == tokenizer.hash
    assert manifest.dtype == np.uint16
    assert {name: (s.weight, s.language) for name, s in manifest.sources.items()} == {
        "khmer": (0.6, "km"),
        "english": (0.4, "en"),
        "lone": (0.0, "en"),
    }
    for name, texts in DOCUMENTS.items():
        splits = manifest.sources[name].splits.values()
        tokens = sum(len(tokenizer.encode(text)) + 1 for text in texts)
        assert sum(split.documents for split in splits) == len(texts)
        assert sum(split.tokens for split in splits) == tokens
        assert sum(split.bytes for split in splits) == sum(len(text.encode()) for text in texts)
    assert read_manifest(tmp_path / "rows") == manifest
    line = figures(manifest.sources)[0]
    split = manifest.sources["khmer"].splits["train"]
    assert line["bytes_per_token"] == round(split.bytes / (split.tokens - split.documents), 3)


def test_the_license_and_the_dataset_of_a_source_come_along(folder, tmp_path):
    shutil.copytree(folder / "docs", tmp_path / "docs")
    documents_manifest = read_json(tmp_path / "docs" / "manifest.json")
    del documents_manifest["checksum"]
    documents_manifest["sources"]["khmer"] |= {"license": "CC0-1.0", "dataset": "owner/name"}
    del documents_manifest["sources"]["lone"]["dataset"]  # prepared by an earlier version
    write_json(tmp_path / "docs" / "manifest.json", documents_manifest)
    manifest = tokenize_dataset(
        tmp_path / "docs", folder / "tokenizer", tmp_path / "rows", val_ratio=0.1, seed=42, row_tokens=64
    )
    kept = {name: (source.license, source.dataset) for name, source in manifest.sources.items()}
    assert kept == {"khmer": ("CC0-1.0", "owner/name"), "english": (None, None), "lone": (None, None)}


def small_pieces(monkeypatch):
    """Documents in row groups, and rows in pieces, of some hundreds of bytes, each encoded in another process."""
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 500)
    monkeypatch.setattr(encoded, "PIECE_BYTES", 1000)
    monkeypatch.setattr(encoded, "SMALL_BYTES", 0)


def test_the_same_bytes_whatever_the_pieces_and_the_number_of_processes(folder, tmp_path, monkeypatch):
    make_rows(folder, tmp_path / "usual")
    small_pieces(monkeypatch)
    sources = read_documents_manifest(folder / "docs")["sources"]
    again = [
        Source(name=name, language=source["language"], weight=source["weight"], documents=DOCUMENTS[name])
        for name, source in sources.items()
    ]
    prepare(again, tmp_path / "docs", progress=False)
    assert pq.read_metadata(tmp_path / "docs" / "khmer" / "part-00000.parquet").num_row_groups > 10
    tokenize_dataset(tmp_path / "docs", folder / "tokenizer", tmp_path / "small", val_ratio=0.1, seed=42, row_tokens=64)
    assert hashes(tmp_path / "usual") == hashes(tmp_path / "small")


@pytest.mark.parametrize(
    ("count", "val_ratio", "expected"),
    [
        (150, 0.1, 15),
        (150, 0.0, 0),
        (150, 0.001, 1),  # at least one
        (2, 0.01, 1),
        (1, 0.5, 0),  # nothing would be left to train on
        (2, 0.99, 1),
        (1000, 0.0126, 13),
        (0, 0.5, 0),
    ],
)
def test_the_validation_split_has_exactly_its_share(count, val_ratio, expected):
    chosen = list(tokenize.choose_validation(count, val_ratio, "42/khmer"))
    assert (len(chosen), sum(chosen)) == (count, expected)


def test_the_validation_documents_depend_on_the_seed_and_the_source_alone():
    def choose(seed):
        chosen = tokenize.choose_validation(100, 0.05, seed)
        return [index for index in range(100) if next(chosen)]

    assert choose("42/khmer") == [20, 23, 32, 37, 66]  # for ever: else training text enters validation
    assert choose("43/khmer") != choose("42/khmer") != choose("42/english")


def test_the_seed_chooses_the_validation_documents_of_each_source(tmp_path, folder):
    same = [str(index) for index in range(200)]
    sources = [Source(name=name, language="en", documents=same) for name in ("a", "b")]
    prepare(sources, tmp_path / "docs", progress=False)

    def choose(seed, name):
        manifest = tokenize_dataset(
            tmp_path / "docs",
            folder / "tokenizer",
            tmp_path / "rows",
            val_ratio=0.1,
            seed=seed,
            row_tokens=16,
        )
        return read_documents_back(manifest, name, "validation")

    assert choose(1, "a") == choose(1, "a")
    assert choose(1, "a") != choose(2, "a")
    assert choose(1, "a") != choose(1, "b")


def test_the_validation_documents_are_chosen_evenly():
    counts = np.zeros(20)
    for seed in range(2000):
        chosen = tokenize.choose_validation(20, 0.2, str(seed))
        counts += [next(chosen) for _ in range(20)]
    assert counts.sum() == 2000 * 4
    assert np.max(abs(counts - 400)) < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_text_that_spells_the_end_of_text_does_not_end_a_document(folder, tmp_path):
    manifest = make_rows(folder, tmp_path / "rows", val_ratio=0)
    texts = read_documents_back(manifest, "english", "train")
    assert len(texts) == len(DOCUMENTS["english"])
    assert all("<|endoftext|>" in text for text in texts)


@pytest.mark.full
def test_more_than_65536_ids_are_kept_in_four_bytes(folder, tmp_path):
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    value = json.loads(path.read_text())
    value["model"]["vocab"] |= {f"unused{index}": index for index in range(300, 70_000)}
    path.write_text(json.dumps(value))
    path.with_name("tokenizer_checksums.json").unlink()
    manifest = tokenize_dataset(
        folder / "docs", tmp_path / "tokenizer", tmp_path / "rows", val_ratio=0, seed=1, row_tokens=64
    )
    assert (manifest.dtype, manifest.vocab_size) == (np.uint32, 70_000)
    assert read_documents_back(manifest, "khmer", "train") == DOCUMENTS["khmer"]


def test_three_lines_work_end_to_end(tmp_path, monkeypatch, capsys):
    lines = ["សួស្តី", "hello", "world"]
    prepare([Source(name="tiny", language="km", documents=lines)], tmp_path / "docs", progress=False)
    train_tokenizer(dataset_examples(tmp_path / "docs"), vocab_size=8000, output_dir=tmp_path / "t")
    places = ("--dataset-dir", tmp_path / "docs", "--tokenizer-dir", tmp_path / "t")
    arguments = (*places, "--output-dir", tmp_path / "rows", "--json", tmp_path / "figures.json")
    code, out, err = run_script(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    assert "note: tiny is smaller than one row of 8,192 tokens" in out
    manifest = read_manifest(tmp_path / "rows")
    read = [read_documents_back(manifest, "tiny", split) for split in ("train", "validation")]
    assert sorted(map(len, read)) == [1, 2]
    assert sorted(read[0] + read[1]) == sorted(lines)
    assert json.loads((tmp_path / "figures.json").read_text())["splits"] == figures(manifest.sources)


def test_a_source_without_text_for_validation_is_noted(folder, tmp_path, monkeypatch, capsys):
    book = [Source(name="book", language="en", documents=["one long book"])]
    prepare(book, tmp_path / "docs", progress=False)
    places = (
        "--dataset-dir",
        tmp_path / "docs",
        "--tokenizer-dir",
        folder / "tokenizer",
        "--output-dir",
        tmp_path / "rows",
    )
    _, out, _ = run_script(monkeypatch, capsys, *places)
    assert "note: book is one document, so no text of it is left for validation and a run has no score for it" in out
    _, out, _ = run_script(monkeypatch, capsys, *places, "--val-ratio", "0")
    assert "validation and a run" not in out, "nobody asked for any"


def test_rows_made_before_are_replaced(folder, tmp_path):
    make_rows(folder, tmp_path / "rows", row_tokens=64)
    manifest = make_rows(folder, tmp_path / "rows", row_tokens=32)
    assert manifest.row_tokens == 32
    # The tokenizer inside the rows serves to make them again.
    again = tokenize_dataset(
        folder / "docs",
        tmp_path / "rows" / "tokenizer",
        tmp_path / "rows",
        val_ratio=0,
        seed=1,
        row_tokens=64,
    )
    assert again.row_tokens == 64
    assert os.listdir(tmp_path) == ["rows"]


BAD_VALUES = {
    "val_ratio 1": (("--val-ratio", "1"), "val_ratio 1.0 is not in [0, 1)"),
    "val_ratio below 0": (("--val-ratio", "-0.1"), "val_ratio -0.1 is not in [0, 1)"),
    "val_ratio nan": (("--val-ratio", "nan"), "val_ratio nan is not in [0, 1)"),
    "no row_tokens": (("--row-tokens", "0"), "row_tokens 0"),
    "no documents": (("--dataset-dir", "nowhere"), "nowhere: no such folder"),
    "no tokenizer": (("--tokenizer-dir", "nowhere"), "no such tokenizer folder"),
    "documents for tokenizer": (("--tokenizer-dir", "docs"), "tokenizer.json: no such file"),
    "not ours to replace": (("--output-dir", "mine"), "was not made by this command"),
    "documents are not rows": (("--output-dir", "docs"), "was not made by this command"),
}


@pytest.mark.parametrize("case", list(BAD_VALUES))
def test_bad_input_is_one_line_and_leaves_nothing(case, folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    before = hashes(tmp_path)
    changes, expected = BAD_VALUES[case]
    places = ("--dataset-dir", "docs", "--tokenizer-dir", "tokenizer", "--output-dir", "rows")
    code, out, err = run_script(monkeypatch, capsys, *places, *changes)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert hashes(tmp_path) == before


def test_a_source_named_as_the_tokenizers_folder_is_refused(folder, tmp_path):
    prepare([Source(name="tokenizer", language="en", documents=["a"])], tmp_path / "docs", progress=False)
    with pytest.raises(UserError, match="cannot have the name 'tokenizer'"):
        tokenize_dataset(tmp_path / "docs", folder / "tokenizer", tmp_path / "rows", val_ratio=0, seed=1)


def test_documents_that_are_not_those_of_the_manifest_are_refused(folder, tmp_path):
    shutil.copytree(folder / "docs", tmp_path / "docs")
    path = tmp_path / "docs" / "khmer" / "part-00000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 100), path)
    with pytest.raises(UserError, match="'khmer' has 100 documents, but the manifest says 150"):
        tokenize_dataset(tmp_path / "docs", folder / "tokenizer", tmp_path / "rows", val_ratio=0, seed=1)
    assert os.listdir(tmp_path) == ["docs"]


def test_a_full_disk_is_one_line_and_the_earlier_rows_stay_whole(folder, tmp_path):
    make_rows(folder, tmp_path / "rows")
    before = hashes(tmp_path)
    command = f"{sys.executable} {SCRIPT} --dataset-dir {folder / 'docs'} --tokenizer-dir {folder / 'tokenizer'}"
    limited = f"ulimit -f 4; exec {command} --output-dir {tmp_path / 'rows'}"  # no file larger than 4 KiB
    result = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path / 'rows'}")
    assert result.stderr.count("\n") == 1
    assert ".rows.partial" not in result.stderr  # a folder that is gone again by now
    assert hashes(tmp_path) == before


LONG = [f"Story {number}: " + "it rains in the rainy season. " * 40 for number in range(3000)]
SLOW = """
import runpy, sys
import tonsai_jax.data.encoded as encoded
encoded.PIECE_BYTES, encoded.SMALL_BYTES = 100_000, 0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def long_run(folder, tmp_path, monkeypatch):
    """A command that encodes some forty pieces in processes, beside rows that are there already."""
    make_rows(folder, tmp_path / "rows")
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 50_000)
    prepare([Source(name="long", language="en", documents=LONG)], tmp_path / "docs", progress=False)
    places = ("--dataset-dir", tmp_path / "docs", "--tokenizer-dir", folder / "tokenizer")
    return [sys.executable, "-c", SLOW, SCRIPT, *places, "--row-tokens", "64", "--output-dir", tmp_path / "rows"]


def finished_pieces(folder):
    pieces = {}
    for path in glob.iglob(f"{folder}/.rows.work/encoded/*.json"):
        with contextlib.suppress(FileNotFoundError):
            pieces[path] = os.stat(path).st_mtime_ns
    return pieces


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("encoding", signal.SIGKILL, -9),
        pytest.param("encoding", signal.SIGTERM, 143, marks=pytest.mark.full),
        pytest.param("writing", signal.SIGKILL, -9, marks=pytest.mark.full),
        pytest.param("writing", signal.SIGTERM, 143, marks=pytest.mark.full),
    ],
)
def test_a_run_that_is_ended_goes_on_and_gives_the_same_bytes(long_run, tmp_path, number, code, moment):
    earlier = hashes(tmp_path / "rows")
    with subprocess.Popen(long_run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not (
            finished_pieces(tmp_path) if moment == "encoding" else glob.glob(f"{tmp_path}/.rows.partial-*/long")
        ):
            assert process.poll() is None, "it ended before it could be stopped"
            time.sleep(0.001)
        (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)
        assert process.wait(timeout=60) == code
    assert hashes(tmp_path / "rows") == earlier
    before = finished_pieces(tmp_path)
    if number == signal.SIGTERM and moment == "encoding":
        assert not before, "so little is not worth a hidden folder"
    with subprocess.Popen(long_run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            now = finished_pieces(tmp_path)
            assert all(before[path] == now[path] for path in before.keys() & now.keys()), "a piece was made again"
            time.sleep(0.01)
    assert process.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["docs", "rows"], "nothing is left of the first run"
    subprocess.run([*long_run[:-1], tmp_path / "whole"], check=True, capture_output=True)
    assert hashes(tmp_path / "rows") == hashes(tmp_path / "whole")


@pytest.mark.full
def test_pieces_of_other_documents_or_another_tokenizer_are_not_taken(long_run, folder, tmp_path):
    with subprocess.Popen(long_run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not finished_pieces(tmp_path):
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
    train_tokenizer([Example(text, "en") for text in LONG[:50]], vocab_size=320, output_dir=tmp_path / "other")
    changed = ["another" if index == 5 else text for index, text in enumerate(LONG)]
    prepare([Source(name="long", language="en", documents=changed)], tmp_path / "docs", progress=False)
    command = [tmp_path / "other" if part == folder / "tokenizer" else part for part in long_run]
    subprocess.run(command, check=True, capture_output=True)
    manifest = read_manifest(tmp_path / "rows")
    assert manifest.tokenizer_hash == Tokenizer.from_folder(tmp_path / "other").hash
    assert sorted(
        text for split in ("train", "validation") for text in read_documents_back(manifest, "long", split)
    ) == sorted(text.strip() for text in changed)


@pytest.mark.parametrize("file_format", ["bin", "npy", "jsonl"])
def test_other_formats_hold_the_ids_of_the_rows(folder, tmp_path, file_format, monkeypatch, capsys):
    rows = make_rows(folder, tmp_path / "rows")
    places = ("--dataset-dir", folder / "docs", "--tokenizer-dir", folder / "tokenizer", "--val-ratio", 0.1)
    out = tmp_path / "ids"
    code, printed, err = run_script(monkeypatch, capsys, *places, "--output-dir", out, "--format", file_format)
    assert (code, err) == (0, "")
    assert "khmer" in printed
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["file_format"], manifest["dtype"], manifest["end_of_text_id"]) == (file_format, "uint16", 0)
    for name in DOCUMENTS:
        for split in ("train", "validation"):
            described = manifest["sources"][name]["splits"][split]
            info = rows.sources[name].splits[split]
            assert described["tokens"] == info.tokens
            assert (described["documents"], described["bytes"]) == (info.documents, info.bytes)
            if not info.documents:
                assert "file" not in described
                continue
            file = out / described["file"]
            assert described["sha256"] == sha256_file(file)
            tokenizer = Tokenizer.from_folder(out / "tokenizer")
            if file_format == "jsonl":
                documents = [json.loads(line)["ids"] for line in file.read_text().splitlines()]
            else:
                ids = np.load(file) if file_format == "npy" else np.memmap(file, "<u2", "r")
                assert ids.dtype == np.uint16
                documents = [part[:-1].tolist() for part in np.split(ids, np.flatnonzero(ids == 0) + 1)[:-1]]
            texts = [tokenizer.decode(document) for document in documents]
            assert texts == (read_documents_back(rows, name, split) if info.rows else ["one"])
    with pytest.raises(UserError, match="not a folder of token rows"):
        read_manifest(out)


def test_a_document_of_any_length_has_the_ids_it_has_as_a_whole(folder, monkeypatch):
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    monkeypatch.setattr("tonsai_jax.tokenizer.loading._PART_CHARACTERS", 50)
    for text in ("\n".join([*KHMER, *ENGLISH]), "  ".join(ENGLISH), "word " * 300, "a\r\n\n b\n" * 100, ""):
        parts = list(tokenizer.encode_in_parts(text))
        assert len(parts) > 5 or not text
        assert list(chain.from_iterable(parts)) == tokenizer.encode(text)
    endless = "ក្តៅស្ត្រី" * 100
    texts = [tokenizer.decode(ids) for ids in tokenizer.encode_in_parts(endless)]
    assert "".join(texts) == endless
    assert all(text[0] in "កស" for text in texts), "cut between clusters"
