"""The token-row format: what is written is what is read, and damage is named."""

import dataclasses
import resource
from pathlib import Path

import numpy as np
import pytest

from tests.support.rows import write_rows
from tonsai_jax.data.manifest import RowsManifest, read_manifest
from tonsai_jax.data.row_writer import RowWriter
from tonsai_jax.data.rows import open_rows, read_window, window_count
from tonsai_jax.errors import UserError
from tonsai_jax.stages import Stage


def read_targets(manifest: RowsManifest, source: str, seq_len: int) -> list[int]:
    rows = open_rows(manifest, source, "train")
    windows = [read_window(rows, number, seq_len) for number in range(window_count(rows, seq_len))]
    assert all(tokens.shape == (seq_len + 1,) for tokens, _ in windows)
    assert all(0 < valid <= seq_len for _, valid in windows)
    return [target for tokens, valid in windows for target in tokens[1 : 1 + valid].tolist()]


def test_manifest_reads_back_as_written(tmp_path: Path) -> None:
    written = write_rows(tmp_path, {"km": np.arange(3000), "en": np.arange(20)})
    assert read_manifest(tmp_path) == written
    assert [shard.path.name for shard in written.sources["km"].splits["train"].files] == [
        f"train-0000{index}-of-00004.arrayrecord" for index in range(4)
    ]


@pytest.mark.parametrize("count", [2, 3, 8, 9, 10, 16, 17, 18, 799, 800, 801, 802, 900])
@pytest.mark.parametrize("seq_len", [1, 4, 8])
def test_windows_hold_every_target_once_and_in_order(tmp_path: Path, count: int, seq_len: int) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(count)})
    split = manifest.sources["km"].splits["train"]
    assert split.rows == -(-(count - 1) // 8)
    assert (split.tokens, split.targets, split.documents, split.bytes) == (count, count - 1, 7, 3 * count)
    assert read_targets(manifest, "km", seq_len) == list(range(1, count))


def test_the_last_row_is_padded_with_end_of_text(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(5, 16)})
    row = np.frombuffer(open_rows(manifest, "km", "train").read(1), manifest.dtype)
    assert row.tolist() == [13, 14, 15, 0, 0, 0, 0, 0, 0]


def test_a_stream_without_targets_has_no_rows(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"none": np.arange(0), "one": np.arange(1)})
    for name in ("none", "one"):
        assert manifest.sources[name].splits["train"].files == ()
        assert read_targets(manifest, name, 4) == []
    assert read_manifest(tmp_path) == manifest


def test_ids_past_65536_are_stored_as_uint32(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(65_500, 65_600)}, vocab_size=65_600)
    assert read_manifest(tmp_path).dtype == np.uint32
    assert read_targets(manifest, "km", 8) == list(range(65_501, 65_600))


def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    for bad in (100, -1):
        with (
            RowWriter(tmp_path, "km", "train", row_tokens=8, vocab_size=100, end_of_text_id=0) as writer,
            pytest.raises(ValueError, match="outside the vocabulary of 100"),
        ):
            writer.write([1, bad])


def test_the_same_ids_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a", {"km": np.arange(3000)})
    second = write_rows(tmp_path / "b", {"km": np.arange(3000)})
    hashes = [[s.sha256 for s in m.sources["km"].splits["train"].files] for m in (first, second)]
    assert hashes[0] == hashes[1]


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    ids = np.append(np.arange(1000), 65_536)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        write_rows(tmp_path, {"km": ids}, rows_per_shard=10)
    assert list((tmp_path / "km").iterdir()) == []
    assert not (tmp_path / "manifest.json").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"km: could not write token rows \(.*free some space"):
            write_rows(tmp_path, {"km": np.zeros(1_000_000, np.int64)}, row_tokens=1024)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "km").iterdir()) == []


def test_a_folder_that_holds_no_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no token rows here.*`tonsai tokenize`.*`tonsai prepare-sft`"):
        read_manifest(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"format": "tonsai_jax/documents", "version": 1}')
    with pytest.raises(UserError, match=r"manifest\.json: this is not a folder of token rows"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 2', "format version 2"),
        ('"row_tokens": 8', '"rows_tokens": 8', "damaged manifest"),
        ('"rows": 100', '"rows": 99', "damaged manifest"),
        ('"row_tokens": 8', '"row_tokens": 16', "damaged manifest"),
        ('"weight": 1.0', '"weight": -0.5', r"manifest\.json: the weight of source 'km' is -0.5; set it to 0 or more"),
        ('"weight": 1.0', '"weight": NaN', "the weight of source 'km' is nan"),
        ('"weight": 1.0', '"weight": "much"', "damaged manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_rows(tmp_path, {"km": np.arange(3000)})
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, {"km": np.arange(30)})
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"other": 1}')
    with pytest.raises(UserError, match="not the tokenizer that made the rows"):
        read_manifest(tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        read_manifest(tmp_path)


def test_damaged_and_missing_shards_are_named(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(3000)})
    path = manifest.sources["km"].splits["train"].files[1].path
    whole = path.read_bytes()

    flipped = bytearray(whole)
    flipped[-len(whole) // 2] ^= 1
    cut = whole[: len(whole) // 2]
    for damaged in (bytes(flipped), cut, b"", b"not an array record" * 9000):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{path}: damaged token rows"):
            read_targets(manifest, "km", 8)

    path.unlink()
    with pytest.raises(UserError, match=rf"{path}: this file of token rows is missing"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match=rf"{path}: this file of token rows is missing"):
        read_targets(manifest, "km", 8)


def test_a_shard_with_other_rows_than_the_manifest_says_is_named(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(3000)})
    split = manifest.sources["km"].splits["train"]
    short = dataclasses.replace(split.files[0], path=split.files[3].path)
    manifest.sources["km"].splits["train"] = dataclasses.replace(split, files=(short, *split.files[1:]))
    with pytest.raises(UserError, match=r"holds 75 rows, the manifest says 100"):
        open_rows(manifest, "km", "train").read(0)


def test_a_window_length_that_does_not_divide_the_row_is_refused(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path, {"km": np.arange(30)})
    with pytest.raises(UserError, match="seq_len 3 does not divide row_tokens 8"):
        window_count(open_rows(manifest, "km", "train"), 3)


def test_a_row_outside_the_split_is_an_index_error(tmp_path: Path) -> None:
    rows = open_rows(write_rows(tmp_path, {"km": np.arange(30)}), "km", "train")
    for index in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows.read(index)


def test_the_sources_that_stages_read_are_those_with_a_weight_there_or_in_the_manifest(tmp_path: Path) -> None:
    write_rows(tmp_path, {"km": np.arange(3000), "en": np.arange(3000)})
    manifest = read_manifest(tmp_path)
    manifest.sources["en"] = dataclasses.replace(manifest.sources["en"], weight=0.0)

    def stage(**weights: float) -> Stage:
        return Stage(steps=1, seq_len=8, global_batch_size=1, weights=weights)

    assert manifest.read_by([stage()]) == {"km"}
    assert manifest.read_by([stage(km=0.0, en=1.0)]) == {"en"}
    assert manifest.read_by([stage(), stage(en=1.0)]) == {"km", "en"}
    assert manifest.read_by([stage(gone=1.0)]) == set()
