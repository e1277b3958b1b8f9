"""Rows against their manifest: a file that is not the one that was written is named, before a run and by `tonsai verify`."""

import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.flips import assert_no_flip_is_silent, with_a_flipped_bit
from tests.support.rows import write_rows
from tonsai_jax.checksums import KEY, SAMPLE_BYTES, sample_sha256, with_checksum
from tonsai_jax.data import verify
from tonsai_jax.data.manifest import RowsManifest, read_manifest
from tonsai_jax.data.rows import open_rows
from tonsai_jax.data.verify import check_shards, check_tokenizer, verify_rows
from tonsai_jax.errors import UserError


def shard_paths(manifest: RowsManifest) -> list[Path]:
    return [shard.path for source in manifest.sources.values() for shard in source.splits["train"].files]


def edit(folder: Path, change) -> None:  # a function of the manifest's content
    """Changes the manifest as a person would who knows how: without its checksum."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    del value[KEY]
    change(value)
    path.write_text(json.dumps(value))


def faults_of(manifest: RowsManifest) -> list[str]:
    return [str(fault) for fault in verify_rows(manifest, lambda read: None)]


def test_good_rows_pass_and_every_byte_is_counted(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(3000), "en": np.arange(50)})
    read: list[int] = []
    assert verify_rows(manifest, read.append) == []
    assert sum(read) == sum(path.stat().st_size for path in shard_paths(manifest))
    check_shards(manifest)


def test_a_replaced_file_with_as_many_rows_and_bytes_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "mine", {"km": np.arange(3000)})
    other = write_rows(tmp_path / "other", {"km": np.arange(3000) + 1})
    manifest = read_manifest(tmp_path / "mine")
    ours, theirs = shard_paths(manifest)[1], shard_paths(other)[1]
    assert ours.stat().st_size == theirs.stat().st_size
    shutil.copyfile(theirs, ours)
    open_rows(manifest, "km", "train").read(100)  # nothing is wrong with the file itself
    for max_damaged_rows in (0, 5):
        with pytest.raises(UserError, match=f"{ours}: not the file that manifest.json describes"):
            check_shards(manifest, max_damaged_rows)
    assert faults_of(manifest) == [
        f"{ours}: not the file that manifest.json describes (its SHA-256 is another); copy the file again, or tokenize the "
        "dataset again"
    ]


def test_a_replaced_file_is_named_in_a_folder_of_an_earlier_version_too(tmp_path: Path) -> None:
    write_rows(tmp_path / "mine", {"km": np.arange(3000)})
    other = write_rows(tmp_path / "other", {"km": np.arange(3000) + 1})

    def as_before(value: dict) -> None:
        for shard in value["sources"]["km"]["splits"]["train"]["files"]:
            del shard["bytes"], shard["sample_sha256"]

    edit(tmp_path / "mine", as_before)
    manifest = read_manifest(tmp_path / "mine")
    check_shards(manifest)
    shutil.copyfile(shard_paths(other)[2], shard_paths(manifest)[2])
    with pytest.raises(UserError, match=r"not the file that manifest\.json describes"):
        check_shards(manifest)


def test_a_file_of_another_size_is_named_by_every_reader(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(3000)})
    path = shard_paths(manifest)[0]
    path.write_bytes(path.read_bytes() + bytes(7))
    with pytest.raises(UserError, match=rf"{path}: damaged token rows \(it has [\d,]+ bytes, the manifest says"):
        read_manifest(tmp_path)


def test_the_sample_of_a_large_file_notices_another_file_and_reads_a_mebibyte(tmp_path: Path) -> None:
    random_bytes = np.random.default_rng(0).bytes
    whole = random_bytes(5 * SAMPLE_BYTES + 13)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(whole)
    for change in (random_bytes(len(whole)), whole[:-1] + b"?", b"?" + whole[1:], whole + b"?"):
        other.write_bytes(change)
        assert sample_sha256(other) != sample_sha256(one)
    one.write_bytes(whole[:SAMPLE_BYTES])
    other.write_bytes(whole[: SAMPLE_BYTES // 2] + b"?" + whole[SAMPLE_BYTES // 2 + 1 : SAMPLE_BYTES])
    assert sample_sha256(other) != sample_sha256(one)  # of a small file, every byte


def test_of_many_files_a_start_looks_at_some_and_the_next_one_at_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_MOST_FILES", 1)
    manifest = write_rows(tmp_path, {"km": np.arange(3000)})
    path = shard_paths(manifest)[0]
    path.write_bytes(with_a_flipped_bit(path.read_bytes(), random.Random(15)))
    refused = 0
    for _ in range(100):
        try:
            check_shards(manifest)
        except UserError:
            refused += 1
    assert 0 < refused < 100


def test_no_flipped_bit_of_the_rows_is_silent(tmp_path: Path) -> None:
    """Refused before the run, or where a run reads past that check, noticed while reading."""
    manifest = write_rows(tmp_path, {"km": np.arange(3000), "en": np.arange(900) % 700})
    chance = random.Random(15)
    for _ in range(60):
        path = chance.choice(shard_paths(manifest))
        whole = path.read_bytes()
        path.write_bytes(with_a_flipped_bit(whole, chance))
        with pytest.raises(UserError, match=str(path)):
            check_shards(manifest)
        assert str(path) in faults_of(manifest)[0]
        path.write_bytes(whole)
    check_shards(manifest)


def test_damaged_rows_are_left_to_the_reader_where_they_may_be_skipped(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(3000)})
    path = shard_paths(manifest)[0]
    whole = path.read_bytes()
    place = whole.index(np.arange(80, 89, dtype="<u2").tobytes())  # row 10
    path.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
    with pytest.raises(UserError, match=rf"{path}: damaged token rows \(row 10: .*hash mismatch"):
        check_shards(manifest)
    check_shards(manifest, max_damaged_rows=1)
    [fault] = faults_of(manifest)
    assert fault.startswith(f"{path}: damaged token rows (row 10: ")


def test_validation_rows_are_read_as_a_whole_and_never_skipped(rows: Path, tmp_path: Path) -> None:
    shutil.copytree(rows, tmp_path / "rows")
    [path] = (tmp_path / "rows" / "km").glob("validation-*")
    row = open_rows(read_manifest(tmp_path / "rows"), "km", "validation").read(0)
    content = bytearray(path.read_bytes())
    content[content.index(row)] ^= 1
    path.write_bytes(content)
    for max_damaged_rows in (0, 9):
        with pytest.raises(UserError, match=f"{path}: damaged token rows"):
            check_shards(read_manifest(tmp_path / "rows"), max_damaged_rows)


def test_no_flipped_bit_of_the_manifest_is_silent(tmp_path: Path) -> None:
    write_rows(tmp_path, {"km": np.arange(3000), "en": np.arange(900)})
    assert_no_flip_is_silent(tmp_path / "manifest.json", lambda: read_manifest(tmp_path), flips=150)


def every_place(value, where=()):  # JSON
    """The keys that lead to every value of a manifest, groups and lists too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*where, key)
        yield from every_place(inner, (*where, key))


def error_of(folder: Path) -> str | None:
    """The line with which the manifest of a folder is refused."""
    try:
        read_manifest(folder)
    except UserError as error:
        return str(error)
    return None


def test_a_value_of_a_wrong_type_is_one_line_in_a_manifest_without_a_checksum_too(tmp_path: Path) -> None:
    write_rows(tmp_path, {"km": np.arange(3000)})
    path = tmp_path / "manifest.json"
    good = json.loads(path.read_text())
    del good[KEY]
    errors, silent = [], set()
    for place in every_place(good):
        wrong: Any
        for wrong in ({}, [], "", "x", -1, 1.5, True, None, 10**400):
            value = json.loads(json.dumps(good))
            group = value
            for key in place[:-1]:
                group = group[key]
            group[place[-1]] = wrong
            path.write_text(json.dumps(value))
            error = error_of(tmp_path)
            if error is None:
                silent.add((place[-1], repr(wrong)))
            else:
                errors.append(error)
    assert len(errors) > 250
    assert all(str(tmp_path) in error and "\n" not in error for error in errors)
    # What no reader could know to be wrong, such as another license.
    allowed = {(key, repr(10**400)) for key in ("documents", "bytes")}
    allowed |= {(key, text) for key in ("license", "dataset") for text in ("'x'", "None")}
    allowed |= {("language", "'x'"), ("version", "True"), ("weight", "1.5"), ("sources", "{}"), ("files", "[]")}
    assert silent <= allowed, silent - allowed


def test_a_manifest_that_was_changed_says_so_and_how_to_keep_the_change(tmp_path: Path) -> None:
    write_rows(tmp_path, {"km": np.arange(30), "en": np.arange(30)})
    path = tmp_path / "manifest.json"
    value = json.loads(path.read_text())
    value["sources"]["km"]["weight"] = 0.25
    path.write_text(json.dumps(value))
    with pytest.raises(
        UserError, match=r'manifest\.json: damaged, or changed since .* remove the key "checksum" from it'
    ):
        read_manifest(tmp_path)
    edit(tmp_path, lambda value: None)
    assert read_manifest(tmp_path).sources["km"].weight == 0.25
    path.write_text(json.dumps(with_checksum(json.loads(path.read_text())), indent=7))  # white space does not count
    read_manifest(tmp_path)


@pytest.mark.parametrize("file", ["../../escaped", "/etc/passwd", "km/../../x", "km/a\0b", "..\\x", "", "km//x", "."])
def test_no_path_of_a_manifest_leaves_its_folder(tmp_path: Path, file: str) -> None:
    write_rows(tmp_path, {"km": np.arange(30)})

    def lead_away(value: dict) -> None:
        value["sources"]["km"]["splits"]["train"]["files"][0]["path"] = file

    edit(tmp_path, lead_away)
    with pytest.raises(UserError, match=r"manifest\.json: names the file .* which is not a file inside"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/x", "..", ".hidden", "a/b", "a\0b", "-x", "", "x" * 200])
def test_no_name_of_a_source_leaves_its_folder(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path, {"km": np.arange(30)})

    def rename(value: dict) -> None:
        value["sources"][name] = value["sources"].pop("km")

    edit(tmp_path, rename)
    with pytest.raises(UserError, match="cannot be the name of a source"):
        read_manifest(tmp_path)


def test_a_tokenizer_with_other_ids_is_refused(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(30)}, vocab_size=400)
    folder = tmp_path / "tokenizer"
    check_tokenizer(manifest, SimpleNamespace(vocab_size=400, end_of_text_id=0, folder=folder))  # type: ignore[arg-type]
    for vocab_size, end, message in ((401, 0, "vocab_size is 400, but"), (400, 3, "end_of_text_id is 0, but")):
        other = SimpleNamespace(vocab_size=vocab_size, end_of_text_id=end, folder=folder)
        with pytest.raises(UserError, match=message):
            check_tokenizer(manifest, other)  # type: ignore[arg-type]


def test_an_id_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path, {"km": np.arange(3000)}, vocab_size=3000)
    edit(tmp_path, lambda value: value.update(vocab_size=2990))
    rows = open_rows(read_manifest(tmp_path), "km", "train")
    rows.window(100, 0, 8)
    with pytest.raises(UserError, match=r"row 73: id 2992 is outside the vocabulary of 2,990"):
        rows.window(373, 0, 8)


def test_the_command_names_damage_and_ends_with_exit_code_1(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tonsai_jax.commands.verify import main

    shutil.copytree(rows, tmp_path / "rows")
    monkeypatch.setattr("sys.argv", ["tonsai verify", os.fspath(tmp_path / "rows")])
    main()
    assert "all as they were written" in capsys.readouterr().out
    path = next((tmp_path / "rows" / "km").glob("train-*"))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 4] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"rows: 1 fault in "):
        main()
    assert f"{path}: damaged token rows (row " in capsys.readouterr().err
