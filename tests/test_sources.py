"""The YAML file of sources, and telling a path from a Hugging Face id."""

from pathlib import Path

import pytest

from tonsai_jax.corpus.readers import Faults
from tonsai_jax.corpus.recipe import load_recipe
from tonsai_jax.corpus.sources import Source, normalized_weights, source_at
from tonsai_jax.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs" / "data"


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
        ("{name: a, language: km}", "give either `path` .* or `hf`"),
        ("{name: a, language: km, path: x, hf: o/n}", "give either `path` .* or `hf`"),
        ("{name: a, language: no, path: x}", r"language must be text \(put it in quotes\), is False"),
        ("{name: a, language: km, path: x, weight: heavy}", "weight must be a number, is 'heavy'"),
        ("{name: a, language: km, path: x, weight: true}", "weight must be a number, is True"),
        ("{name: a, language: km, path: x, weight: -0.1}", "source 'a': weight -0.1 must be"),
        ("{name: a, language: km, path: x, weight: .nan}", "weight nan must be"),
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
        ("", "must hold a list under the key `sources`"),
        ("sources: []", "must hold a list under the key `sources`"),
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
    assert f"python scripts/prepare_dataset.py --config configs/data/{path.name} --output-dir data/" in path.read_text()


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
