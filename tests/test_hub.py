"""Hugging Face datasets, tried without a network on a folder that `datasets` loads the same way."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tonsai_jax.corpus.readers import Faults
from tonsai_jax.corpus.sources import Source
from tonsai_jax.errors import UserError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "dataset"
    folder.mkdir()
    for split in ("train", "test"):
        table = pa.table({"content": [f"{split} ក", f"{split} b", None], "n": [1, 2, 3]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def texts(hf, errors="strict", **keys):
    return list(Source("a", "km", hf=hf, **keys).texts(Faults(errors)))


@pytest.mark.parametrize("streaming", [True, False])
def test_one_column_of_one_split_is_read(dataset, streaming, capfd):
    read = texts(dataset, split="test", text_column="content", streaming=streaming)
    assert read == ["test ក", "test b", ""]
    assert texts(dataset, text_column="content", streaming=streaming, max_samples=1) == ["train ក"]
    assert capfd.readouterr() == ("", "")  # no progress bars, no advice from the library


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "no column 'text'; there are: content, n; set `text_column`"),
        ({"text_column": "content", "split": "nope"}, "nope.*'train'"),
        ({"text_column": "content", "subset": "nope"}, "'nope' not found"),
        ({"text_column": "n"}, "row 1: column 'n' holds int, not text"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(dataset, keys, message):
    with pytest.raises(UserError, match=f"^Hugging Face dataset {dataset}: .*{message}") as caught:
        texts(dataset, **keys)
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^Hugging Face dataset owner/name: .*check the id.*hf auth login") as caught:
        texts("owner/name")
    assert "\n" not in str(caught.value)
