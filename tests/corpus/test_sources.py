"""The YAML file of sources, telling a path from a Hugging Face id, and cutting a source into pieces."""

import dataclasses
import gzip
import itertools
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tonsai_jax.corpus.recipe import load_recipe
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.pieces import text_bytes
from tonsai_jax.corpus.sources.source import Source, normalized_weights, source_at
from tonsai_jax.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


def load(tmp_path, text):
    path = tmp_path / "sources.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path).sources


def test_a_sources_file_becomes_sources_with_the_defaults_filled_in(tmp_path):
    loaded = load(
        tmp_path,
        """
        sources:
          - {name: km_news, language: km, weight: 3, path: news/*.txt, document: paragraph, max_samples: 10}
          - {name: en, language: en, hf: owner/name, subset: s, split: dev, streaming: no, text_column: body}
        """,
    )
    assert loaded == [
        Source("km_news", "km", 3, path="news/*.txt", document="paragraph", max_samples=10),
        Source("en", "en", hf="owner/name", subset="s", split="dev", streaming=False, text_column="body"),
    ]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            "{name: a, language: km, path: x, wieght: 1}",
            r"source 1 \(a\): unknown key 'wieght'; did you mean 'weight'",
        ),
        ("{name: a, language: km, path: x, zzz: 1}", "unknown key 'zzz'; known are: name, language"),
        ("{language: km, path: x}", r"source 1 \(no name\): name is missing"),
        ("{name: a, path: x}", "language is missing"),
        ("{name: a, language: khmer, path: x}", "source 'a': language 'khmer' is not .*; did you mean 'km'"),
        ("{name: a, language: km}", "give either `path` .* or `hf`"),
        ("{name: a, language: km, path: x, hf: o/n}", "give either `path` .* or `hf`"),
        ("{name: a, language: no, path: x}", r"language must be text \(put it in quotes\), is False"),
        ("{name: a, language: km, path: x, weight: heavy}", "weight must be a number, is 'heavy'"),
        ("{name: a, language: km, path: x, weight: true}", "weight must be a number, is True"),
        ("{name: a, language: km, path: x, weight: -0.1}", "source 'a': weight -0.1 must be"),
        ("{name: a, language: km, path: x, weight: .nan}", "weight nan must be"),
        ("{name: a, language: km, path: x, max_document_mb: 0}", "max_document_mb 0 must be above 0"),
        ("{name: a, language: km, path: x, template: '{{'}", "source 'a': template '{{': "),
        ("{name: a, language: km, path: x, max_samples: 0}", "max_samples 0 must be at least 1"),
        (
            "{name: a, language: km, path: x, document: page}",
            "document 'page' must be one of line, paragraph, file",
        ),
        ("{name: a, language: km, path: x, split: train}", "split is for Hugging Face datasets"),
        ("{name: a, language: km, hf: o/n, document: line}", "document is for text files"),
        ("{name: ../a, language: km, path: x}", "the name becomes a folder"),
        ("just text", "must be a group of `key: value` lines"),
    ],
)
def test_a_mistake_names_file_source_and_key(tmp_path, item, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, f"sources:\n  - {item}\n")
    assert str(caught.value).startswith(f"{tmp_path / 'sources.yaml'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a list of sources under the key `sources`"),
        ("sources: []", "needs a list of sources under the key `sources`"),
        (
            "sources: [{name: a, language: km, path: x}]\nsource: 1",
            "unknown key 'source'; did you mean 'sources'",
        ),
        ("sources: [", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_sources_file_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=f"sources.yaml: {message}"):
        load(tmp_path, text)


def test_a_missing_sources_file_is_named():
    with pytest.raises(UserError, match=r"nowhere.yaml: cannot be read \(No such file"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_sources_file_loads_and_opens_with_its_command(path):
    sources = load_recipe(path).sources
    assert all(source.license for source in sources)
    normalized_weights(sources)
    assert f"tonsai prepare --config configs/data/{path.name} --output-dir data/" in path.read_text()


def test_the_recipe_mixes_khmer_and_english_six_to_four():
    for name in ("train_sources.example.yaml", "tokenizer_sources.example.yaml"):
        sources = load_recipe(CONFIGS / name).sources
        assert [(source.language, source.weight) for source in sources] == [("km", 0.6), ("en", 0.4)]


def at(location):
    return source_at(location, name="khmer", language="km", weight=1)


def test_what_exists_is_a_path_and_owner_name_is_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").touch()
    assert at("owner/name").path == "owner/name"
    assert at("owner").path == "owner"
    assert at("owner/*.txt").path == "owner/*.txt"
    assert at("roneneldan/TinyStories").hf == "roneneldan/TinyStories"
    assert at("HPLT/HPLT2.0_cleaned").hf == "HPLT/HPLT2.0_cleaned"


@pytest.mark.parametrize("location", ["owner/typo", "./a/b", "/a/b", "a/b.txt", "a/b.jsonl.gz", "typo", "a/b/c"])
def test_a_path_that_does_not_exist_is_no_id(tmp_path, monkeypatch, location):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    with pytest.raises(UserError, match=f"^{location}: no such file or folder"):
        at(location)


def test_weights_are_made_to_sum_to_one():
    sources = [Source("a", "km", 3, path="x"), Source("b", "en", 1, path="x"), Source("c", "en", 0, path="x")]
    assert normalized_weights(sources) == {"a": 0.75, "b": 0.25, "c": 0.0}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "no source given"),
        ([Source("a", "km", 0, path="x")], "all weights are 0"),
        ([Source("a", "km", path="x"), Source("A", "en", path="y")], "two sources are named 'a'"),
    ],
)
def test_sources_that_cannot_be_mixed_are_refused(sources, message):
    with pytest.raises(UserError, match=message):
        normalized_weights(sources)


def test_max_samples_reads_that_many_of_any_kind_of_source(tmp_path):
    (tmp_path / "a.txt").write_text("1\n2\n")
    (tmp_path / "b.txt").write_text("3\n4\n")
    from_files = Source("a", "km", path=str(tmp_path), max_samples=3)
    in_memory = Source("a", "km", documents=iter("12345"), max_samples=3)
    assert [text.strip() for text in from_files.texts(Faults())] == ["1", "2", "3"]
    assert list(in_memory.texts(Faults())) == ["1", "2", "3"]


@pytest.fixture
def files(tmp_path):
    """One large file of each kind, several small ones, and one that cannot be read."""
    texts = [f"{number} ប្រទេស" * (number % 7) for number in range(400)]
    lines = "".join(f"{text}\n" for text in texts)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("\ufeff" + lines.replace("\n", "\r\n"), encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n\n" for text in texts))
    pq.write_table(pa.table({"n": range(400), "text": texts}), folder / "c.parquet", row_group_size=50)
    (folder / "d.csv").write_text("text\n" + lines, encoding="utf-8")
    (folder / "e.txt.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "f.parquet").write_bytes(b"PAR1 no parquet" * 1000)
    for number in range(20):
        (folder / f"g{number:02}.txt").write_text(f"small {number}\n")
    return folder


def documents(piece):
    return list(piece.documents(Faults("skip")))


@pytest.mark.parametrize("boundary", ["line", "paragraph", "file"])
@pytest.mark.parametrize("target", [100, 1000, 3333, 10**9])
def test_pieces_give_the_documents_and_keys_of_the_whole(files, boundary, target):
    source = Source("a", "km", path=str(files), document=boundary)
    pieces = source.pieces(target)
    joined = list(itertools.chain.from_iterable(documents(piece) for piece in pieces))
    (whole,) = source.pieces(10**12)
    assert joined == documents(whole)
    assert [text for _, text in joined] == list(source.texts(Faults("skip")))
    assert len({key for key, _ in joined}) == len(joined)


def test_large_files_are_cut_and_small_ones_put_together(files):
    pieces = Source("a", "km", path=str(files)).pieces(3000)
    parts = [[Path(span.path).name for span in piece.spans] for piece in pieces]
    assert parts.count(["a.txt"]) > 5
    assert parts.count(["b.jsonl"]) > 5
    assert parts.count(["c.parquet"]) > 2
    assert sum("d.csv" in names for names in parts) == sum("e.txt.gz" in names for names in parts) == 1
    assert any(len(names) == 20 for names in parts)
    reading = {"fields": ("text",), "why": "`text` is there", "template": None}
    assert json.dumps(dataclasses.asdict(pieces[3]))
    assert dataclasses.asdict(pieces[3])["reading"] == reading
    assert documents(pickle.loads(pickle.dumps(pieces[3]))) == documents(pieces[3])


@pytest.mark.parametrize("name", ["a.txt", "b.jsonl", "c.parquet", "d.csv", "e.txt.gz"])
def test_the_size_of_the_text_is_known_before_it_is_read(files, name):
    source = Source("a", "km", path=str(files / name))
    (piece,) = source.pieces(10**9)
    text = sum(len(text.encode()) for text in source.texts(Faults()))
    factor = 2 if name == "b.jsonl" else 1  # Khmer is escaped there, and takes twice the bytes
    assert factor * text * 0.9 < text_bytes(piece.spans) < factor * text * 1.4


def test_keys_name_the_file_and_the_place_in_it(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\nthree\n")
    (tmp_path / "b.csv").write_text('text\n"x\ny"\nz\n')
    pq.write_table(pa.table({"text": ["p", "q"]}), tmp_path / "c.parquet")
    (piece,) = Source("s", "km", path=str(tmp_path)).pieces(1000)
    assert [key for key, _ in documents(piece)] == ["s/0-0", "s/0-5", "s/1-2", "s/1-4", "s/2-0", "s/2-1"]


def test_max_samples_makes_one_piece(files):
    (piece,) = Source("a", "km", path=str(files), max_samples=500).pieces(1000)
    assert len(documents(piece)) == 500


def test_a_line_longer_than_a_piece_is_in_one_of_them(tmp_path):
    (tmp_path / "a.txt").write_text("short\n" + "long" * 10_000 + "\nend\n")
    pieces = Source("a", "km", path=str(tmp_path)).pieces(1000)
    texts = [text.strip() for piece in pieces for _, text in documents(piece)]
    assert texts == ["short", "long" * 10_000, "end"]


def test_max_document_mb_holds_in_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 2000 + "\nb\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "x" * 2000}) + "\n")
    faults = Faults("skip")
    source = Source("a", "km", path=str(tmp_path), max_document_mb=0.001)
    assert [text.strip() for text in source.texts(faults)] == ["b"]
    assert faults.counts == {"too_long": 2}
