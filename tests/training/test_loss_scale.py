"""float16: the loss scale keeps small gradients, gives way to large ones, and goes on where a checkpoint left it."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.tiny_model import CONFIG, config_with
from tests.support.tiny_run import TinyRun
from tests.support.train_step import ADAMW, batch_of, make_step, one_device
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.loss_scale import FIRST, GROW_AFTER, LARGEST, SMALLEST, first_scale, next_scale
from tonsai_jax.training.state import init_state

HALF = config_with(dtype="float16")


def losses(config: Any, steps: int = 20, **changes: Any) -> list[float]:
    step, state = make_step(config, **changes), init_state(config, ADAMW, one_device(), seed=0)
    found = []
    for _ in range(steps):
        state, metrics = step(state, batch_of())
        found.append(float(metrics["loss"]))
    return found


@pytest.mark.full
def test_float16_learns_as_float32_does() -> None:
    half, single = losses(HALF), losses(CONFIG)
    assert single[-1] < single[0] - 2
    np.testing.assert_allclose(half, single, rtol=0.01)


@pytest.mark.full
def test_micro_batches_have_the_same_scale() -> None:
    np.testing.assert_allclose(losses(HALF, 5, micro_batch=MicroBatch(2)), losses(HALF, 5), rtol=5e-3)


def test_an_overflow_halves_the_scale_and_changes_nothing_else() -> None:
    step, state = make_step(HALF), init_state(HALF, ADAMW, one_device(), seed=0)
    state.loss_scale["scale"] = jnp.float32(2.0**24)
    before = jax.device_get(state.params)
    state, metrics = step(state, batch_of())
    assert metrics["skipped"] == 1
    assert np.isfinite(metrics["loss"])
    assert (metrics["loss_scale"], state.loss_scale["scale"]) == (2.0**24, 2.0**23)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.params))
    for _ in range(12):
        state, metrics = step(state, batch_of())
    assert metrics["skipped"] == 0


def test_the_scale_grows_after_good_steps_and_stays_in_its_limits() -> None:
    scale = first_scale("float16") | {"good_steps": jnp.int32(GROW_AFTER - 2)}
    scale = next_scale(scale, jnp.bool_(True))
    assert scale["scale"] == FIRST
    scale = next_scale(scale, jnp.bool_(True))
    assert (scale["scale"], scale["good_steps"]) == (2 * FIRST, 0)
    for finite, limit in ((False, SMALLEST), (True, LARGEST)):
        for _ in range(40):
            scale = next_scale(scale | {"good_steps": jnp.int32(GROW_AFTER - 1)}, jnp.bool_(finite))
        assert scale["scale"] == limit


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_dtypes_have_no_scale(dtype: str) -> None:
    assert init_state(config_with(dtype=dtype), ADAMW, one_device(), seed=0).loss_scale == {}


def metadata(run: TinyRun, step: int) -> dict[str, Any]:
    return json.loads((run.workdir / "checkpoints" / str(step) / "progress" / "metadata").read_text())


@pytest.mark.full
def test_a_stopped_run_goes_on_with_its_scale_and_another_dtype_goes_on_without(rows: Path, tmp_path: Path) -> None:
    half = ("model.dtype=float16", "steps=8", "checkpoint.every=4")
    whole = TinyRun(rows, tmp_path / "whole" / "run", half)
    whole.train()
    parts = TinyRun(rows, tmp_path / "parts" / "run", half)
    parts.train(steps_today=3)
    assert metadata(parts, 3)["loss_scale"] == {"scale": FIRST, "good_steps": 3}
    parts.train(steps_today=3)
    assert {step: whole.losses()[step] for step in range(1, 7)} == parts.losses()
    parts.train("model.dtype=float32", steps_today=1)
    assert "loss_scale" not in metadata(parts, 7)
    parts.train()
    assert metadata(parts, 8)["loss_scale"] == {"scale": FIRST, "good_steps": 1}
