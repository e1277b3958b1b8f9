"""Distillation: its loss is the formula with all logits, and its step does what a step without teachers does otherwise."""

import dataclasses
import functools
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.eight_devices import run_on_eight_devices
from tests.support.tiny_model import CONFIG, config_with, random_params
from tests.support.train_step import ADAMW, BIG, END, T, assert_same, batch_of, make_step, one_device
from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.distillation import distilled_cross_entropy, make_distillation
from tonsai_jax.training.loss import cross_entropy
from tonsai_jax.training.mesh import make_mesh, put_batch, shardings, with_table_copies
from tonsai_jax.training.state import init_state, model_graph

B, L, D = 8, 12, 16
VOCAB_SIZE, PADDED = 50, 64
RNG = np.random.default_rng(0)
X = RNG.standard_normal((B, L, D)).astype(np.float32)
TABLE = RNG.standard_normal((PADDED, D)).astype(np.float32)
TARGETS = jnp.asarray(RNG.integers(0, VOCAB_SIZE, (B, L), dtype=np.int32))
WEIGHTS = jnp.asarray(RNG.uniform(0, 0.1, (B, L)).astype(np.float32) * (RNG.uniform(size=(B, L)) > 0.3))
# Two teachers, each with a width of its own, and loud logits where there is no id
TEACHERS = [
    (RNG.standard_normal((B, L, width)).astype(np.float32), RNG.standard_normal((PADDED, width)).astype(np.float32))
    for width in (8, 24)
]
for _, table in TEACHERS:
    table[VOCAB_SIZE:] = 1e4
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)  # float32 sums in another order

# Of other families than the student
DEEP = config_with(num_layers=3, d_model=48, num_heads=3)
ROPE = config_with(num_layers=1, position="rope", norm="rmsnorm", mlp="swiglu", bias=False, tie_embeddings=False)


def chunked(x_BxLxD, table_VxD, share, z_loss=0.0, *, teachers=TEACHERS, chunk=L, mesh=None):
    def of_devices(table):
        return table if mesh is None else with_table_copies({"head": table}, mesh)["head"]

    xs, tables = zip(*teachers, strict=True)
    return distilled_cross_entropy(
        x_BxLxD,
        of_devices(table_VxD),
        TARGETS,
        WEIGHTS,
        xs,
        [of_devices(table) for table in tables],
        vocab_size=VOCAB_SIZE,
        chunk=chunk,
        share=share,
        z_loss=z_loss,
        mesh=mesh,
    )


def plain(x_BxLxD, table_VxD, share, z_loss=0.0, *, teachers=TEACHERS):
    """The loss as it is written in books, from all logits at once."""

    def log_probabilities(x, table):
        return jax.nn.log_softmax(jnp.einsum("btd,vd->btv", x, table[:VOCAB_SIZE], precision="highest"))

    logp_BxLxV = log_probabilities(x_BxLxD, table_VxD)
    log_z_BxL = jax.nn.logsumexp(
        jnp.einsum("btd,vd->btv", x_BxLxD, table_VxD[:VOCAB_SIZE], precision="highest"), axis=-1
    )
    means = jnp.mean(jnp.stack([log_probabilities(*teacher) for teacher in teachers]), axis=0)
    q_BxLxV = jnp.exp(means) / jnp.exp(means).sum(axis=-1, keepdims=True)
    nll_BxL = -jnp.take_along_axis(logp_BxLxV, TARGETS[..., None], axis=-1)[..., 0]
    divergence_BxL = jnp.sum(q_BxLxV * (jnp.log(q_BxLxV) - logp_BxLxV), axis=-1)
    loss_BxL = (1 - share) * nll_BxL + share * divergence_BxL + z_loss * log_z_BxL**2
    return jnp.sum(WEIGHTS * loss_BxL), (jnp.sum(WEIGHTS * nll_BxL), jnp.sum(WEIGHTS * divergence_BxL))


def value_and_gradients(loss, share, z_loss=0.0, x=X, table=TABLE):
    """((loss, (cross-entropy, divergence)), (gradient of x, gradient of the table))."""
    function = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(function, static_argnums=(2, 3))(x, table, share, z_loss)


@pytest.mark.parametrize(
    ("chunk", "share", "z_loss"),
    [
        (3, 0.5, 0.01),
        pytest.param(1, 0.3, 0.0, marks=pytest.mark.full),
        pytest.param(L, 1.0, 0.0, marks=pytest.mark.full),
    ],
)
def test_every_chunk_size_gives_the_value_and_the_gradients_of_the_full_softmaxes(chunk, share, z_loss):
    ours = value_and_gradients(partial(chunked, chunk=chunk), share, z_loss)
    jax.tree.map(close, ours, value_and_gradients(plain, share, z_loss))


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    (loss, (nll, divergence)), gradients = value_and_gradients(partial(chunked, teachers=[(X, TABLE)]), 1.0)
    assert float(nll) > 1
    assert abs(float(loss)) < 1e-5
    assert abs(float(divergence)) < 1e-5
    assert all(np.abs(gradient).max() < 1e-5 for gradient in gradients)


def test_two_equal_teachers_are_one():
    jax.tree.map(
        close,
        value_and_gradients(partial(chunked, teachers=TEACHERS[:1] * 2), 0.5),
        value_and_gradients(partial(chunked, teachers=TEACHERS[:1]), 0.5),
    )


def test_at_weight_0_the_loss_and_its_gradients_are_the_cross_entropy():
    def alone(x, table, share, z_loss):
        return cross_entropy(x, table, TARGETS, WEIGHTS, VOCAB_SIZE, L, z_loss)

    (loss, (nll, divergence)), gradients = value_and_gradients(chunked, 0.0, 0.01)
    (loss_alone, nll_alone), gradients_alone = value_and_gradients(alone, 0.0, 0.01)
    assert (float(loss), float(nll)) == (float(loss_alone), float(nll_alone))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8), gradients, gradients_alone)
    assert float(divergence) > 1


def test_bfloat16_hidden_states_give_bfloat16_gradients_and_float32_losses():
    teachers = [(jnp.asarray(x, jnp.bfloat16), table) for x, table in TEACHERS]
    loss = partial(chunked, teachers=teachers)
    (loss, reported), (dx, dtable) = value_and_gradients(loss, 0.5, x=jnp.asarray(X, jnp.bfloat16))
    assert [each.dtype for each in (loss, *reported, dx, dtable)] == [jnp.float32] * 3 + [jnp.bfloat16, jnp.float32]
    assert float(loss) == pytest.approx(float(value_and_gradients(plain, 0.5)[0][0]), rel=0.01)  # it has 8 bits


def test_no_array_as_large_as_all_logits_is_ever_made():
    def scratch_bytes(chunk):
        compiled = jax.jit(jax.grad(lambda x, table: chunked(x, table, 0.5, chunk=chunk)[0], argnums=(0, 1)))
        memory = compiled.lower(X, TABLE).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert scratch_bytes(L) - scratch_bytes(1) > 0.5 * X[:, 1:, 0].size * PADDED * 4


# Steps


def step_of(teachers, share, config=CONFIG, mesh=None, **changes):
    distillation = make_distillation(teachers, share, END, [T]).loss
    return make_step(config, mesh, distillation=distillation, **changes)


@functools.cache
def taught_step():
    return step_of([DEEP, ROPE], 0.9)


def start(teachers, config=CONFIG, mesh=None):
    mesh = mesh or one_device()
    state = init_state(config, ADAMW, mesh, seed=0)
    params = tuple(random_params(teacher, seed) for seed, teacher in enumerate(teachers))
    return dataclasses.replace(state, teachers=jax.device_put(params, shardings(params, mesh)))


def run(step, state, batches):
    """The parameters after these batches, and each one's metrics."""
    metrics = []
    for batch in batches:
        state, got = step(state, batch)
        metrics.append(jax.device_get(got))
    return jax.device_get(state.params), metrics


def conversations(seed=0, config=CONFIG, batch_size=B):
    """Rows of two segments each, where answers alone count in the loss."""
    batch = batch_of(seed, vocab_size=config.vocab_size, batch_size=batch_size)
    marks = np.zeros((batch_size, T + 1), np.uint8)
    marks[:, [0, 9]] |= BEGIN
    marks[:, 4:7] |= ANSWER
    marks[::3, 12:15] |= ANSWER
    return batch | {"marks": marks}


@pytest.fixture
def as_a_user_compiles():
    """The tests' quick compiler fuses other operations in one of the programs than in the other, which changes the last bit."""
    quick = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1"
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", quick)


def check_five_steps_at_weight_0(**tolerance):
    batches = [batch_of(0)] * 5
    params, metrics = run(step_of([ROPE], 0.0), start([ROPE]), batches)
    divergences = [each.pop("distillation") for each in metrics]
    assert_same((params, metrics), run(make_step(), start([]), batches), **tolerance)
    assert min(divergences) > 0.01


@pytest.mark.full
def test_steps_at_weight_0_are_those_without_teachers():
    check_five_steps_at_weight_0(rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_steps_at_weight_0_are_those_without_teachers_bit_for_bit(as_a_user_compiles):
    check_five_steps_at_weight_0()


@pytest.mark.full
def test_teachers_read_what_the_student_reads_and_do_not_change():
    """Segments that do not see each other too; the step's metrics are those of all logits at once."""
    batch, state = conversations(), start([DEEP, ROPE])
    student, teachers = jax.device_get((state.params, state.teachers))
    after, metrics = taught_step()(state, batch)

    inputs, targets = batch["tokens"][:, :-1].astype(np.int32), batch["tokens"][:, 1:].astype(np.int32)
    segments = np.cumsum((batch["marks"][:, :-1] & BEGIN) != 0, axis=1)

    def logp(config, params):
        model = nnx.merge(model_graph(config, "xla"), params)
        return jax.nn.log_softmax(model.logits(model(inputs, segments_BxT=segments)[0]))

    own = logp(CONFIG, student)
    log_q = jax.nn.log_softmax((logp(DEEP, teachers[0]) + logp(ROPE, teachers[1])) / 2)
    learned = (np.arange(T) < batch["valid"][:, None]) & ((batch["marks"][:, 1:] & ANSWER) != 0)
    nll = -np.take_along_axis(np.asarray(own), targets[..., None], axis=-1)[..., 0]
    divergence = np.asarray(jnp.sum(jnp.exp(log_q) * (log_q - own), axis=-1))
    assert float(metrics["loss"]) == pytest.approx(nll[learned].mean(), rel=1e-5)
    assert float(metrics["distillation"]) == pytest.approx(divergence[learned].mean(), rel=1e-4)
    assert_same(after.teachers, teachers)


@pytest.mark.full
def test_a_batch_done_in_parts_is_the_whole_batch():
    batches = [conversations(0)] * 4
    whole = run(taught_step(), start([DEEP, ROPE]), batches)
    parts = run(step_of([DEEP, ROPE], 0.9, micro_batch=MicroBatch(2)), start([DEEP, ROPE]), batches)
    assert_same(whole, parts, atol=1e-5, rtol=1e-5)
    assert whole[1][-1]["distillation"] < whole[1][0]["distillation"]


@pytest.mark.full
def test_a_mixture_of_experts_can_learn_from_teachers():
    experts = config_with(num_experts=4, mlp="swiglu")
    _, metrics = run(step_of([DEEP], 0.5, experts), start([DEEP], experts), [batch_of(0)] * 4)
    assert metrics[-1]["distillation"] < metrics[0]["distillation"]
    assert metrics[-1]["router/load_balance"] >= 0.9


def check_eight_devices_give_what_one_gives():
    for data, fsdp in ((8, 1), (2, 4)):
        ours = value_and_gradients(partial(chunked, chunk=3, mesh=make_mesh(data, fsdp)), 0.5, 0.01)
        jax.tree.map(close, ours, value_and_gradients(partial(chunked, chunk=3), 0.5, 0.01))
    wide = dataclasses.replace(BIG, d_model=256, num_layers=1)  # its matrices are split too
    batches = [conversations(seed, BIG, batch_size=16) for seed in range(2)]
    one = run(step_of([wide, BIG], 0.5, BIG), start([wide, BIG], BIG), batches)
    for data, fsdp in ((8, 1), (2, 4)):
        mesh = make_mesh(data, fsdp)
        state = start([wide, BIG], BIG, mesh)
        split = {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.teachers)}
        assert split == ({True} if fsdp == 1 else {True, False})
        step = step_of([wide, BIG], 0.5, BIG, mesh, micro_batch=MicroBatch(1))  # of 2 sequences on a device
        many = run(step, state, [put_batch(batch, mesh) for batch in batches])
        assert_same(one, many, atol=1e-5, rtol=1e-5)


@pytest.mark.full
def test_eight_devices_give_what_one_gives():
    run_on_eight_devices(check_eight_devices_give_what_one_gives)
