"""The decoder: GPT-2 as `transformers` defines it, the same however it is run, blind to other documents when told so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.tiny_model import CONFIG, config_with, random_params
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.names import flat, tensors
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig, choices_of
from tonsai_jax.model.transformer import KVCache
from tonsai_jax.training.loss import cross_entropy
from tonsai_jax.training.state import model_graph

END = 0
TOKENS = np.random.default_rng(0).integers(1, CONFIG.vocab_size, (2, 24), dtype=np.int32)


def build(config, params):
    return nnx.merge(model_graph(config, "xla"), params)


@functools.partial(jax.jit, static_argnames=("config", "end_of_text_id"))
def hidden(config, params, tokens, end_of_text_id=None, dropout_key=None):
    return build(config, params)(tokens, end_of_text_id=end_of_text_id, dropout_key=dropout_key)[0]


@functools.partial(jax.jit, static_argnames="config")
def logits(config, params, tokens):
    model = build(config, params)
    return model.logits(model(tokens)[0])


@functools.partial(jax.jit, static_argnames="config")
def loss_and_gradients(config, params, tokens):
    def loss(params):
        x_BxTxD, _ = build(config, params)(tokens[:, :-1], end_of_text_id=END)
        weights = jnp.ones(x_BxTxD.shape[:2]) / x_BxTxD[..., 0].size
        table = params["token_embedding"]
        return cross_entropy(x_BxTxD, table, tokens[:, 1:], weights, config.vocab_size, tokens.shape[1] - 1)[0]

    return jax.value_and_grad(loss)(params)


@functools.cache
def kept_whole(scan_layers):
    """Loss and gradients where nothing is recomputed."""
    return loss_and_gradients(config_with(scan_layers=scan_layers), random_params(CONFIG), TOKENS)


def test_scanned_and_unrolled_layers_give_the_same_loss_and_gradients():
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), kept_whole(True), kept_whole(False)
    )


@pytest.mark.parametrize(
    ("remat", "scan_layers"), [*((policy, True) for policy in choices_of("remat") if policy != "none"), ("full", False)]
)
def test_what_is_recomputed_changes_neither_loss_nor_gradients(remat, scan_layers):
    params = random_params(CONFIG)
    kept = kept_whole(scan_layers)
    recomputed = loss_and_gradients(config_with(scan_layers=scan_layers, remat=remat), params, TOKENS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), kept, recomputed)


def test_a_token_never_sees_the_future():
    params = random_params(CONFIG)
    changed = TOKENS.copy()
    changed[:, 12:] = 1 + changed[:, 12:] % (CONFIG.vocab_size - 1)
    before, after = hidden(CONFIG, params, TOKENS), hidden(CONFIG, params, changed)
    np.testing.assert_array_equal(before[:, :12], after[:, :12])
    assert not np.allclose(before[:, 12:], after[:, 12:])


@pytest.mark.parametrize("scan_layers", [True, False])
def test_with_the_document_mask_no_token_sees_another_document(scan_layers):
    config = config_with(document_mask=True, scan_layers=scan_layers)
    params = random_params(config)
    tokens = TOKENS.copy()
    tokens[:, [7, 15]] = END  # three documents: 0-7, 8-15, 16-23
    other = tokens.copy()
    other[:, :7] = 1 + other[:, :7] % (CONFIG.vocab_size - 1)

    def run(config, tokens):
        return np.asarray(hidden(config, params, tokens, end_of_text_id=END))

    np.testing.assert_array_equal(run(config, tokens)[:, 8:], run(config, other)[:, 8:])
    unmasked = config_with(scan_layers=scan_layers)
    assert not np.allclose(run(unmasked, tokens)[:, 8:], run(unmasked, other)[:, 8:])
    # Within its document a token still sees all that came before.
    earlier = tokens.copy()
    earlier[:, 8] = 1 + earlier[:, 8] % (CONFIG.vocab_size - 1)
    changed = np.abs(run(config, tokens) - run(config, earlier)).max(axis=(0, 2)) > 0
    assert changed[8:15].all()
    assert not changed[16:].any()


ALL_SLIDING = {"sliding_window": 4, "global_every": 3}  # of two layers


@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_sliding_layer_sees_its_window_and_no_further(scan_layers):
    """Through two layers with a window of 4, information moves at most 2 * 3 positions."""
    config = config_with(**ALL_SLIDING, scan_layers=scan_layers)
    params = random_params(config)
    other = TOKENS.copy()
    other[:, 5] = 1 + other[:, 5] % (CONFIG.vocab_size - 1)

    def changed(config):
        before, after = (hidden(config, params, tokens) for tokens in (TOKENS, other))
        return (np.abs(before - after).max(axis=2) > 0).tolist()

    assert changed(config) == [[5 <= position <= 11 for position in range(24)]] * 2
    second_is_global = config_with(**ALL_SLIDING | {"global_every": 2}, scan_layers=scan_layers)
    assert changed(second_is_global) == [[position >= 5 for position in range(24)]] * 2


def test_a_window_stays_within_the_document():
    """With RoPE only distances matter: a document in a row is computed as if it were alone."""
    config = config_with(position="rope", bias=False, document_mask=True, sliding_window=4, global_every=2)
    params = random_params(config)
    tokens = TOKENS.copy()
    tokens[:, 9] = END
    row = hidden(config, params, tokens, end_of_text_id=END)
    alone = hidden(config, params, tokens[:, 9:], end_of_text_id=END)
    np.testing.assert_allclose(row[:, 9:], alone, atol=1e-5)
    unmasked = hidden(config, params, tokens)
    assert not np.allclose(unmasked[:, 9:], alone, atol=1e-2)


def test_a_window_that_no_token_leaves_costs_nothing():
    def flops(window):
        config = config_with(sliding_window=window)
        cost = hidden.lower(config, random_params(config), TOKENS).cost_analysis()
        assert cost is not None
        return cost["flops"]

    assert flops(0) == flops(24) < flops(23)


def test_padding_rows_of_the_vocabulary_never_win():
    config = CONFIG
    assert config.padded_vocab_size == 384
    params = random_params(config)
    table = params["token_embedding"]
    loud = params | {"token_embedding": table.at[config.vocab_size :].set(1e4)}
    ours = logits(config, loud, TOKENS)
    assert ours.shape[-1] == config.vocab_size
    np.testing.assert_array_equal(ours, logits(config, params, TOKENS))
    (quiet_loss, _), (loud_loss, gradients) = (loss_and_gradients(config, p, TOKENS) for p in (params, loud))
    assert float(loud_loss) == float(quiet_loss)
    assert not gradients["token_embedding"][config.vocab_size :].any()


def test_dropout_needs_a_key_and_follows_it():
    config = config_with(dropout=0.5, attention_dropout=0.5)
    params = random_params(config)
    plain = hidden(CONFIG, params, TOKENS)
    one, same, other = (hidden(config, params, TOKENS, dropout_key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(hidden(config, params, TOKENS), plain)
    np.testing.assert_array_equal(hidden(CONFIG, params, TOKENS, dropout_key=jax.random.key(1)), plain)
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert not np.allclose(one, plain)


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"attention_dropout": 0.5}])
def test_each_rate_of_dropout_acts_on_its_own(rates):
    config = config_with(**rates)
    params = random_params(config)
    dropped = hidden(config, params, TOKENS, dropout_key=jax.random.key(0))
    assert not np.allclose(dropped, hidden(config, params, TOKENS))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_cache_filled_in_parts_gives_what_one_pass_gives(scan_layers):
    config = config_with(scan_layers=scan_layers)
    params = random_params(config)
    whole = np.asarray(hidden(config, params, TOKENS))
    lengths = np.array([5, 9])  # the prompts' true lengths; the rest of the first 12 columns is padding
    prompts = np.where(np.arange(12) < lengths[:, None], TOKENS[:, :12], 7)

    @jax.jit
    def decode(params, tokens, cache):
        return build(config, params).decode(tokens, cache)

    x, cache = decode(params, prompts, KVCache.empty(config, batch_size=2, max_length=32))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(x[row, :length], whole[row, :length], atol=1e-5)
    cache = KVCache(cache.kv_BxKxSxDh, jnp.asarray(lengths, jnp.int32))
    for step in range(12):
        at = lengths + step
        x, cache = decode(params, TOKENS[np.arange(2), at][:, None], cache)
        np.testing.assert_allclose(x[:, 0], whole[np.arange(2), at], atol=1e-5)
    np.testing.assert_array_equal(cache.length_B, lengths + 12)


def test_bfloat16_compute_stays_near_float32_and_keeps_float32_logits():
    params = random_params(CONFIG)
    half = logits(config_with(dtype="bfloat16"), params, TOKENS)
    assert half.dtype == np.float32
    full = logits(CONFIG, params, TOKENS)
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_the_count_of_parameters_is_that_of_the_exported_tensors():
    params = flat(random_params(CONFIG))
    assert CONFIG.num_parameters == sum(tensor.of(params[tensor.path]).size for tensor in tensors(CONFIG))


def test_the_kernel_is_chosen_once_and_a_wish_that_cannot_be_met_is_refused():
    assert choose_attention_backend(config_with(attention="auto"), "cpu")[0] == "xla"
    assert choose_attention_backend(config_with(attention="auto", dtype="bfloat16"), "gpu")[0] == "cudnn"
    assert (
        choose_attention_backend(config_with(attention="auto", dtype="bfloat16", document_mask=True), "gpu")[0]
        == "cudnn"
    )
    half = config_with(attention="auto", dtype="bfloat16")
    assert choose_attention_backend(half, "gpu", [512, 511]) == (
        "xla",
        "not cudnn: it needs sequences of an even length, not 511",
    )
    for change in ({}, {"dtype": "bfloat16", "attention_dropout": 0.1}, {"dtype": "bfloat16", "head_size": 12}):
        assert choose_attention_backend(config_with(attention="auto", **change), "gpu")[0] == "xla"
        with pytest.raises(UserError, match=r"model\.attention=cudnn cannot be used"):
            choose_attention_backend(config_with(attention="cudnn", **change), "gpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "model.d_model=32 is not divisible by model.num_heads=5"),
        ({"dropout": 1.0}, r"model.dropout=1.0 must lie in \[0, 1\)"),
        ({"num_layers": 0}, "model.num_layers=0 must be at least 1"),
        ({"remat": "ful"}, "model.remat='ful' is not known; did you mean 'full'"),
        ({"dtype": "float61"}, "model.dtype='float61' is not known; did you mean 'float16'"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        config_with(**change)


def test_gpt2_124m_has_the_size_that_its_name_says():
    config = ModelConfig(vocab_size=50257, context_length=1024, num_layers=12, num_heads=12, d_model=768, d_ff=3072)
    assert config.num_parameters == 124_439_808
