"""Norms by layer: of which arrays, and that a run without them computes the same."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.support.tiny_model import CONFIG, config_with
from tests.support.tiny_run import TinyRun
from tests.support.train_step import ADAMW, assert_same, batch_of, make_step, one_device
from tonsai_jax.training.layer_norms import group_names, metric_names
from tonsai_jax.training.state import init_state


def test_the_norms_are_those_of_parameters_gradients_and_updates() -> None:
    plain = make_step()
    state = init_state(CONFIG, ADAMW, one_device(), seed=0)
    before = jax.device_get(state.params)
    without, expected = plain(jax.tree.map(np.copy, state), batch_of())
    after, metrics = make_step(layer_norms=True)(state, batch_of())
    assert_same(jax.device_get(without.params), jax.device_get(after.params), atol=1e-6)
    assert "norms" not in expected

    parameters, gradients, updates = metrics["norms"]
    names = group_names(before)
    assert names[-1] == f"layer_{CONFIG.num_layers - 1}"
    assert np.linalg.norm(gradients) == pytest.approx(float(metrics["grad_norm"]), rel=1e-5)
    table = names.index("token_embedding")
    change = jax.tree.map(np.subtract, jax.device_get(after.params), before)
    assert parameters[table] == pytest.approx(np.linalg.norm(before["token_embedding"]), rel=1e-5)
    assert updates[table] == pytest.approx(np.linalg.norm(change["token_embedding"]), rel=1e-4)
    for tree, norms in ((before, parameters), (change, updates)):
        second = [leaf[1].ravel() for leaf in jax.tree.leaves(tree["blocks"])]
        assert norms[names.index("layer_1")] == pytest.approx(np.linalg.norm(np.concatenate(second)), rel=1e-4)


@pytest.mark.full
def test_a_model_with_experts_has_them_too() -> None:
    config = config_with(num_experts=4, mlp="swiglu")
    state = init_state(config, ADAMW, one_device(), seed=0)
    names = metric_names(state.params)
    _, metrics = make_step(config, layer_norms=True)(state, batch_of())
    assert metrics["norms"].size == len(names) == len(set(names))


@pytest.mark.full
def test_a_run_writes_them_every_so_many_steps(rows: Path, tmp_path: Path) -> None:
    run = TinyRun(rows, tmp_path / "run", ("steps=8", "layer_norms_every=4"))
    run.train()
    lines = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "norm/gradients/layer_1" in line]
    assert [line["step"] for line in found] == [4, 8]
    assert all(line["norm/updates/token_embedding"] > 0 for line in found)
