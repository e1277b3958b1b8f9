"""Each family is the one of `transformers`: the same logits, loss and gradients, whatever its sizes and switches."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.families import SIZES, VARIANTS, config_of
from tests.support.tiny_model import random_params
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.config_json import config_json
from tonsai_jax.huggingface.names import family_of, flat, tensors
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import PRESETS, preset
from tonsai_jax.model.transformer import KVCache, output_table
from tonsai_jax.training.loss import cross_entropy
from tonsai_jax.training.state import init_params, model_graph

TOKENS = np.random.default_rng(0).integers(1, 300, (2, 64), dtype=np.int32)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@functools.partial(jax.jit, static_argnames="config")
def logits_loss_and_gradients(config, params, tokens):
    def loss(params):
        model = nnx.merge(model_graph(config, "xla"), params)
        x_BxTxD, _ = model(tokens)
        weights = jnp.ones((2, 63)) / (2 * 63)
        table = output_table(params)
        nll, _ = cross_entropy(x_BxTxD[:, :-1], table, tokens[:, 1:], weights, config.vocab_size, 63)
        return nll, model.logits(x_BxTxD)

    (nll, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return logits, nll, gradients


def theirs_with(params, config, hf):
    """The model of `transformers` with our parameters, as a checkpoint of theirs is loaded."""
    torch, transformers = hf
    fields = config_json(config, end_of_text_id=0, pad_id=0, dtype="float32")
    their_config = transformers.AutoConfig.for_model(**fields)
    by_path = flat(params)
    state = {t.name: torch.tensor(np.array(t.of(by_path[t.path]))) for t in tensors(config)}
    model_class = getattr(transformers, fields["architectures"][0])
    return model_class.from_pretrained(None, config=their_config, state_dict=state, attn_implementation="eager").eval()


@every_variant
def test_logits_loss_and_gradients_are_those_of_transformers(variant, hf):
    torch, _ = hf
    config = config_of(variant)
    params = random_params(config)
    theirs = theirs_with(params, config, hf)
    assert theirs.num_parameters() == config.num_parameters
    ids = torch.tensor(TOKENS, dtype=torch.long)
    output = theirs(ids, labels=ids)
    output.loss.backward()

    logits, loss, gradients = logits_loss_and_gradients(config, params, TOKENS)
    np.testing.assert_allclose(logits, output.logits.detach().numpy(), atol=1e-4, rtol=0)
    assert float(loss) == pytest.approx(float(output.loss.detach()), abs=1e-5)
    named = dict(theirs.named_parameters())
    by_path = flat(gradients)
    compared = 0
    for tensor in tensors(config):
        if tensor.name in named:  # the experts, which they stack, are below
            their_gradient = named[tensor.name].grad.numpy() / tensor.factor
            ours = tensor.of(by_path[tensor.path]) / tensor.factor
            atol = 1e-3 * np.abs(their_gradient).max()
            np.testing.assert_allclose(ours, their_gradient, atol=atol, rtol=1e-3, err_msg=tensor.name)
            compared += 1
    assert compared >= 2 + 6 * config.num_layers
    for layer in range(config.num_layers if config.num_experts else 0):
        experts = theirs.model.layers[layer].mlp.experts
        for ours, gradient in (("experts_up", experts.gate_up_proj.grad), ("experts_down", experts.down_proj.grad)):
            ours_ExIxO = np.asarray(gradients["blocks"][ours]["kernel"][layer])
            np.testing.assert_allclose(ours_ExIxO.swapaxes(1, 2), gradient.numpy(), atol=1e-5, rtol=1e-3)


@every_variant
def test_the_counts_are_those_of_the_parameters_and_of_the_products(variant):
    config = config_of(variant)
    shapes = flat(jax.eval_shape(lambda: init_params(config, 0)))
    padding = (config.padded_vocab_size - config.vocab_size) * config.d_model
    padding *= 1 if config.tie_embeddings else 2
    assert config.num_parameters == sum(leaf.size for leaf in shapes.values()) - padding
    asleep = config.num_experts - config.experts_per_token if config.num_experts else 0
    expert = sum(leaf.size // config.num_experts for path, leaf in shapes.items() if "experts_" in path)
    assert config.num_active_parameters == config.num_parameters - asleep * expert
    matrices = sum(leaf.size for path, leaf in shapes.items() if path.endswith("kernel")) - asleep * expert
    head = config.padded_vocab_size * config.d_model
    attended = 2 * config.num_layers * 10 / 2  # half of the square of 10 x 10 pairs, for two products
    if 0 < config.sliding_window < 10:
        sliding_layers = config.num_layers - config.num_layers // config.global_every
        attended -= 2 * sliding_layers * (10 - config.sliding_window) ** 2 / 2 / 10
    attention = attended * config.num_heads * config.head_dim
    assert config.flops_per_token(10) == pytest.approx(6 * (matrices + head + attention), rel=1e-12)


@pytest.mark.full
@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("llama, yarn", marks=pytest.mark.full),
        "qwen3",
        "gemma3",
        pytest.param("mixtral, top-2", marks=pytest.mark.full),
    ],
)
def test_a_cache_filled_in_parts_gives_what_one_pass_gives(variant):
    config = config_of(variant)
    params = random_params(config)
    whole, _, _ = logits_loss_and_gradients(config, params, TOKENS)

    @jax.jit
    def decode(params, tokens, cache):
        model = nnx.merge(model_graph(config, "xla"), params)
        x_BxTxD, cache = model.decode(tokens, cache)
        return model.logits(x_BxTxD), cache

    first, cache = decode(params, TOKENS[:, :20], KVCache.empty(config, batch_size=2, max_length=64))
    assert len(cache.kv_BxKxSxDh) == config.num_layers
    assert cache.kv_BxKxSxDh[0][0].shape == (2, config.kv_heads, 64, config.head_dim)
    np.testing.assert_allclose(first, whole[:, :20], atol=1e-4)
    for step in range(20, 24):
        one, cache = decode(params, TOKENS[:, step : step + 1], cache)
        np.testing.assert_allclose(one[:, 0], whole[:, step], atol=1e-4)


def test_every_preset_is_its_own_family():
    for family in PRESETS:
        assert family_of(ModelConfig(**(SIZES | preset(family)))) == family
    for family in ("qwen3", "mixtral"):  # transformers loads these with any width
        assert family_of(ModelConfig(**(SIZES | preset(family) | {"d_model": 30, "head_size": 8}))) == family


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (
            "llama",
            {"bias": True},
            "no Hugging Face family has model.norm=rmsnorm, model.position=rope, .*model.bias=True",
        ),
        ("mixtral", {"qk_norm": True}, "no Hugging Face family has .*model.qk_norm=True, model.num_experts=8"),
        ("gemma3", {"scale_embedding": False}, "no Hugging Face family has .*model.scale_embedding=False"),
        ("gemma3", {"d_model": 30, "head_size": 8}, "cannot load a gemma3 whose model.d_model=30 is not a multiple"),
        ("qwen3", {"sliding_window": 8}, "Hugging Face's qwen3 has no model.sliding_window=8; the gemma3 preset has"),
        ("llama", {"query_scalar": 9}, "Hugging Face's llama has no model.query_scalar=9; the gemma3 preset has"),
        ("gpt2", {"tie_embeddings": False}, "Hugging Face's gpt2 has no model.tie_embeddings=False"),
        ("gpt2", {"num_kv_heads": 2}, "Hugging Face's gpt2 has no model.num_kv_heads=2"),
        ("gpt2", {"head_size": 16}, "Hugging Face's gpt2 has no model.head_size=16"),
        (
            "llama",
            {"d_model": 30, "head_size": 8},
            "cannot load a llama whose model.d_model=30 is not a multiple of model.num_heads=4",
        ),
    ],
)
def test_a_model_without_a_family_is_refused_by_name(family, change, message):
    with pytest.raises(UserError, match=message):
        family_of(ModelConfig(**(SIZES | preset(family) | change)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "model.num_kv_heads=3 does not divide model.num_heads=4"),
        ({"head_size": 7}, "model.position='rope' needs an even head size, not 7"),
        ({"position": "learned", "rope_scaling": "yarn"}, "model.rope_scaling='yarn' needs model.position=rope"),
        ({"rope_scaling": "yarn", "rope_factor": 0.5}, "model.rope_factor=0.5 must be a number of at least 1"),
        ({"rope_scaling": "linear", "rope_factor": math.inf}, "model.rope_factor=inf must be a number of at least 1"),
        (
            {"rope_scaling": "yarn", "rope_factor": 1000.0},
            "model.rope_factor=1000.0 is too large for model.context_length=64",
        ),
        (
            {"rope_factor": 4.0},
            "model.rope_factor=4.0 has no effect with model.rope_scaling=none; set rope_scaling to ",
        ),
        ({"rope_original_context": 16}, "model.rope_original_context=16 has no effect with model.rope_scaling="),
        ({"rope_scaling": "yarn", "rope_theta": 1.0}, "model.rope_theta=1.0 must be a number above 1"),
        ({"num_experts": 4, "mlp": "gelu"}, "model.mlp='gelu' does not work with experts"),
        (
            {"num_experts": 4, "experts_per_token": 5},
            "model.experts_per_token=5 must lie between 1 and .*num_experts=4",
        ),
        ({"num_experts": 4, "mlp": "geglu"}, "model.mlp='geglu' does not work with experts"),
        ({"sliding_window": 8, "global_every": 1}, "model.global_every=1 must be at least 2"),
        ({"sliding_window": 8, "local_rope_theta": 1.0}, "model.local_rope_theta=1.0 must be a number above 1"),
        ({"global_every": 2}, "model.global_every=2 has no effect with model.sliding_window=0; set sliding_window, or"),
        ({"local_rope_theta": 500.0}, "model.local_rope_theta=500.0 has no effect with model.sliding_window=0"),
        ({"norm": "layer_norm"}, "model.norm='layer_norm' is not known; did you mean 'layernorm'"),
    ],
)
def test_switches_that_do_not_go_together_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**(SIZES | preset("llama") | change))


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="preset='lama' is not known; did you mean 'llama'"):
        preset("lama")
