"""Answer-only loss: tokens that are no answer teach nothing, and packed conversations do not see each other."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.tiny_model import CONFIG, random_params
from tests.support.train_step import ADAMW, END, T, assert_same, make_step, one_device
from tonsai_jax.data.marks import ANSWER, BEGIN
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.loss import cross_entropy
from tonsai_jax.training.state import TrainState, model_graph
from tonsai_jax.training.step import LossSettings, make_eval_step

B = 4


def conversations(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of two conversations and padding; the second half of each conversation is the answer."""
    rng = np.random.default_rng(seed)
    marks = np.zeros((B, T + 1), np.uint8)
    for row in range(B):
        middle = int(rng.integers(4, T - 6))
        for start, end in ((0, middle), (middle, T - 2)):
            marks[row, start] |= BEGIN
            marks[row, (start + end) // 2 : end] |= ANSWER
        marks[row, T - 2] = BEGIN
    tokens = rng.integers(1, CONFIG.vocab_size, (B, T + 1)).astype(np.uint16)
    return {"tokens": tokens, "valid": np.full(B, T, np.int32), "marks": marks, "stop": np.zeros(B, np.int32)}


def state() -> TrainState:
    params = random_params(CONFIG)
    return TrainState(jnp.int32(0), params, ADAMW.init(params))


def test_the_loss_is_the_mean_over_answers() -> None:
    batch = conversations()
    _, metrics = make_step()(state(), batch)
    assert metrics["tokens"] == np.count_nonzero(batch["marks"][:, 1:] & ANSWER)
    # What follows the last answer of a row is neither seen by an answer nor a target.
    changed = batch["tokens"].copy()
    changed[:, T - 2 :] = 7
    _, other = make_step()(state(), batch | {"tokens": changed})
    assert other["loss"] == metrics["loss"]


def test_masked_targets_have_a_gradient_of_exactly_0() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 8, 16)), jnp.float32)
    table = jnp.asarray(rng.standard_normal((32, 16)), jnp.float32)
    targets = rng.integers(0, 30, (2, 8))
    weights = (rng.random((2, 8)) < 0.4).astype(np.float32)

    def loss(x: jax.Array, targets: np.ndarray) -> jax.Array:
        return cross_entropy(x, table, jnp.asarray(targets), jnp.asarray(weights), 30, chunk=4)[0]

    gradient = jax.grad(loss)(x, targets)
    assert np.all(gradient[weights == 0] == 0)
    assert np.all(np.any(gradient[weights == 1] != 0, axis=-1))
    other_targets = np.where(weights == 1, targets, (targets + 1) % 30)
    assert loss(x, other_targets) == loss(x, targets)
    assert_same(jax.grad(loss)(x, other_targets), gradient)


def test_a_batch_without_an_answer_changes_no_parameter_by_its_gradient() -> None:
    batch = conversations()
    _, metrics = make_step()(state(), batch | {"marks": batch["marks"] & BEGIN})
    assert metrics["tokens"] == 0
    assert metrics["loss"] == 0
    assert metrics["grad_norm"] == 0


def test_a_conversation_does_not_depend_on_its_neighbor() -> None:
    batch = conversations()
    first_ends = [int(np.flatnonzero(row & BEGIN)[1]) for row in batch["marks"]]
    only_first = batch["marks"].copy()
    changed = batch["tokens"].copy()
    for row, end in enumerate(first_ends):
        only_first[row, end:] &= BEGIN  # the second conversation is there, but not learned
        changed[row, end:] = 5
    step = make_step()
    assert_same(
        step(state(), batch | {"marks": only_first})[0].params,
        step(state(), batch | {"marks": only_first, "tokens": changed})[0].params,
    )


def test_micro_batches_give_the_same_step_whatever_their_share_of_answers() -> None:
    batch = conversations()
    batch["marks"][0] &= BEGIN  # no answer in the first micro-batch
    whole, metrics = make_step()(state(), batch)
    parts, other = make_step(micro_batch=MicroBatch(1, T))(state(), batch)
    assert_same(whole.params, parts.params, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], other["loss"], rtol=1e-6)


def test_the_evaluation_scores_answers_alone() -> None:
    batch = {name: jnp.asarray(array) for name, array in conversations().items() if name != "stop"}
    token_bytes = jnp.arange(CONFIG.vocab_size)
    evaluate = make_eval_step(
        model_graph(CONFIG, "xla"),
        one_device(),
        loss=LossSettings(32, 0.0),
        end_of_text_id=END,
        token_bytes=token_bytes,
    )
    sums = evaluate(random_params(CONFIG), batch)
    is_answer = (batch["marks"][:, 1:] & ANSWER) != 0
    assert sums["tokens"] == is_answer.sum()
    assert sums["bytes"] == batch["tokens"][:, 1:][is_answer].sum()
