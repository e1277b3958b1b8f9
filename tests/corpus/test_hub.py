"""Hugging Face datasets, tried without a network on a folder that `datasets` loads the same way."""

import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources import hub
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.source import Source
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


def texts(hf, errors="stop", **keys):
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
        ({"text_column": "text"}, "no column 'text'; there are: content, n; set `text_column`"),
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
    with pytest.raises(
        UserError, match=r"^Hugging Face dataset owner/name: .*check the network.*HF_HUB_OFFLINE.*hf auth login"
    ) as caught:
        texts("owner/name")
    assert "\n" not in str(caught.value)


def test_the_manifest_names_the_dataset(dataset, tmp_path):
    sources = [Source("a", "km", hf=dataset, text_column="content"), Source("b", "km", documents=["ខ"])]
    manifest = prepare(sources, tmp_path / "out", progress=False)
    assert [source["dataset"] for source in manifest["sources"].values()] == [dataset, None]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_nested_translation_is_written_by_a_template(tmp_path, streaming):
    pairs = [{"en": "one", "km": "មួយ"}, {"en": "two", "km": "ពីរ"}]
    (tmp_path / "pairs").mkdir()
    pq.write_table(pa.table({"translation": pairs, "id": [1, 2]}), tmp_path / "pairs" / "train.parquet")
    template = "{{ translation.km }}\n{{ translation.en }}"
    assert texts(str(tmp_path / "pairs"), template=template, streaming=streaming) == ["មួយ\none", "ពីរ\ntwo"]
    with pytest.raises(UserError, match=r"row 1: no field 'fr'; there are: (en, km|km, en); set `template`"):
        texts(str(tmp_path / "pairs"), template="{{ translation.fr }}", streaming=streaming)


def test_the_field_is_guessed_and_the_reason_told(dataset):
    assert texts(dataset) == ["train ក", "train b", ""]
    assert str(Source("a", "km", hf=dataset).reading()) == "reads content: `content` is the only field that holds text"


@pytest.fixture
def three_files(tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(3):
        table = pa.table({"text": [f"{number}-{row}" for row in range(4)]})
        pq.write_table(table, tmp_path / "many" / f"train-{number:05}-of-00003.parquet")
    return str(tmp_path / "many")


def test_the_pieces_of_a_stream_are_its_files_and_give_the_keys_of_the_whole(three_files):
    source = Source("a", "km", hf=three_files)
    pieces = source.pieces(1)
    assert [piece.shards for piece in pieces] == [(0, 1), (1, 2), (2, 3)]
    documents = list(itertools.chain.from_iterable(piece.documents(Faults()) for piece in pieces))
    assert documents == [(f"a/{text}", text) for text in source.texts(Faults())]
    assert len(Source("a", "km", hf=three_files, streaming=False).pieces(1)) == 1
    (piece,) = Source("a", "km", hf=three_files, max_samples=6).pieces(1)
    assert [key for key, _ in piece.documents(Faults())] == [key for key, _ in documents[:6]]


def breaking(times, error):
    """`datasets`' iteration, made to break after each second row, `times` times."""
    import datasets

    real, left = datasets.IterableDataset.__iter__, [times]

    def broken(self):
        for number, row in enumerate(real(self)):
            if number == 2 and left[0]:
                left[0] -= 1
                raise error
            yield row

    return broken


def test_a_stream_that_breaks_goes_on_at_the_row_where_it_broke(three_files, monkeypatch):
    import datasets

    monkeypatch.setattr(hub, "RETRY_SECONDS", 0)
    monkeypatch.setattr(datasets.IterableDataset, "__iter__", breaking(3, ConnectionError("reset")))
    assert texts(three_files) == [f"{number}-{row}" for number in range(3) for row in range(4)]


@pytest.mark.parametrize(
    ("error", "tries", "message"),
    [
        (ConnectionError("reset by peer"), hub.RETRIES + 1, "reset by peer; check the network"),
        (ValueError("bad cast"), 1, "bad cast; check the id"),
        (OSError("Dataset 'o/n' is a gated dataset on the Hub."), 1, "needs access rights; accept its terms"),
    ],
)
def test_a_stream_that_stays_broken_names_the_dataset(three_files, monkeypatch, error, tries, message):
    import datasets

    tried = []

    def broken(self):
        tried.append(1)
        raise error

    monkeypatch.setattr(hub, "RETRY_SECONDS", 0)
    monkeypatch.setattr(datasets.IterableDataset, "__iter__", broken)
    with pytest.raises(UserError, match=message) as caught:
        texts(three_files, text_column="text")
    assert str(caught.value).startswith(f"Hugging Face dataset {three_files} at row 1 of file 1: ")
    assert len(tried) == tries
    assert "\n" not in str(caught.value)
