"""The chunked loss is the plain one: the same value and gradients, without the matrix of all logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.eight_devices import run_on_eight_devices
from tonsai_jax.errors import UserError
from tonsai_jax.training.loss import (
    _max_and_sum,
    _max_and_sum_in_one_pass,
    chunk_length,
    cross_entropy,
    target_log_probabilities,
)
from tonsai_jax.training.mesh import make_mesh

B, T, D = 8, 12, 16
VOCAB_SIZE, PADDED = 50, 64
RNG = np.random.default_rng(0)
X = RNG.standard_normal((B, T, D)).astype(np.float32)
TABLE = RNG.standard_normal((PADDED, D)).astype(np.float32)
TARGETS = jnp.asarray(RNG.integers(0, VOCAB_SIZE, (B, T), dtype=np.int32))
WEIGHTS = jnp.asarray(RNG.uniform(0, 0.1, (B, T)).astype(np.float32) * (RNG.uniform(size=(B, T)) > 0.3))
# float32 sums of about a hundred terms, in another order
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def plain(x_BxTxD, table_VxD, z_loss):
    """The loss as it is written in books, from all logits at once."""
    logits_BxTxV = jnp.einsum("btd,vd->btv", x_BxTxD, table_VxD[:VOCAB_SIZE], precision="highest")
    log_z_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    nll_BxT = log_z_BxT - jnp.take_along_axis(logits_BxTxV, TARGETS[..., None], axis=-1)[..., 0]
    return jnp.sum(WEIGHTS * (nll_BxT + z_loss * log_z_BxT**2)), jnp.sum(WEIGHTS * nll_BxT)


def chunked(x_BxTxD, table_VxD, z_loss, *, chunk=T, mesh=None):
    return cross_entropy(x_BxTxD, table_VxD, TARGETS, WEIGHTS, VOCAB_SIZE, chunk, z_loss, mesh)


def value_and_gradients(loss, x=X, table=TABLE, z_loss=0.0):
    """((loss, cross-entropy), (gradient of x, gradient of the table))."""
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)(x, table, z_loss)


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("chunk", [1, 3, T])
def test_every_chunk_size_gives_the_value_and_the_gradients_of_the_full_softmax(chunk, z_loss):
    ours = value_and_gradients(partial(chunked, chunk=chunk), z_loss=z_loss)
    jax.tree.map(close, ours, value_and_gradients(plain, z_loss=z_loss))


def test_the_gradient_follows_the_scale_of_what_the_loss_is_used_in():
    def tenfold(x, table, z_loss):
        loss, nll = chunked(x, table, z_loss)
        return 10 * loss, nll

    _, gradients = value_and_gradients(chunked)
    _, ten_gradients = value_and_gradients(tenfold)
    jax.tree.map(lambda one, ten: close(10 * one, ten), gradients, ten_gradients)


def test_the_loss_without_gradients_is_the_same():
    close(jax.jit(chunked, static_argnums=2)(X, TABLE, 0.01), value_and_gradients(chunked, z_loss=0.01)[0])


def test_z_loss_is_in_the_loss_and_not_in_the_cross_entropy():
    (loss, nll), _ = value_and_gradients(chunked)
    (z_loss, z_nll), _ = value_and_gradients(chunked, z_loss=0.01)
    assert float(loss) == float(nll) == float(z_nll) < float(z_loss)


def test_a_target_of_weight_zero_counts_for_nothing():
    _, (dx_BxTxD, _) = value_and_gradients(chunked)
    left_out = WEIGHTS == 0
    assert left_out.any()
    assert not np.asarray(dx_BxTxD)[left_out].any()
    loud = np.where(left_out[..., None], 1e3, X)
    jax.tree.map(close, value_and_gradients(chunked)[0], value_and_gradients(chunked, x=loud)[0])


def test_padding_of_the_vocabulary_gets_no_probability_and_no_gradient():
    loud = TABLE.copy()
    loud[VOCAB_SIZE:] = 1e4
    quiet_sums, (quiet_dx, _) = value_and_gradients(chunked, z_loss=0.01)
    sums, (dx, dtable) = value_and_gradients(chunked, table=loud, z_loss=0.01)
    jax.tree.map(np.testing.assert_array_equal, (sums, dx), (quiet_sums, quiet_dx))
    assert not np.asarray(dtable)[VOCAB_SIZE:].any()
    assert np.asarray(dtable)[:VOCAB_SIZE].any(axis=1).all()


def test_bfloat16_hidden_states_give_bfloat16_gradients_and_a_float32_loss():
    (loss, nll), (dx, dtable) = value_and_gradients(chunked, x=jnp.asarray(X, jnp.bfloat16))
    assert (loss.dtype, nll.dtype, dx.dtype, dtable.dtype) == (jnp.float32, jnp.float32, jnp.bfloat16, jnp.float32)
    (plain_loss, _), _ = value_and_gradients(plain)
    assert float(loss) == pytest.approx(float(plain_loss), rel=0.01)  # bfloat16 has 8 bits


@pytest.mark.parametrize("largest_logit", [1, 10, 30])
def test_logits_in_bfloat16_change_the_gradients_by_no_more_than_their_rounding(largest_logit):
    x = jnp.asarray(X * largest_logit / np.abs(X @ TABLE.T).max(), jnp.bfloat16)
    table = jnp.asarray(TABLE, jnp.bfloat16).astype(jnp.float32)
    (_, nll), gradients = value_and_gradients(chunked, x=x, table=table)
    (_, exact_nll), exact_gradients = value_and_gradients(plain, x=x.astype(jnp.float32), table=table)
    assert abs(float(nll - exact_nll)) < 2e-3 * float(exact_nll)
    for gradient, exact in zip(gradients, exact_gradients, strict=True):
        error = np.linalg.norm(np.asarray(gradient, np.float32) - exact) / np.linalg.norm(exact)
        assert error < 2**-8 * max(1, largest_logit / 4)


@pytest.mark.parametrize(
    "row", [[0.0, 1.0, -2.0], [-np.inf, 3.0, -np.inf], [1e4, -1e4, 0.0], [-3e38, -3e38, -3e38], [88.0] * 3]
)
def test_maximum_and_sum_in_one_pass_are_those_of_two(row):
    rows = jnp.asarray([row, row[::-1], [row[1], row[2], row[0]]], jnp.float32)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), _max_and_sum_in_one_pass(rows), _max_and_sum(rows))


def test_maximum_and_sum_in_one_pass_of_a_long_row():
    rows = jnp.asarray(RNG.standard_normal((4, 5000)) * 10, jnp.float32)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), _max_and_sum_in_one_pass(rows), _max_and_sum(rows))


def test_no_array_as_large_as_all_logits_is_ever_made():
    def scratch_bytes(chunk):
        compiled = jax.jit(jax.grad(lambda x, table: chunked(x, table, 0.0, chunk=chunk)[0], argnums=(0, 1)))
        memory = compiled.lower(X, TABLE).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert scratch_bytes(T) - scratch_bytes(1) > 0.5 * X[:, 1:, 0].size * PADDED * 4


@pytest.mark.parametrize("chunk", [1, 3, T])
def test_log_probabilities_of_targets_are_those_of_the_full_softmax_and_have_no_gradient(chunk):
    loud = TABLE.copy()
    loud[VOCAB_SIZE:] = 1e4  # padding gets no probability here either

    def total(x_BxTxD):
        logp_BxT = target_log_probabilities(x_BxTxD, jnp.asarray(loud), TARGETS, VOCAB_SIZE, chunk)
        return jnp.sum(logp_BxT), logp_BxT

    gradient, logp_BxT = jax.jit(jax.grad(total, has_aux=True))(X)
    softmax_BxTxV = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", X, TABLE[:VOCAB_SIZE], precision="highest"))
    close(logp_BxT, jnp.take_along_axis(softmax_BxTxV, TARGETS[..., None], axis=-1)[..., 0])
    assert not gradient.any()


@pytest.mark.parametrize(
    ("batch_size", "seq_len", "chunk_tokens", "expected"),
    [
        (4, 1024, 4096, 1024),
        (4, 1024, 4095, 512),  # a divisor of the sequence, so that all chunks are alike
        (4, 1000, 1200, 250),
        (4, 1021, 2000, 1),  # a prime
        (1, 128, 4096, 128),
        (64, 128, 16, 1),  # never less than one position
    ],
)
def test_a_chunk_is_the_longest_part_of_the_sequence_that_fits(batch_size, seq_len, chunk_tokens, expected):
    assert chunk_length(batch_size, seq_len, chunk_tokens) == expected


def test_chunks_of_no_tokens_are_refused():
    with pytest.raises(UserError, match=r"loss\.chunk_tokens=0 must be at least 1"):
        chunk_length(4, 1024, 0)


def check_eight_devices_give_what_one_gives():
    for data, fsdp in ((8, 1), (2, 4)):
        ours = value_and_gradients(partial(chunked, chunk=3, mesh=make_mesh(data, fsdp)), z_loss=0.01)
        jax.tree.map(close, ours, value_and_gradients(partial(chunked, chunk=3), z_loss=0.01))


@pytest.mark.full
def test_eight_devices_give_what_one_gives():
    run_on_eight_devices(check_eight_devices_give_what_one_gives)
