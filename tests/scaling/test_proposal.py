"""A proposal keeps to its budget and its text, and is better than its neighbors by the fit."""

from dataclasses import replace
from typing import Any

import pytest
from ml_collections import ConfigDict

from tests.scaling.synthetic_runs import LAWS
from tonsai_jax.config import default_config
from tonsai_jax.config_checks import validate
from tonsai_jax.errors import UserError
from tonsai_jax.runtime.hardware import gpu_named
from tonsai_jax.scaling.continued import choose_start
from tonsai_jax.scaling.fit import LanguageFit, Range, ScalingFit
from tonsai_jax.scaling.proposal import MOST_EPOCHS, USUAL_EPOCHS, Planner, Proposal, Task
from tonsai_jax.scaling.shape import WIDTHS, shape_of_width
from tonsai_jax.scaling.speed import cpu_speed, gpu_speed

MUCH = {"en": 1e12, "km": 1e12}


def a_fit(overfitting: float | None = None) -> ScalingFit:
    wide = Range(1e6, 1e8)
    laws = LAWS if overfitting is None else {name: replace(law, overfitting=overfitting) for name, law in LAWS.items()}
    fits = {name: LanguageFit(law, (law,), 0.01, 4.0, wide, wide) for name, law in laws.items()}
    return ScalingFit("a known law", 27, Range(2e5, 2e6), 8000, "muon", [], fits)


def a_config() -> ConfigDict:
    config = default_config()
    config.seq_len = config.model.context_length = 256
    config.global_batch_size = 8
    config.model.dtype = "float32"
    return config


def planner(tokens: dict[str, float], seconds: float, **changes: Any) -> Planner:
    importance = changes.pop("importance", dict.fromkeys(tokens, 1 / len(tokens)))
    task = Task(a_config(), tokens, {"en": 3.6, "km": 10.0}, 8000, importance, seconds, **changes)
    return Planner(task, a_fit(), cpu_speed(lambda width: 1e11, 8000))


def best(tokens: dict[str, float], seconds: float, **changes: Any) -> Proposal:
    return planner(tokens, seconds, **changes).best()


def test_the_time_is_used_and_not_passed() -> None:
    for seconds in (300.0, 1200.0, 1e5):
        proposal = best(MUCH, seconds)
        assert 0.95 * seconds < proposal.seconds <= seconds
        assert proposal.seconds == pytest.approx(proposal.tokens / proposal.tokens_per_second)
        validate(proposal.config)


def test_a_larger_budget_gets_a_larger_model_more_text_and_a_lower_score() -> None:
    small, large = best(MUCH, 300.0), best(MUCH, 30_000.0)
    assert large.layer_parameters > small.layer_parameters
    assert large.tokens > small.tokens
    assert large.objective < small.objective


def test_little_text_is_read_four_times_and_more_only_where_it_pays() -> None:
    proposal = best({"en": 2e6, "km": 1e5}, 1e5)
    assert max(proposal.epochs.values()) <= MOST_EPOCHS + 0.01
    usual = planner({"en": 2e6, "km": 1e5}, 1e5)._search([proposal.width], 4.0)
    assert usual is not None
    assert max(usual.epochs.values()) <= USUAL_EPOCHS + 0.01
    assert proposal.objective < 0.99 * usual.objective, "else it would have stayed at four"
    assert max(best(MUCH, 300.0).epochs.values()) < 4


def test_text_that_is_soon_memorized_is_read_less_often_than_the_budget_allows() -> None:
    tokens = {"km": 1e6}
    task = Task(a_config(), tokens, {"km": 10.0}, 8000, {"km": 1.0}, 1e5)
    speed = cpu_speed(lambda width: 1e11, 8000)
    soon = Planner(task, a_fit(overfitting=5.0), speed).best()
    late = Planner(task, a_fit(overfitting=1e-5), speed).best()
    assert soon.epochs["km"] < 3 < 3.9 < late.epochs["km"]


def test_a_fifth_epoch_that_gains_next_to_nothing_is_left_out() -> None:
    it = planner({"km": 1e6}, 480.0)
    most = it._search(list(it._configs), MOST_EPOCHS)
    assert most is not None
    assert 4.1 < most.epochs["km"] < 4.5, "the budget would allow it"
    assert it.best().epochs["km"] <= 4.0


def test_a_model_has_no_more_parameters_than_the_text_has_tokens() -> None:
    assert best({"en": 1e7, "km": 1e6}, 1e7).layer_parameters < 1.1e7
    assert best({"en": 1e9, "km": 1e9}, 1e7).layer_parameters > 1.1e7


def test_the_more_important_language_gets_more_of_the_mix() -> None:
    khmer, english = (best(MUCH, 3000.0, importance={"km": share, "en": 1 - share}) for share in (0.9, 0.1))
    assert khmer.shares["km"] > english.shares["km"]
    assert khmer.bits_per_byte["km"] < english.bits_per_byte["km"]


def test_alternatives_are_other_runs_of_the_same_budget_and_expect_less() -> None:
    it = planner(MUCH, 3000.0)
    proposal = it.best()
    others = it.alternatives(proposal)
    assert others["half the size"].layer_parameters < proposal.layer_parameters
    assert others["double the size"].layer_parameters > proposal.layer_parameters
    for other in others.values():
        assert proposal.objective <= other.objective
        assert other.seconds <= 3000.0


def test_alternatives_read_no_text_more_often_than_the_proposal_may() -> None:
    """One of them would be better with more readings, by too little to be proposed."""
    it = planner({"km": 3e6, "en": 1e6}, 2400.0)
    proposal = it.best()
    assert max(proposal.epochs.values()) <= 4
    others = it.alternatives(proposal).values()
    assert all(max(other.epochs.values()) <= 4 and proposal.objective <= other.objective for other in others)
    more = it._search([other.width for other in others], MOST_EPOCHS)
    assert more is not None
    assert more.objective < proposal.objective


def test_one_language_alone_is_planned_too() -> None:
    proposal = best({"km": 1e9}, 600.0)
    assert proposal.shares == {"km": 1.0}
    assert proposal.bits_per_byte.keys() == {"km"}


def test_a_budget_too_small_for_any_model_and_a_language_without_a_law_are_refused() -> None:
    with pytest.raises(
        UserError, match="do not suffice for 100 steps of any model; give more of --gpu-hours or --cpu-min"
    ):
        best(MUCH, 1.0)
    with pytest.raises(UserError, match="do not suffice for 100 steps"):
        best({"en": 1000.0}, 1e4)
    with pytest.raises(UserError, match="the fit has no law for lo, only for en, km; train short runs of three sizes"):
        best({"lo": 1e6}, 600.0)


def test_a_batch_is_halved_until_the_run_has_enough_steps() -> None:
    config = a_config()
    config.global_batch_size = 512
    task = Task(config, MUCH, {"en": 3.6, "km": 10.0}, 8000, {"en": 0.5, "km": 0.5}, 3600.0)
    proposal = Planner(task, a_fit(), cpu_speed(lambda width: 1e12, 8000)).best()
    assert 2000 <= proposal.config.steps < 4000
    assert proposal.config.global_batch_size < 512


@pytest.mark.full
def test_a_gpu_runs_the_largest_micro_batch_that_fits_at_less_than_its_roofline() -> None:
    config = a_config()
    config.global_batch_size = 512
    config.model.update(shape_of_width(768))
    config.model.dtype = "bfloat16"
    speed = gpu_speed(gpu_named("l4"), 1, 8000)(config)
    assert speed is not None
    flops = 6 * 12 * 12 * 768**2  # per token, by the layers alone
    assert 0.1 < speed.tokens_per_second * flops / gpu_named("l4").peak_flops < 0.6
    assert 512 % speed.micro_batch_size == 0
    with pytest.raises(UserError, match="--num-gpus 3: must divide the 512 sequences of a step; use a power of two"):
        gpu_speed(gpu_named("l4"), 3, 8000)(config)


def test_every_shape_of_the_family_has_heads_of_64_or_128_and_a_layer_for_each_64_of_its_width() -> None:
    for width in WIDTHS:
        shape = shape_of_width(width)
        assert shape["num_heads"] * shape["head_size"] == width
        assert shape["head_size"] == (128 if width >= 256 and width % 128 == 0 else 64)
        assert shape["num_layers"] == max(4, width // 64)
        assert shape["d_ff"] % 64 == 0
        assert shape["d_ff"] == pytest.approx(width * 8 / 3, rel=0.15)


def test_a_laptop_starts_from_scratch_and_a_gpu_continues_an_open_model() -> None:
    tokens = {"km": 8e6, "en": 60e6}
    laptop = choose_start(tokens, flops_per_second=2e11, seconds=1200, memory_bytes=16e9)
    assert laptop.model is None
    assert laptop.reasons[-1].startswith("from scratch: the budget cannot continue an open model")
    gpu = choose_start(tokens, flops_per_second=4e14, seconds=20 * 3600, memory_bytes=80e9)
    assert gpu.model is not None
    assert gpu.model.name == "Qwen/Qwen3-0.6B-Base"
    small = choose_start(tokens, flops_per_second=4e13, seconds=20 * 3600, memory_bytes=8e9)
    assert small.model is not None
    assert small.model.name == "HuggingFaceTB/SmolLM2-135M", "0.6 B parameters need 9.6 GB"
