"""Objectives over log-probabilities: their values, and that the step's gradient is that of the formula with all logits."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

from tests.support.eight_devices import run_on_eight_devices
from tests.support.tiny_model import CONFIG, random_params
from tests.support.train_step import assert_same, make_step, one_device
from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.mesh import BATCH_AXES, make_mesh, put_batch, shardings
from tonsai_jax.training.objectives import GroupRelative, Preference
from tonsai_jax.training.state import TrainState, model_graph
from tonsai_jax.training.step import LossSettings, make_score_step

B, T, S = 8, 16, 4
DESCENT = optax.identity()  # the update is the gradient itself
# Where the conversations of a row begin, and which of its tokens are answers.
SEGMENTS = ((0, 5), (5, 9), (9, 12), (12, 15), (15, 17))
ANSWERS = ((3, 5), (7, 9), (10, 12), (13, 15))
DPO, IPO, GRPO = Preference("dpo", 0.1), Preference("ipo", 0.1), GroupRelative(clip=0.2, beta=0.04)


def pairs(seed=0):
    """Rows of two pairs; the last rows have one pair and none."""
    rng = np.random.default_rng(seed)
    marks = np.zeros((B, T + 1), np.uint8)
    for row, count in enumerate([4] * (B - 2) + [2, 0]):
        for begin, _ in SEGMENTS[: count + 1]:
            marks[row, begin] |= BEGIN
        for begin, end in ANSWERS[:count]:
            marks[row, begin:end] |= ANSWER
    return {
        "tokens": rng.integers(0, CONFIG.vocab_size, (B, T + 1)).astype(np.uint16),
        "valid": np.full(B, T, np.int32),
        "stop": np.zeros(B, np.int32),
        "marks": marks,
        "reference": rng.normal(-12, 2, (B, S)).astype(np.float32),
    }


def answers_of_groups(seed=0):
    """One answer in each row, of a length of its own; the last row is empty."""
    rng = np.random.default_rng(seed)
    batch = pairs(seed)
    marks = np.zeros((B, T + 1), np.uint8)
    marks[:, 0] = BEGIN
    for row in range(B - 1):
        marks[row, 4 : 6 + row] |= ANSWER
    guess = -math.log(CONFIG.vocab_size)
    return batch | {
        "marks": marks,
        "advantages": rng.standard_normal(B).astype(np.float32),
        "old": (guess + 0.5 * rng.standard_normal((B, T))).astype(np.float32),
        "reference": (guess + 0.5 * rng.standard_normal((B, T))).astype(np.float32),
    }


BATCHES = {DPO: pairs, IPO: pairs, GRPO: answers_of_groups}


def plain_preference(objective, logp_BxT, batch):
    """The formulas pair by pair; target i is token i + 1."""
    losses, margins, chosen = [], [], []
    for row in range(B):
        for first in range(0, len(ANSWERS), 2):
            ratios = []
            for place in (first, first + 1):
                begin, end = ANSWERS[place]
                logp = sum(logp_BxT[row, token - 1] for token in range(begin, end))
                ratios.append(logp - batch["reference"][row, place])
            if not batch["marks"][row, ANSWERS[first][0]] & ANSWER:
                continue
            margin = ratios[0] - ratios[1]
            losses.append(
                -jnp.log(1 / (1 + jnp.exp(-objective.beta * margin)))
                if objective.kind == "dpo"
                else (margin - 1 / (2 * objective.beta)) ** 2
            )
            margins.append(margin)
            chosen.append(ratios[0])
    beta, count = objective.beta, len(losses)
    return sum(losses) / count, {
        "margin": beta * sum(margins) / count,
        "accuracy": sum(margin > 0 for margin in margins) / count,
        "reward_chosen": beta * sum(chosen) / count,
        "reward_rejected": beta * (sum(chosen) - sum(margins)) / count,
    }


def plain_grpo(objective, logp_BxT, batch):
    """The formula token by token."""
    by_answer: list[list[jax.Array]] = []
    for row in range(B):
        targets = [token - 1 for token in range(T + 1) if batch["marks"][row, token] & ANSWER]
        if not targets:
            continue
        advantage, of_tokens = batch["advantages"][row], []
        for target in targets:
            ratio = jnp.exp(logp_BxT[row, target] - batch["old"][row, target])
            near = jnp.minimum(jnp.maximum(ratio, 1 - objective.clip), 1 + objective.clip)
            to_reference = jnp.exp(batch["reference"][row, target] - logp_BxT[row, target])
            kl = to_reference - jnp.log(to_reference) - 1
            gain = jnp.where(near * advantage < ratio * advantage, near * advantage, ratio * advantage)
            of_tokens.append((objective.beta * kl - gain, kl, near * advantage < ratio * advantage))
        by_answer.append([sum(values) / len(values) for values in zip(*of_tokens, strict=True)])
    loss, kl, clipped = (sum(values) / len(values) for values in zip(*by_answer, strict=True))
    return loss, {"kl": kl, "clipped": clipped}


def plain(objective, params, batch):
    """The objective of a model from all logits at once; (loss, metrics)."""
    inputs, targets = batch["tokens"][:, :-1].astype(np.int32), batch["tokens"][:, 1:].astype(np.int32)
    model = nnx.merge(model_graph(CONFIG, "xla"), params)
    segments = np.cumsum((batch["marks"][:, :-1] & BEGIN) != 0, axis=1)
    x_BxTxD, _ = model(inputs, segments_BxT=segments)
    logp_BxTxV = jax.nn.log_softmax(model.logits(x_BxTxD))
    logp_BxT = jnp.take_along_axis(logp_BxTxV, targets[..., None], axis=-1)[..., 0]
    of_kind = plain_grpo if isinstance(objective, GroupRelative) else plain_preference
    return of_kind(objective, logp_BxT, batch)


@functools.cache
def plain_gradients(objective):
    params, batch = random_params(CONFIG), BATCHES[objective]()
    (loss, metrics), gradients = jax.jit(
        jax.value_and_grad(lambda params: plain(objective, params, batch), has_aux=True)
    )(params)
    return jax.device_get((gradients, metrics | {"loss": loss}))


def step_gradients(objective, mesh=None, **settings):
    """What the training step subtracts from the parameters, and its metrics."""
    mesh = mesh or one_device()
    step = make_step(
        mesh=mesh, optimizer=DESCENT, schedule=lambda step: jnp.float32(1), clip_norm=0, objective=objective, **settings
    )
    params = random_params(CONFIG)
    state = TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), DESCENT.init(params))
    state = jax.device_put(state, shardings(state, mesh))
    state, metrics = step(state, put_batch(BATCHES[objective](), mesh))
    return jax.device_get((jax.tree.map(jnp.subtract, params, state.params), metrics))


def assert_plain(objective, ours):
    gradients, metrics = plain_gradients(objective)
    assert_same(ours[0], gradients, rtol=2e-4, atol=2e-6)
    assert_same({name: ours[1][name] for name in metrics}, metrics, rtol=1e-4)


@pytest.mark.parametrize("objective", [DPO, GRPO, pytest.param(IPO, marks=pytest.mark.full)], ids=str)
def test_the_step_has_the_value_and_the_gradient_of_the_formula_with_all_logits(objective):
    assert_plain(objective, step_gradients(objective))


@pytest.mark.parametrize("objective", [DPO, pytest.param(GRPO, marks=pytest.mark.full)], ids=str)
def test_a_batch_done_in_parts_is_a_mean_over_all_its_units(objective):
    assert_plain(objective, step_gradients(objective, micro_batch=MicroBatch(2)))


def test_the_z_loss_of_the_config_is_no_part_of_an_objective():
    """`make_step` sets one; the gradients above would show it, were it large enough to be seen."""
    with_z = step_gradients(DPO, z_loss=1.0)
    assert_plain(DPO, with_z)


def check_eight_devices():
    for objective in (DPO, GRPO):
        for data, fsdp in ((8, 1), (2, 4)):
            assert_plain(objective, step_gradients(objective, make_mesh(data, fsdp)))
        two_devices = Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1), BATCH_AXES)
        assert_plain(objective, step_gradients(objective, two_devices, micro_batch=MicroBatch(2)))


@pytest.mark.full
def test_eight_devices_give_what_the_formula_gives():
    run_on_eight_devices(check_eight_devices)


def test_scores_are_the_log_probabilities_of_the_targets():
    params, batch = random_params(CONFIG), pairs()
    score = make_score_step(
        model_graph(CONFIG, "xla"), one_device(), loss=LossSettings(chunk_tokens=32, z_loss=0.0), end_of_text_id=0
    )
    model = nnx.merge(model_graph(CONFIG, "xla"), params)
    segments = np.cumsum((batch["marks"][:, :-1] & BEGIN) != 0, axis=1)
    x_BxTxD, _ = model(batch["tokens"][:, :-1].astype(np.int32), segments_BxT=segments)
    logp_BxTxV = np.asarray(jax.nn.log_softmax(model.logits(x_BxTxD)))
    rows, places = np.indices((B, T))
    np.testing.assert_allclose(score(params, batch), logp_BxTxV[rows, places, batch["tokens"][:, 1:]], rtol=1e-5)


# Values that a person can check


def row_of(marks, **arrays):
    """A batch of one row; its tokens do not matter."""
    row = {"tokens": [0] * len(marks), "valid": len(marks) - 1, "marks": np.array(marks, np.uint8)} | arrays
    return {name: jnp.asarray([value]) for name, value in row.items()}


def one_pair(chosen, rejected):
    """A batch of one pair, and log-probabilities under which the answers have these ratios to the reference."""
    batch = row_of([2, 0, 1, 2, 1, 2], reference=[-5.0, -7.0, 0.0, 0.0])
    return jnp.array([[0, chosen - 5.0, 0, rejected - 7.0, 0]]), batch


def test_a_model_that_is_the_reference_has_no_margin():
    logp, batch = one_pair(0.0, 0.0)
    for objective, loss in ((DPO, math.log(2)), (IPO, 25.0)):  # 25 = (1 / (2 * 0.1))^2
        value, metrics = objective.sums(logp, batch)
        assert value == pytest.approx(loss, rel=1e-6)
        assert (metrics["margin"], metrics["accuracy"]) == (0, 0.5)


def test_rewards_are_beta_times_the_log_ratios():
    _, metrics = DPO.sums(*one_pair(3.0, -2.0))
    assert [float(metrics[name]) for name in ("reward_chosen", "reward_rejected", "margin", "accuracy")] == (
        pytest.approx([0.3, -0.2, 0.5, 1.0], rel=1e-6)
    )


def test_ipo_is_at_its_best_at_a_margin_that_dpo_still_widens():
    logp, batch = one_pair(3.0, -2.0)  # a margin of 1 / (2 * 0.1)
    dpo, ipo = (jax.grad(lambda logp: objective.sums(logp, batch)[0])(logp) for objective in (DPO, IPO))  # noqa: B023
    assert not ipo.any()
    assert dpo[0, 1] < 0 < dpo[0, 3]


def one_answer(ratio, advantage):
    """A batch of one answer of one token, which the model makes `ratio` times as likely as the model that wrote it did."""
    before = [-90.0, -2.0, -190.0]
    batch = row_of([2, 0, 1, 0], advantages=advantage, old=before, reference=before)
    return jnp.array([[-3.0, math.log(ratio) - 2.0, -4.0]]), batch


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.0, 1.0, True), (1.5, 1.0, False), (0.5, 1.0, True), (1.5, -1.0, True), (0.5, -1.0, False)],
)
def test_an_answer_moves_no_further_than_the_clip_in_its_direction(ratio, advantage, moves):
    logp, batch = one_answer(ratio, advantage)
    slope = jax.grad(lambda logp: dataclasses.replace(GRPO, beta=0.0).sums(logp, batch)[0])(logp)
    assert bool(slope[0, 1]) == moves
    assert not slope[0, [0, 2]].any()  # the other targets, though their ratios are infinite
    assert np.isfinite(slope).all()
    if moves:
        assert np.sign(slope[0, 1]) == -advantage


def test_the_divergence_is_zero_at_the_reference_and_pulls_back_to_it():
    def kl(ratio):
        return float(GRPO.sums(*one_answer(ratio, 0.0))[1]["kl"])

    assert kl(1.0) == 0
    assert kl(2.0) == pytest.approx(0.5 + math.log(2) - 1, rel=1e-5)
    assert kl(0.5) == pytest.approx(2 - math.log(2) - 1, rel=1e-5)
