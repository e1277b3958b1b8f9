"""One training step: what it computes, what it leaves out, and that no split of the work changes it."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.support.eight_devices import run_on_eight_devices, run_on_two_processes_of_four_devices
from tests.support.tiny_model import CONFIG, config_with
from tests.support.train_step import ADAMW, BIG, B, T, assert_same, batch_of, make_step, one_device
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.mesh import make_mesh, put_batch
from tonsai_jax.training.state import init_state

CLIP_NORM = 5.0
DESCENT = optax.identity()  # the update is the gradient itself


@functools.cache
def adamw_step():
    return make_step()


@functools.cache
def descent_step(clip_norm):
    return make_step(optimizer=DESCENT, schedule=lambda step: jnp.float32(1), clip_norm=clip_norm)


@functools.cache
def _start(optimizer):
    return init_state(CONFIG, optimizer, one_device(), seed=0)


def start(optimizer=ADAMW):
    return placed(_start(optimizer))


def placed(state):
    """A copy of `state` on one device, for a step takes over the memory of what it is given."""
    return jax.tree.map(jnp.copy, jax.device_put(state, NamedSharding(one_device(), PartitionSpec())))


def run(step, batches, state=None):
    """The state after these batches, and each one's metrics."""
    state = start() if state is None else state
    metrics = []
    for batch in batches:
        state, got = step(state, batch)
        metrics.append(jax.device_get(got))
    return jax.device_get(state), metrics


def test_golden_the_losses_of_five_steps():
    _, metrics = run(adamw_step(), [batch_of(0)] * 5)
    losses = [float(each["loss"]) for each in metrics]
    golden = [5.7071, 5.5560, 5.3583, 5.1222, 4.9035]
    assert losses == pytest.approx(golden, abs=2e-4), (
        f"the training step computes something else: {losses}. Update these numbers only with a change that is meant to "
        f"alter initial weights, model, loss or optimizer, and say so in the commit message; a change of speed, sharding "
        f"or a library's version is no reason."
    )


def test_the_loss_of_a_fresh_model_is_that_of_guessing():
    _, metrics = run(adamw_step(), [batch_of()])
    assert metrics[0]["loss"] == pytest.approx(math.log(CONFIG.vocab_size), abs=0.1)
    assert metrics[0]["tokens"] == batch_of()["valid"].sum()


def test_a_batch_done_in_parts_is_the_whole_batch():
    batches = [batch_of(seed) for seed in range(3)]
    whole = run(adamw_step(), batches)
    parts = run(make_step(micro_batch=MicroBatch(2)), batches)
    assert_same(whole, parts, atol=1e-5, rtol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    good, _ = run(adamw_step(), [batch_of()])
    poisoned = good.params | {"position_embedding": np.full_like(good.params["position_embedding"], np.nan)}
    kept = dataclasses.replace(good, params=poisoned)
    after, (metrics,) = run(adamw_step(), [batch_of(1)], placed(kept))
    assert not np.isfinite(metrics["loss"])
    assert metrics["skipped"] == 1
    assert_same((after.params, after.opt_state), (kept.params, kept.opt_state))
    assert after.step == kept.step + 1 == 2

    healed = placed(dataclasses.replace(after, params=good.params))
    after, (metrics,) = run(adamw_step(), [batch_of(1)], healed)
    assert metrics["skipped"] == 0
    assert np.isfinite(metrics["loss"])
    assert after.step == 3


def test_a_finite_step_is_not_skipped():
    before = jax.device_get(start())
    after, (metrics,) = run(adamw_step(), [batch_of()])
    assert metrics["skipped"] == 0
    for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        assert (old != new).any()


def test_clipping_shortens_the_update_and_leaves_the_metric_as_it_was():
    few = batch_of() | {"valid": np.eye(B, dtype=np.int32)[0]}  # a single target: a long gradient
    params = jax.device_get(start(DESCENT).params)
    free, (free_metrics,) = run(descent_step(0.0), [few], start(DESCENT))
    clipped, (metrics,) = run(descent_step(CLIP_NORM), [few], start(DESCENT))

    def length(after):
        return float(optax.tree.norm(jax.tree.map(np.subtract, params, after.params)))

    assert CLIP_NORM < metrics["grad_norm"] == pytest.approx(float(free_metrics["grad_norm"]), rel=1e-6)
    assert length(free) == pytest.approx(float(free_metrics["grad_norm"]), rel=1e-4)
    assert length(clipped) == pytest.approx(CLIP_NORM, rel=1e-4)


def test_a_gradient_shorter_than_the_limit_is_left_alone():
    free, clipped = (run(descent_step(limit), [batch_of()], start(DESCENT)) for limit in (0.0, CLIP_NORM))
    assert 0 < free[1][0]["grad_norm"] < CLIP_NORM
    assert_same(free, clipped, atol=1e-7)


def test_targets_past_the_valid_ones_count_for_nothing():
    batch, other = batch_of(), batch_of(seed=9)
    past = np.arange(T + 1) > batch["valid"][:, None]
    changed = batch | {"tokens": np.where(past, other["tokens"], batch["tokens"])}
    assert (changed["tokens"] != batch["tokens"]).any()
    assert_same(
        run(descent_step(0.0), [batch], start(DESCENT)), run(descent_step(0.0), [changed], start(DESCENT)), atol=1e-7
    )


def test_a_batch_without_a_single_target_is_a_step_of_zero_gradient():
    empty = batch_of() | {"valid": np.zeros(B, np.int32)}
    before = jax.device_get(start(DESCENT))
    after, (metrics,) = run(descent_step(0.0), [empty], start(DESCENT))
    assert (metrics["loss"], metrics["grad_norm"], metrics["skipped"], metrics["tokens"]) == (0, 0, 0, 0)
    assert_same(after.params, before.params)


@pytest.mark.full
def test_dropout_is_a_function_of_the_step():
    step = make_step(config_with(dropout=0.3))

    def loss(number):
        state = placed(dataclasses.replace(_start(ADAMW), step=jnp.int32(number)))
        return float(run(step, [batch_of()], state)[1][0]["loss"])

    assert loss(5) == loss(5)
    assert loss(5) != loss(6)


def test_the_rate_is_that_of_the_step():
    _, metrics = run(adamw_step(), [batch_of()] * 4)
    assert [float(each["learning_rate"]) for each in metrics] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])


def test_one_host_that_asks_to_stop_is_heard_by_all():
    asked = batch_of() | {"stop": np.eye(B, dtype=np.int32)[5]}
    _, metrics = run(adamw_step(), [batch_of(), asked])
    assert [int(each["stop"]) for each in metrics] == [0, 1]


# Many devices


def check_many_devices_give_what_one_gives(splits):
    """Trains on one device, then on all of them for every (data, fsdp, micro_batch_size); each host has its rows."""
    batches = [batch_of(seed, batch_size=16, vocab_size=512) for seed in range(3)]
    state = init_state(BIG, ADAMW, one_device(), seed=0)
    one = run(make_step(BIG), batches, state)
    rows = np.split(np.arange(16), jax.process_count())[jax.process_index()]
    for data, fsdp, micro_batch_size in splits:
        mesh = make_mesh(data, fsdp)
        step = make_step(BIG, mesh, micro_batch=MicroBatch(micro_batch_size))
        state, metrics = init_state(BIG, ADAMW, mesh, seed=0), []
        for batch in batches:
            state, got = step(state, put_batch({name: whole[rows] for name, whole in batch.items()}, mesh))
            metrics.append(jax.device_get(got))
        gathered = jax.jit(lambda state: state, out_shardings=NamedSharding(mesh, PartitionSpec()))(state)
        assert_same(one, (jax.device_get(gathered), metrics), atol=1e-5, rtol=1e-5)


def check_large_parameters_and_moments_are_split():
    state = init_state(BIG, ADAMW, make_mesh(1, 8), seed=0)

    def held(tree):
        """Bytes of the whole, and bytes on one device."""
        leaves = jax.tree.leaves(tree)
        return sum(leaf.nbytes for leaf in leaves), sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)

    for tree in (state.params, state.opt_state):
        whole, on_one = held(tree)
        assert on_one < whole / 3  # small arrays stay whole on each
    table = state.params["token_embedding"]
    assert {shard.data.shape for shard in table.addressable_shards} == {(512 // 8, 128)}
    kernel = state.params["blocks"]["mlp_up"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 128 // 8, 512)}


def check_many_devices():
    check_large_parameters_and_moments_are_split()
    check_many_devices_give_what_one_gives([(8, 1, 0), (8, 1, 1), (2, 4, 1)])


def check_two_processes():
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 4, 8)
    check_many_devices_give_what_one_gives([(1, 8, 1)])  # parameters are split across both


@pytest.mark.full
def test_eight_devices_give_what_one_gives_and_each_holds_its_part():
    run_on_eight_devices(check_many_devices)


@pytest.mark.full
def test_two_processes_of_four_devices_give_what_one_device_gives():
    run_on_two_processes_of_four_devices(check_two_processes)
