"""A mixture of experts: the sum of the outputs of its experts on any mesh; what finds no capacity slot is dropped and counted."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.support.eight_devices import run_on_eight_devices
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.experts import expert_capacity, mixture_of_experts
from tonsai_jax.model.presets import preset
from tonsai_jax.model.remat import remat_policy
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.mesh import make_mesh, one_device_mesh, put_batch
from tonsai_jax.training.state import init_state, model_graph
from tonsai_jax.training.step import LossSettings, make_train_step

E, D, F, B, T = 4, 16, 24, 2, 32
CONFIG = ModelConfig(
    **preset("mixtral") | {"num_experts": E},
    vocab_size=512,
    context_length=64,
    num_layers=2,
    num_heads=2,
    d_model=D,
    d_ff=F,
    dtype="float32",
)


def weights(seed=0):
    """Input, router, and the experts' two matrices."""
    rng = np.random.default_rng(seed)
    shapes = ((B, T, D), (D, E), (E, D, 2 * F), (E, F, D))
    return tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)


@functools.partial(jax.jit, static_argnames=("config", "dropless"))
def ours(config, *arrays, dropless=False):
    return mixture_of_experts(*arrays, config=config, mesh=None, dropless=dropless, backend="batched")


def by_a_loop(config, x, router, up, down, kept=None):
    """Every expert works on every token; `kept` [B, T, k] says whose work counts."""
    probabilities = jax.nn.softmax(x @ router / config.router_temperature)
    best, experts = jax.lax.top_k(probabilities, config.experts_per_token)
    best = best / best.sum(axis=-1, keepdims=True)
    best = best if kept is None else best * kept
    y = jnp.zeros_like(x)
    for expert in range(E):
        gate, values = jnp.split(x @ up[expert], 2, axis=-1)
        share = jnp.sum(best * (experts == expert), axis=-1, keepdims=True)
        y += share * ((jax.nn.silu(gate) * values) @ down[expert])
    return y


@pytest.mark.parametrize("change", [{"experts_per_token": 1}, {}, {"router_temperature": 1.7, "experts_per_token": 3}])
@pytest.mark.parametrize("way", ["dropless", "no limit", "enough capacity"])
def test_it_is_the_weighted_sum_of_its_experts(change, way):
    capacity = {"dropless": 0.1, "no limit": 0.0, "enough capacity": 4.0}[way]
    config = dataclasses.replace(CONFIG, capacity_factor=capacity, **change)
    arrays = weights()
    direction = jnp.asarray(np.random.default_rng(1).standard_normal((B, T, D)), jnp.float32)

    def of_ours(*arrays):
        y, routing = ours(config, *arrays, dropless=way == "dropless")
        return jnp.sum(y * direction), (y, routing)

    def of_loop(*arrays):
        y = by_a_loop(config, *arrays)
        return jnp.sum(y * direction), y

    argnums = tuple(range(4))
    gradients, (y, routing) = jax.grad(of_ours, argnums, has_aux=True)(*arrays)
    expected_gradients, expected = jax.grad(of_loop, argnums, has_aux=True)(*arrays)
    np.testing.assert_allclose(y, expected, atol=1e-4, rtol=1e-4)
    for ours_, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours_, theirs, atol=1e-4 * (1 + np.abs(theirs).max()), rtol=1e-3)
    assert routing.dropped == 0


def test_an_expert_takes_as_many_tokens_as_it_has_capacity_slots_first_choices_first():
    config = dataclasses.replace(CONFIG, capacity_factor=0.5)
    arrays = weights()
    x, router, up, down = arrays
    C = expert_capacity(B * T, config)
    assert C == B * T * 2 // E // 2
    _, experts = jax.lax.top_k(x @ router, 2)
    taken = np.zeros(E, int)
    kept = np.zeros((B * T, 2))
    for choice in range(2):  # all first choices are served before any second one
        for token, expert in enumerate(np.asarray(experts).reshape(B * T, 2)[:, choice]):
            kept[token, choice] = taken[expert] < C
            taken[expert] += 1
    assert 0 < kept.mean() < 1
    y, routing = ours(config, *arrays)
    np.testing.assert_allclose(y, by_a_loop(config, x, router, up, down, kept.reshape(B, T, 2)), atol=1e-4, rtol=1e-4)
    assert routing.dropped == pytest.approx(1 - kept.mean())
    np.testing.assert_allclose(routing.load_E, taken / (B * T * 2), rtol=1e-6)  # before any was dropped


def test_the_figures_of_a_router_that_knows_nothing_and_of_one_that_sends_all_to_one_expert():
    x, router, up, down = weights()
    x = jnp.abs(x)
    _, even = ours(CONFIG, x, jnp.zeros_like(router), up, down)
    assert even.load_balance == pytest.approx(1.0)
    assert even.entropy == pytest.approx(np.log(E))
    assert even.z == pytest.approx(np.log(E) ** 2)
    one = dataclasses.replace(CONFIG, experts_per_token=1)
    _, skewed = ours(one, x, jnp.zeros_like(router).at[:, 2].set(10.0), up, down)
    np.testing.assert_allclose(skewed.load_E, [0, 0, 1, 0], atol=1e-6)
    assert skewed.load_balance == pytest.approx(E)
    assert skewed.entropy == pytest.approx(0, abs=1e-5)
    assert skewed.dropped == pytest.approx(1 - 1.25 / E, abs=0.02)


def test_the_load_balance_loss_balances_and_without_it_the_load_stays_skewed():
    x, router, up, down = weights()
    x = x + 1.0
    router = (0.1 * router).at[:, 0].add(0.3)  # nearly all tokens go to the first expert

    def descend(coefficient):
        @jax.jit
        def gradient(router):
            return jax.grad(lambda router: coefficient * ours(CONFIG, x, router, up, down)[1].load_balance)(router)

        moved = router
        for _ in range(200):
            moved = moved - 0.3 * gradient(moved)
        return ours(CONFIG, x, moved, up, down)[1].load_E

    assert descend(0.0).max() > 0.45  # of two choices, one is always the same
    assert descend(1.0).max() < 0.32


def test_experts_specialize():
    """Tokens of two kinds, which need different functions, end with different experts."""
    config = dataclasses.replace(CONFIG, capacity_factor=0.0, d_ff=8)
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, (8, 32))
    x = rng.standard_normal((8, 32, D)).astype(np.float32)
    x[..., 0] = 2.0 * kind - 1.0
    first, second = rng.standard_normal((2, D, D)).astype(np.float32) / 4
    target = np.where(kind[..., None] == 0, x @ first, x @ second)
    params = tuple(
        jnp.asarray(0.2 * rng.standard_normal(shape), jnp.float32) for shape in ((D, E), (E, D, 16), (E, 8, D))
    )
    optimizer = optax.adam(1e-2)

    def loss(params):
        y, routing = mixture_of_experts(
            jnp.asarray(x), *params, config=config, mesh=None, dropless=False, backend="batched"
        )
        return jnp.mean((y - target) ** 2) + 0.01 * routing.load_balance

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=400)[0][0]

    def purity(router):
        """Share of an expert's tokens that are of the kind it gets most of."""
        _, chosen = jax.lax.top_k(x @ router, 2)
        counts = np.array(
            [[np.sum((np.asarray(chosen) == e) & (kind[..., None] == k)) for k in (0, 1)] for e in range(E)]
        )
        return int(counts.max(axis=1).sum()) / int(counts.sum())

    assert purity(params[0]) < 0.75
    assert purity(train(params)[0]) > 0.9


# In the training step


def batch_of(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 512, (16, 17)).astype(np.uint16)
    return {"tokens": tokens, "valid": np.full(16, 16, np.int32), "stop": np.zeros(16, np.int32)}


@functools.cache
def train(config, mesh, micro_batch_size=0):
    """Parameters and metrics after a step of plain descent."""
    optimizer = optax.identity()
    step = make_train_step(
        model_graph(config, "xla", mesh),
        optimizer,
        lambda step: jnp.float32(0.5),
        mesh,
        loss=LossSettings(chunk_tokens=64, z_loss=0.0, load_balance=0.1, router_z=0.01),
        end_of_text_id=0,
        dropout_key=jax.random.key(1),
        clip_norm=0.0,
        micro_batch=MicroBatch(micro_batch_size),
    )
    state = init_state(config, optimizer, mesh, seed=0)
    state, metrics = step(state, put_batch(batch_of(0), mesh))
    whole = jax.jit(lambda params: params, out_shardings=NamedSharding(mesh, PartitionSpec()))(state.params)
    return jax.device_get(whole), jax.device_get(metrics)


DROPLESS = dataclasses.replace(CONFIG, num_layers=1, capacity_factor=0.0, d_model=64, d_ff=128)


def assert_same(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), first, second)


def check_eight_devices():
    one = train(DROPLESS, one_device_mesh())
    for data, fsdp, expert in ((1, 2, 4), (2, 2, 2)):
        mesh = make_mesh(data, fsdp, expert, num_experts=E)
        assert_same(one, train(DROPLESS, mesh))
    up = init_state(DROPLESS, optax.identity(), mesh, seed=0).params["blocks"]["experts_up"]["kernel"]
    assert {shard.data.shape for shard in up.addressable_shards} == {(1, E // 2, 64 // 2, 256)}


@pytest.mark.full
def test_experts_spread_over_eight_devices_give_what_one_device_gives():
    run_on_eight_devices(check_eight_devices)


@pytest.mark.full
def test_a_batch_done_in_parts_is_the_whole_batch_but_for_what_is_balanced_by_part():
    (whole, metrics), (parts, metrics_of_parts) = (train(DROPLESS, one_device_mesh(), size) for size in (0, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), whole, parts)
    assert metrics_of_parts["loss"] == pytest.approx(metrics["loss"], abs=1e-5)
    for number in range(E):
        name = f"router/expert_{number}"
        assert metrics_of_parts[name] == pytest.approx(metrics[name], abs=1e-5)


@pytest.mark.full
def test_the_metrics_tell_what_the_routers_did_and_each_coefficient_counts():
    _, metrics = train(CONFIG, one_device_mesh())
    shares = [metrics[f"router/expert_{number}"] for number in range(E)]
    assert sum(shares) == pytest.approx(1)
    assert metrics["router/busiest"] >= E * max(shares) - 1e-6
    assert 0 <= metrics["router/dropped"] < 1
    assert 0 < metrics["router/entropy"] <= np.log(E) + 1e-6
    assert metrics["router/load_balance"] == pytest.approx(1, abs=0.2)


@pytest.mark.full
def test_remat_changes_nothing():
    kept = train(CONFIG, one_device_mesh())
    assert_same(kept, train(dataclasses.replace(CONFIG, remat="qkv_mlp", scan_layers=False), one_device_mesh()))


def test_the_backward_pass_runs_no_matrix_product_again_where_the_widest_are_kept():
    """Two products for each of the forward pass; the gradient of the choices' weights needs none of its own."""
    config = dataclasses.replace(CONFIG, d_model=64, d_ff=128)
    shapes = ((1, 512, 64), (64, E), (E, 64, 256), (E, 128, 64))
    layer = jax.checkpoint(
        functools.partial(mixture_of_experts, config=config, mesh=None, dropless=False, backend="batched"),
        policy=remat_policy("qkv_mlp"),
    )
    gradient = jax.grad(lambda *arrays: jnp.sum(layer(*arrays)[0] ** 2), argnums=(0, 1, 2, 3))
    compiled = jax.jit(gradient).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()
    forward = 2 * E * expert_capacity(512, config) * 3 * 64 * 128
    cost = compiled.cost_analysis()
    assert cost is not None
    assert cost["flops"] < 3.2 * forward
