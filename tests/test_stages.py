"""The arithmetic of a run: stage of a step, tokens, FLOPs, micro-batches, and a length given in three ways."""

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.stages import (
    Length,
    MicroBatch,
    SourceSize,
    Stage,
    flops_between,
    stage_at,
    steps_between,
    tokens_between,
    tokens_by_source,
    total_steps,
)

SHORT = Stage(steps=20, seq_len=100, global_batch_size=10)
LONG = Stage(steps=10, seq_len=200, global_batch_size=10)
STAGES = (SHORT, LONG)
SOURCES = {"km": SourceSize(0.75, 3000), "en": SourceSize(0.25, 5000)}


def test_a_step_belongs_to_the_stage_that_takes_it() -> None:
    assert total_steps(STAGES) == 30
    assert [stage_at(STAGES, step) for step in (0, 19, 20, 29)] == [SHORT, SHORT, LONG, LONG]
    assert stage_at(STAGES, 100) == LONG


@pytest.mark.parametrize(
    ("first", "end", "steps"),
    [(0, 30, [20, 10]), (5, 25, [15, 5]), (20, 20, [0, 0]), (22, 99, [0, 8]), (25, 5, [0, 0])],
)
def test_steps_of_each_stage_between_two_steps(first: int, end: int, steps: list[int]) -> None:
    assert [count for _, count in steps_between(STAGES, first, end)] == steps


def test_tokens_and_flops_are_those_of_whole_batches() -> None:
    assert tokens_between(STAGES, 0, 30) == 20 * 1000 + 10 * 2000
    assert tokens_between(STAGES, 19, 21) == 1000 + 2000
    assert flops_between(STAGES, 19, 21, lambda seq_len: seq_len / 100) == 1000 * 1 + 2000 * 2


def test_a_stage_with_weights_of_its_own_reads_its_sources_by_them() -> None:
    stages = (SHORT, Stage(steps=10, seq_len=200, global_batch_size=10, weights={"km": 3.0, "en": 1.0, "code": 4.0}))
    assert tokens_by_source(stages, SOURCES) == {"km": 15_000 + 7_500, "en": 5_000 + 2_500, "code": 10_000}


# Length


def test_tokens_become_steps_rounded_up() -> None:
    assert Length(steps=7).to_steps(100, {}, None) == 7
    assert [Length(tokens=tokens).to_steps(100, {}, None) for tokens in (1, 100, 101, 1e4)] == [1, 1, 2, 100]


@pytest.mark.parametrize(
    ("length", "weights", "steps"),
    [
        (Length(epochs=1), {}, 80),
        (Length(epochs=2.5), {}, 200),
        (Length(epochs=1), {"km": 1.0, "en": 0.0}, 30),  # a source that is not read is not part of the mixture
        (Length(epochs=1, epochs_of="km"), {}, 40),  # three quarters of the tokens are its own
        (Length(epochs=1, epochs_of="km"), {"km": 0.5, "en": 0.5}, 60),
        (Length(epochs=2, epochs_of="en"), {"km": 0.5, "en": 0.5}, 200),
        (Length(epochs=1e-9), {}, 1),
    ],
)
def test_epochs_become_steps(length: Length, weights: dict[str, float], steps: int) -> None:
    assert length.to_steps(100, weights, SOURCES) == steps


def test_epochs_need_the_sizes_of_the_sources() -> None:
    assert Length(epochs=1).to_steps(100, {}, None) == 0


def test_epochs_of_a_source_that_is_not_read_are_refused() -> None:
    with pytest.raises(UserError, match="epochs_of='khm' is not a source with a weight above 0; did you mean 'km'"):
        Length(epochs=1, epochs_of="khm").to_steps(100, {}, SOURCES)
    with pytest.raises(UserError, match="epochs_of='en' is not a source with a weight above 0; known are: km"):
        Length(epochs=1, epochs_of="en").to_steps(100, {"km": 1.0, "en": 0.0}, SOURCES)


# Micro-batches


def test_a_micro_batch_of_longer_sequences_has_fewer() -> None:
    lengths = (1024, 2048, 8192, 65_536)
    assert [MicroBatch(16, 2048).sequences(length) for length in lengths] == [32, 16, 4, 1]
    assert MicroBatch(0, 2048).sequences(8192) == 0
    assert MicroBatch(16).sequences(8192) == 16


@pytest.mark.parametrize(
    ("devices", "global_batch_size", "size", "steps"),
    [(1, 32, 0, 1), (8, 32, 0, 1), (1, 32, 8, 4), (8, 32, 1, 4), (8, 32, 4, 1), (8, 32, 100, 1)],
)
def test_micro_batches_of_a_step(devices: int, global_batch_size: int, size: int, steps: int) -> None:
    assert MicroBatch(size).accumulation_steps(devices, global_batch_size, 64) == steps


@pytest.mark.parametrize(
    ("global_batch_size", "size", "message"),
    [
        (12, 0, "global_batch_size=12 is not divisible by the 8 devices; choose a multiple of 8"),
        (48, 4, "micro_batch_size=4 does not divide a device's share of the batch, 6 .* choose a divisor of 6"),
    ],
)
def test_a_batch_that_does_not_divide_evenly_is_refused(global_batch_size: int, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MicroBatch(size).accumulation_steps(8, global_batch_size, 64)
