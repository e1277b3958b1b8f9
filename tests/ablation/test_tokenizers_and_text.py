"""Ablations that compare tokenizers and score text of another domain: what is checked before, what is computed, one whole run."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.console import tonsai
from tests.support.tiny_run import CONFIG
from tonsai_jax.ablation.other_text import OtherText
from tonsai_jax.ablation.plan import Ablation, PlannedRun, load_ablation, plan_runs
from tonsai_jax.ablation.results import Point, RunResult
from tonsai_jax.ablation.same_text import same_text, with_same_text
from tonsai_jax.ablation.statistics import paired_ratio
from tonsai_jax.ablation.summary import summarize
from tonsai_jax.ablation.tables import tables
from tonsai_jax.ablation.tokenized import check_documents
from tonsai_jax.config import model_config
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.samples.stories import stories
from tonsai_jax.stages import SourceSize, Stage

ROOT = Path(__file__).parents[2]
USUAL_RECIPE = ROOT / "configs" / "ablations" / "usual_recipe.py"
TOKENIZERS = {"bytes": ["--vocab-size=300"], "words": ["--vocab-size=600"]}


def ablation_of(variants: Mapping[str, Any], tokenizers: Mapping[str, Sequence[str]] = TOKENIZERS) -> Ablation:
    return Ablation(base=str(ROOT / "configs" / "quickstart.py"), variants=variants, tokenizers=tokenizers)


def plan(tmp_path: Path, variants: Mapping[str, Any], *flags: str) -> list[PlannedRun]:
    return plan_runs(tmp_path / "file.py", ablation_of(variants), tmp_path / "runs", num_seeds=1, flags=flags)


# The plan


def test_a_variant_trains_on_the_rows_of_its_tokenizer(tmp_path: Path) -> None:
    first, second = plan(tmp_path, {"a": {"tokenizer": "bytes"}, "b": {"tokenizer": "words"}})
    assert first.config.data.dir == str(tmp_path / "runs" / "data" / "bytes" / "tokens")
    assert second.config.data.dir == str(tmp_path / "runs" / "data" / "words" / "tokens")


@pytest.mark.parametrize(
    ("variants", "flags", "told"),
    [
        ({"a": {"tokenizer": "word"}}, [], "variant 'a': tokenizer='word' is not known; did you mean 'words'"),
        ({"a": {"tokenizer": "words", "data.dir": "x"}}, [], "variant 'a': sets tokenizer and data.dir; remove one"),
        ({"a": {"tokenizer": "words"}}, ["--config.data.dir=x"], "variant 'a': sets data.dir, which a flag also sets"),
        ({"data": {"tokenizer": "words"}}, [], "variant 'data': the token rows of the tokenizers have this folder"),
        ({"a": {}, "b": {"same_text_as": "c"}}, [], "variant 'b': same_text_as='c' is not known"),
        ({"a": {}, "b": {"same_text_as": "b"}}, [], "variant 'b': same_text_as='b' is not known"),
        ({"a": {}, "b": {"same_text_as": "a", "stages": ({"steps": 700},)}}, [], "so it cannot have stages"),
    ],
)
def test_a_mistake_is_found_before_anything_is_made(
    tmp_path: Path, variants: dict[str, Any], flags: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        plan(tmp_path, variants, *flags)
    assert not (tmp_path / "runs").exists()


def test_tokenizers_need_documents(tmp_path: Path) -> None:
    file, runs = tmp_path / "file.py", plan(tmp_path, {"a": {"tokenizer": "words"}})
    given: list[tuple[Mapping[str, Sequence[str]], Path | None, str]] = [
        (TOKENIZERS, None, "trains tokenizers; add --documents DIR"),
        ({}, tmp_path, "has no tokenizers to train on them; leave the flag out"),
        ({"a": ["--output-dir=x"]}, tmp_path, "tokenizer 'a': --output-dir=x is set by tonsai ablate; remove it"),
        (TOKENIZERS, tmp_path / "none", "none: no such folder"),
        (TOKENIZERS, tmp_path, "no manifest.json, so this is not a prepared dataset"),
    ]
    for tokenizers, documents, told in given:
        with pytest.raises(UserError, match=told):
            check_documents(file, tokenizers, documents, runs)


def test_the_usual_recipe_has_the_flops_and_tokens_of_ours() -> None:
    ablation, _ = load_ablation(USUAL_RECIPE)
    runs = plan_runs(USUAL_RECIPE, ablation, Path("runs"), num_seeds=1)
    flops = {run.variant: model_config(run.config, 8000).flops_per_token(run.config.seq_len) for run in runs}
    assert flops["ours"] == pytest.approx(flops["usual"], rel=0.01)
    tokens = {run.variant: run.total_steps * run.config.global_batch_size * run.config.seq_len for run in runs}
    assert tokens["ours"] == tokens["usual"] == tokens["ours_tokenizer"]


# The same text


def test_the_same_text_is_read_in_the_tokens_of_the_other_rows() -> None:
    """200 tokens: 100 of km are 2 epochs, 100 of en half an epoch; the other rows have 20 and 400 tokens."""
    sizes = {"km": SourceSize(0.1, 50), "en": SourceSize(0.9, 200)}
    own = {"km": SourceSize(0.1, 20), "en": SourceSize(0.9, 400)}
    weights = {"km": 2.0, "en": 2.0}
    stages = [Stage(5, 10, 2, weights), Stage(5, 10, 2, weights)]
    assert same_text(stages, sizes, own) == pytest.approx({"km": 40, "en": 200})
    assert same_text([Stage(10, 10, 2)], sizes, own) == pytest.approx({"km": 0.4 * 20, "en": 0.9 * 400})


def test_a_run_with_the_same_text_on_the_same_rows_has_the_same_length_and_mix(rows: Path, tmp_path: Path) -> None:
    usual = {"data.dir": str(rows), "data.weights": {"km": 0.25, "en": 0.75}, "steps": 40}
    again = {"data.dir": str(rows), "same_text_as": "usual"}
    runs = with_same_text(plan(tmp_path, {"usual": usual, "again": again}))
    assert [run.total_steps for run in runs] == [40, 40]
    (stage,) = runs[1].stages
    assert stage.weights["en"] / stage.weights["km"] == pytest.approx(3)


# The figures


def test_a_ratio_is_the_mean_of_the_logarithms() -> None:
    """Ratios 0.5, 2, 1: their logarithms have mean 0 and s = ln 2; t(2 degrees of freedom, 97.5 %) = 4.3027."""
    found = paired_ratio({0: 1.0, 1: 4.0, 2: 3.0}, {0: 2.0, 1: 2.0, 2: 3.0, 3: 9.0})
    assert found is not None
    assert found.mean == pytest.approx(1)
    margin = 4.3027 * math.log(2) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((math.exp(-margin), math.exp(margin)), rel=1e-4)
    assert paired_ratio({0: 1.0}, {0: 2.0}) == (pytest.approx(0.5), None, None)
    assert paired_ratio({0: 1.0}, {1: 2.0}) is None


def test_each_language_of_the_other_text_is_compared_with_the_baseline(tmp_path: Path) -> None:
    variants = {"usual": {"tokenizer": "bytes"}, "ours": {"tokenizer": "words"}}
    runs = plan_runs(tmp_path / "file.py", ablation_of(variants), tmp_path, num_seeds=2)
    of_variant = {"usual": {"km": 2.0, "en": 1.0}, "ours": {"km": 1.0, "en": 1.1}}
    results = {
        run.workdir: RunResult(
            complete=True,
            curve=(Point(step=1, tokens=1, seconds=1.0, loss=3.0),),
            loss=3.0,
            bits_per_byte={"km": 1.0 + run.seed},
            mean_bits_per_byte=1.0,
            text_bits_per_byte={name: (1 + run.seed) * value for name, value in of_variant[run.variant].items()},
            tokens_per_second=None,
            peak_gib=None,
        )
        for run in runs
    }
    summary = summarize("file", ablation_of(variants), runs, results, {})
    compared = summary["variants"]["ours"]["text_bits_per_byte_compared"]
    assert compared["km"]["difference"]["mean"] == pytest.approx(-1.5)  # of -1 and -2
    assert compared["km"]["ratio"] == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})
    assert compared["en"]["ratio"]["mean"] == pytest.approx(1.1)
    table = next(table for table in tables(summary) if table.title == "Text of another domain")
    assert [row[:2] for row in table.rows] == [["usual", "en"], ["ours", "en"], ["usual", "km"], ["ours", "km"]]
    assert table.rows[3][2:] == ["1.5000 ± 0.7071", "-1.5000 ± 6.3531 within chance", "0.500 (0.500 to 0.500)"]
    assert table.rows[2][3:] == ["baseline", "1"]


def test_figures_of_other_files_or_of_another_checkpoint_are_not_those_of_this_text(tmp_path: Path) -> None:
    [run] = plan(tmp_path, {"a": {}})
    run.workdir.mkdir(parents=True)
    news = tmp_path / "news.txt"
    news.write_text("ភាសា\n", encoding="utf-8")
    text = OtherText.of([f"km={news}"])
    scores = [{"kind": "language", "name": "km", "length": None, "bits_per_byte": 1.5}]
    scores += [{**scores[0], "kind": "file", "name": str(news)}, {**scores[0], "length": "short"}]
    assert text.bits_per_byte(run) is None
    text.file(run).write_text(json.dumps({"step": run.total_steps - 1, "scores": scores}))
    assert text.bits_per_byte(run) is None
    text.file(run).write_text(json.dumps({"step": run.total_steps, "scores": scores}))
    assert text.bits_per_byte(run) == {"km": 1.5}
    assert OtherText.of([f"en={news}"]).bits_per_byte(run) is None
    news.write_text("ភាសាខ្មែរ\n", encoding="utf-8")
    assert OtherText.of([f"km={news}"]).bits_per_byte(run) is None
    with pytest.raises(UserError, match=r"--text .*: write the language and its file"):
        OtherText.of([str(news)])


@pytest.mark.parametrize(
    ("content", "told"), [(b"caf\xe9\n", "not UTF-8 at byte 3"), (b"\n", "--text: .*: there is no text in this file")]
)
def test_text_that_cannot_be_scored_is_refused_before_the_first_run(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "news.txt").write_bytes(content)
    with pytest.raises(UserError, match=told):
        OtherText.of([f"en={tmp_path / 'news.txt'}"])


# The command

ABLATION = """from tonsai_jax.ablation.plan import Ablation

def get_ablation():
    shared = {"steps": 2, "optimizer.warmup_steps": 1, "sample.prompts": (), "data.weights": {"km": 0.5, "en": 0.5}}
    return Ablation(
        base="tiny_config.py",
        tokenizers={"usual": ["--model-type=gpt2", "--vocab-size=400", "--language-weights=none"]},
        overrides=shared,
        variants={"usual": {"tokenizer": "usual"}},
    )
"""


def test_flags_of_the_command_that_have_no_effect_or_are_out_of_range_are_refused(tmp_path: Path) -> None:
    sources = [Source(name=name, language=name, documents=["2026"]) for name in ("km", "en")]
    prepare(sources, tmp_path / "documents", progress=False)
    (tmp_path / "tiny_config.py").write_text(CONFIG.format(rows="none"), encoding="utf-8")
    (tmp_path / "file.py").write_text(ABLATION, encoding="utf-8")
    words = ("ablate", "--config", str(tmp_path / "file.py"), "--workdir", str(tmp_path / "runs"))
    code, _, err = tonsai(*words, "--val-ratio=0.1")
    assert (code, err) == (1, "error: --val-ratio 0.1: is for the tokenizers of --documents; leave it out\n")
    code, _, err = tonsai(*words, "--documents", str(tmp_path / "documents"), "--val-ratio=2")
    assert code == 1
    assert err.startswith("error: val_ratio 2.0 is not in [0, 1)")
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation of one variant, documents to train its tokenizer on, and text to score it on."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "tiny_config.py").write_text(CONFIG.format(rows="none"), encoding="utf-8")
    (folder / "file.py").write_text(ABLATION, encoding="utf-8")
    sources = [
        Source(name=language, language=language, documents=list(stories(language, 40, seed=1)))
        for language in ("km", "en")
    ]
    prepare(sources, folder / "documents", progress=False)
    (folder / "news.txt").write_text("ភាសាខ្មែរ\n", encoding="utf-8")
    return folder


@pytest.mark.full
def test_a_complete_run_is_scored_later_without_training_and_other_rows_are_refused(folder: Path) -> None:
    def ablate(*words: str) -> tuple[int, str, str]:
        places = ("--workdir", str(folder / "runs"), "--documents", str(folder / "documents"))
        return tonsai("ablate", "--config", str(folder / "file.py"), *places, *words)

    code, out, err = ablate("--val-ratio=0.1", "--config.data.weights={'km': 1, 'eng': 1}")
    assert code == 1
    assert "has no source 'eng', of the weights of variant 'usual'; did you mean 'en'" in err
    assert not (folder / "runs").exists()
    code, out, err = ablate("--val-ratio=0.1")
    assert (code, err) == (0, "")
    assert "Text of another domain" not in out
    rows = read_manifest(folder / "runs" / "data" / "usual" / "tokens")
    report = json.loads((folder / "runs" / "data" / "usual" / "tokenizer" / "report.json").read_text())
    assert report["model_type"] == "gpt2"
    trained = (folder / "runs" / "usual" / "seed-0" / "train.log").read_bytes()

    code, out, err = ablate("--val-ratio=0.1", "--text", f"km={folder / 'news.txt'}")
    assert (code, err) == (0, "")
    assert "tokenizer usual" not in out  # it is kept
    assert "[1/1] usual, seed 0: scoring text, see " in out
    assert "Text of another domain" in out
    assert (folder / "runs" / "usual" / "seed-0" / "train.log").read_bytes() == trained
    score = json.loads((folder / "runs" / "results.json").read_text())["variants"]["usual"]["text_bits_per_byte"]["km"]
    assert f"{score['mean']:.4f}" in out
    assert "Text of another domain" in (folder / "runs" / "report.html").read_text(encoding="utf-8")
    assert read_manifest(folder / "runs" / "data" / "usual" / "tokens") == rows

    code, _, err = ablate("--val-ratio=0.2")
    assert code == 1
    assert "usual/seed-0: was trained on other token rows than" in err
