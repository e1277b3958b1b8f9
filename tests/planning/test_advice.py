"""What is said before a run starts: nothing for a run that suits its devices and its text."""

from collections.abc import Mapping

import jax
import pytest
from ml_collections import ConfigDict

from tonsai_jax.config import default_config, stages_of
from tonsai_jax.planning import advice, chosen_remat, step_plan
from tonsai_jax.planning.advice import warnings_before
from tonsai_jax.planning.chosen_remat import with_remat
from tonsai_jax.training.setup import check_run

GIB = 2**30


def small_config() -> ConfigDict:
    config = default_config()
    config.seq_len = config.model.context_length = 64
    config.global_batch_size = 8
    config.model.num_layers, config.model.num_heads = 2, 2
    config.model.d_model, config.model.d_ff = 64, 128
    config.model.tie_embeddings = True
    config.model.dtype = "float32"
    return config


def warnings_of(
    config: ConfigDict, *, vocab_size: int = 256, epochs: Mapping[str, float] | None = None, is_new: bool = True
) -> list[str]:
    setup = check_run(config, stages_of(config), vocab_size)
    epochs = epochs or {"km": 1.0}
    return list(warnings_before(config, setup, tokenizer_vocab_size=vocab_size, epochs=epochs, is_new=is_new))


def test_a_run_that_suits_gets_no_line() -> None:
    assert warnings_of(small_config()) == []


def test_minutes_for_a_step_on_a_cpu_are_said_with_the_config_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "cpu_count", lambda: 2)
    config = small_config()
    config.steps, config.global_batch_size = 100, 2**20
    [line] = warnings_of(config)
    assert "a step of this config takes at least 2m 22s on these devices, and all 100 steps at least 3h 58m" in line
    assert line.endswith("configs/small.py is made for a CPU")


def test_a_model_that_does_not_fit_is_said_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "usable_bytes", lambda: GIB // 8)
    monkeypatch.setattr(advice, "SMALL_PARAMETERS", 0)
    config = small_config()
    config.global_batch_size = 512
    [line] = warnings_of(config)
    assert "this run does not fit in the 0.1 GiB of cpu: a step with 512 sequences of 64 tokens at once" in line
    assert "set micro_batch_size=" in line
    assert line.endswith("; or configs/small.py is made for a CPU")


def test_auto_remat_of_a_gpu_is_replaced_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    setup = check_run(config, stages_of(config), 256)
    assert setup.model_config.remat == "auto"
    on_cpu, line = with_remat(config, setup)
    assert (on_cpu.model_config.remat, line) == ("none", "")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(chosen_remat, "usable_bytes", lambda: GIB // 8)
    for module in (chosen_remat, step_plan):
        monkeypatch.setattr(module, "SMALL_PARAMETERS", 0)
    config.global_batch_size = 512
    on_gpu, line = with_remat(config, setup)
    assert on_gpu.model_config.remat == "full"
    assert "remat: full (the step needs about " in line
    assert " of 0.1 GiB)" in line
    config.model.remat = "qkv_mlp"
    assert with_remat(config, check_run(config, stages_of(config), 256))[1] == "", "what is set is kept"


def test_ids_that_the_tokenizer_does_not_have_are_said_with_their_cost() -> None:
    config = small_config()
    config.model.vocab_size = 50_000
    [line] = warnings_of(config, vocab_size=8000)
    assert "model.vocab_size=50,000 is larger than the tokenizer's 8,000 ids; the other 42,000 are never used" in line
    assert "cost 2.7M parameters and 82% of each step; model.vocab_size=0 takes the tokenizer's" in line
    assert warnings_of(config, vocab_size=8000, is_new=False) == [], "a checkpoint has its vocabulary for good"


@pytest.mark.parametrize(
    ("epochs", "start"),
    [(4.0, ""), (8.0, "note: times that this run reads a source: 'km' 8.0;"), (72282.35, "warning: ")],
)
def test_text_that_is_read_often_is_said(epochs: float, start: str) -> None:
    lines = warnings_of(small_config(), epochs={"km": epochs})
    assert [line[: len(start)] for line in lines] == ([start] if start else [])


def test_far_too_many_epochs_come_with_the_way_out() -> None:
    [line] = warnings_of(small_config(), epochs={"km": 72282.35})
    assert "reads source 'km' 72,282 times" in line
    assert "--config.steps=0 --config.epochs=4 --config.epochs_of=km)" in line
    config = small_config()
    config.steps, config.tokens = 0, 1e9
    [line] = warnings_of(config, epochs={"km": 50.0})
    assert "(--config.tokens=0 --config.epochs=4 --config.epochs_of=km)" in line
    config.stages = ({"steps": 100}, {"steps": 200})
    [line] = warnings_of(config, epochs={"km": 50.0})
    assert "Make the stages shorter, give" in line
