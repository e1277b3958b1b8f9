"""Runs are read from their folders: size, text with its repetitions, scores; what is no run from scratch is left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import preset
from tonsai_jax.saved_config import to_json
from tonsai_jax.scaling.runs import layer_parameters, read_runs


def write_run(
    workdir: Path, *, seed: int = 0, score: float = 1.0, also: Mapping[str, Any] | None = None, **keys: Any
) -> None:
    """The files of a complete run: 100 steps of 8 x 256 tokens, 3 of 4 of them Khmer."""
    config = default_config()
    config.seq_len, config.global_batch_size, config.steps, config.seed = 256, 8, 100, seed
    config.model.num_layers, config.model.d_model, config.model.num_heads, config.model.d_ff = 2, 64, 1, 128
    config.update_from_flattened_dict({"data.weights": {"khmer": 3.0, "english": 1.0}} | keys | dict(also or {}))
    source = {"weight": 1.0, "splits": {"train": {"tokens": 50_000, "bytes": 500_000}}}
    sources = {"khmer": source | {"language": "km"}, "english": source | {"language": "en"}}
    write_json(workdir / "config.json", to_json(config))
    write_json(workdir / "data.json", {"vocab_size": 8000, "sources": sources})
    scores = {"eval/bits_per_byte/km": score, "eval/bits_per_byte/en": 2 * score, "eval/bits_per_byte": 1.5 * score}
    record = {"step": 100, "scores": scores, "samples": [], "exported": False}
    write_json(workdir / "complete.json", record)


def test_a_run_has_its_size_its_text_and_its_scores(tmp_path: Path) -> None:
    write_run(tmp_path / "mine")
    [run] = read_runs(tmp_path)
    weights, norms, head_norms = 4 * 64 * 64 + 3 * 64 * 128, 2 * 64, 2 * 64
    assert run.layer_parameters == 2 * (weights + norms + head_norms) + 64, "without embeddings and head"
    assert run.texts["km"] == (500_000, pytest.approx(0.75 * 100 * 2048 * 10))
    assert run.texts["en"] == (500_000, pytest.approx(0.25 * 100 * 2048 * 10))
    assert run.bits_per_byte == {"km": 1.0, "en": 2.0}
    assert (run.bytes_per_token, run.vocab_size) == ({"km": 10.0, "en": 10.0}, 8000)


def test_runs_that_differ_in_the_seed_alone_become_their_mean(tmp_path: Path) -> None:
    for seed, score in ((0, 1.0), (1, 1.2)):
        write_run(tmp_path / f"seed-{seed}", seed=seed, score=score)
    write_run(tmp_path / "longer", steps=200)
    write_run(tmp_path / "other-rate", also={"optimizer.learning_rate": 0.5})
    write_run(tmp_path / "other-batch", seq_len=512, global_batch_size=4)
    runs = {run.name.rpartition("/")[2]: run.bits_per_byte["km"] for run in read_runs(tmp_path)}
    assert runs == {"seed-0": pytest.approx(1.1), "longer": 1.0, "other-rate": 1.0, "other-batch": 1.0}


def test_a_run_that_continues_a_model_or_was_not_evaluated_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path / "mine")
    write_run(tmp_path / "continued", init_from="runs/other")
    write_run(tmp_path / "distilled", also={"distill.teachers": ("runs/other",)})
    write_run(tmp_path / "no-khmer", also={"data.weights": {"english": 1.0}})
    write_run(tmp_path / "damaged")
    (tmp_path / "damaged" / "data.json").unlink()
    write_run(tmp_path / "unscored")
    write_json(tmp_path / "unscored" / "complete.json", {"step": 1, "scores": {}, "samples": [], "exported": False})
    [run] = read_runs(tmp_path)
    assert run.name == str(tmp_path / "mine")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "left out (it continued from another model, and the law is of runs from scratch)",
        f"left out ({tmp_path}/damaged/data.json: no such file)",
        "left out (it learned from teachers, and the law is of runs that learn from the text alone)",
        "left out (it has a score of km and read no text in km)",
        "left out (it has no bits per byte of held-out text)",
    ]


def test_runs_with_dropout_are_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path / "plain")
    assert [run.dropout for run in read_runs(tmp_path)] == [0.0]
    assert not caplog.records
    for seed in (0, 1):
        write_run(tmp_path / f"dropout-{seed}", seed=seed, also={"model.dropout": 0.1})
    write_run(tmp_path / "of-attention", also={"model.attention_dropout": 0.2})
    assert sorted(run.dropout for run in read_runs(tmp_path)) == [0.0, 0.1, 0.2]
    assert [record.getMessage() for record in caplog.records] == [
        f"--measured: dropout in 2 of 3 runs (the first: {tmp_path}/dropout-0; runs that differ in the seed alone count once), "
        "and the law has no term for it. Plan with a config of the same dropout, or measure runs with --config.model.dropout=0"
    ]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--measured .*/nothing: no such folder; give the folder of a run"):
        read_runs(tmp_path / "nothing")
    with pytest.raises(UserError, match="no complete run with a score of held-out text is in it"):
        read_runs(tmp_path)


def test_the_layers_are_the_model_without_its_tables() -> None:
    model = ModelConfig(vocab_size=8000, num_layers=4, d_model=128, num_heads=2, d_ff=320, **preset("llama"))
    assert layer_parameters(model) == model.num_parameters - 2 * 8000 * 128
