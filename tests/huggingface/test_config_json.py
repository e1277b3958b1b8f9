"""A `config.json` is read as `transformers` reads it, or refused with the key that our model cannot follow."""

from typing import Any

import pytest

from tests.support.families import VARIANTS, config_of
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.config_json import MODEL_TYPES, config_json, model_config_of
from tonsai_jax.model.rope import frequencies

IDS: dict[str, Any] = {"end_of_text_id": 0, "pad_id": 0, "dtype": "float32"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 256,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
OLD_LLAMA3 = {"type" if key == "rope_type" else key: value for key, value in LLAMA3.items()}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def theirs(config):
    """The config as `transformers` writes it, with its own spelling of RoPE."""
    reason = "transformers is not installed; `uv sync --extra hf` brings it"
    transformers = pytest.importorskip("transformers", reason=reason)
    return transformers.AutoConfig.for_model(**config).to_dict()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_config_that_is_written_and_read_is_the_same_model(variant):
    written = config_json(config_of(variant), **IDS)
    assert config_json(model_config_of(written), **IDS) == written
    assert model_config_of(theirs(written)) == model_config_of(written)


@pytest.mark.parametrize("model_type", MODEL_TYPES.values())
def test_a_key_that_is_absent_has_the_default_of_transformers(model_type):
    complete = theirs({"model_type": model_type})
    assert model_config_of({"model_type": model_type}) == model_config_of(complete)


@pytest.mark.parametrize(
    "fields",
    [
        # As published with 4 B parameters, inside `text_config`, and as transformers 5 writes it
        {"num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
        {"sliding_window": 512, "sliding_window_pattern": 3, "rope_theta": 5e5, "rope_local_base_freq": 2e4},
        {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        {"num_hidden_layers": 4},  # all of them slide
        {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2},
    ],
)
def test_the_layers_of_a_gemma_3_are_read_as_transformers_reads_them(fields):
    fields = {"model_type": "gemma3_text"} | fields
    ours, complete = model_config_of(fields), theirs(fields)
    assert model_config_of(complete) == ours == model_config_of({"model_type": "gemma3", "text_config": fields})
    sliding = [bool(ours.sliding_window) and number % ours.global_every > 0 for number in range(1, ours.num_layers + 1)]
    assert sliding == [kind == "sliding_attention" for kind in complete["layer_types"]]
    everywhere, local = (complete["rope_parameters"][kind] for kind in ("full_attention", "sliding_attention"))
    assert (ours.rope_theta, ours.rope_factor) == (everywhere["rope_theta"], everywhere.get("factor", 1.0))
    if any(sliding):
        assert (ours.sliding_window, ours.local_rope_theta) == (complete["sliding_window"], local["rope_theta"])


def test_null_takes_the_value_that_transformers_computes():
    gpt2 = model_config_of({"model_type": "gpt2", "n_embd": 24, "n_head": 2, "n_inner": None})
    assert gpt2.d_ff == 96
    llama = model_config_of({"model_type": "llama", "num_key_value_heads": None, "head_dim": None})
    assert (llama.kv_heads, llama.head_dim) == (32, 128)


def test_how_a_model_was_trained_is_not_read():
    published = {
        "model_type": "gpt2",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "torch_dtype": "float16",
    }
    assert model_config_of(published) == model_config_of({"model_type": "gpt2"})
    assert model_config_of(published).dropout == 0.0


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500_000.0, "rope_scaling": LLAMA3},
        {"rope_theta": 500_000.0, "rope_scaling": OLD_LLAMA3},
        {"rope_parameters": {"rope_theta": 500_000.0} | LLAMA3},
        {"rope_theta": 500_000.0, "rope_parameters": LLAMA3, "rope_scaling": None},
    ],
)
def test_rope_has_two_spellings(rope):
    config = model_config_of({"model_type": "llama"} | rope)
    assert config == model_config_of(theirs({"model_type": "llama"} | rope))
    assert (config.rope_theta, config.rope_scaling, config.rope_factor) == (500_000.0, "llama3", 8.0)
    assert config.original_context == 256


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "default"},
        {"type": "linear", "factor": 2.0},
        YARN | {"factor": None},
        {"rope_type": "yarn", "factor": 4.0},
        YARN | {"beta_fast": 32, "beta_slow": 1, "truncate": True, "attention_factor": 1.138629436111989},
        YARN | {"mscale": 1.0},
        YARN | {"factor": 1.0, "mscale": 0.7, "mscale_all_dim": 1.0},
    ],
)
def test_a_rope_scaling_is_read_as_transformers_reads_it(scaling):
    transformers = pytest.importorskip("transformers")
    config = {"model_type": "llama", "num_attention_heads": 2, "hidden_size": 64, "rope_scaling": scaling}
    ours, magnitude = frequencies(model_config_of(config))
    theirs = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(transformers.LlamaConfig(**config))
    assert ours == pytest.approx(theirs.inv_freq.numpy(), rel=1e-5)
    assert magnitude == pytest.approx(theirs.attention_scaling)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "model_type=None is not supported; supported are gpt2, llama, qwen3, mixtral"),
        ({"model_type": "qwen2"}, "model_type='qwen2' is not supported; supported are gpt2, "),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "the weights are quantized"),
        (
            {"model_type": "llama", "attention_bias": True},
            "a llama with attention_bias=True is not supported; supported is attention_bias=False",
        ),
        ({"model_type": "llama", "mlp_bias": True}, "a llama with mlp_bias=True"),
        (
            {"model_type": "llama", "hidden_act": "relu"},
            "hidden_act='relu' is not supported; supported is hidden_act=silu",
        ),
        ({"model_type": "llama", "partial_rotary_factor": 0.5}, "a llama with partial_rotary_factor=0.5"),
        ({"model_type": "llama", "hidden_size": "4096"}, "hidden_size='4096' must be a number"),
        ({"model_type": "llama", "hidden_size": 40.5}, "hidden_size=40.5 must be a whole number of at least 1"),
        (
            {"model_type": "llama", "num_attention_heads": 0},
            "num_attention_heads=0 must be a whole number of at least 1",
        ),
        ({"model_type": "gpt2", "activation_function": "relu"}, "a gpt2 with activation_function='relu'"),
        ({"model_type": "gpt2", "tie_word_embeddings": False}, "a gpt2 with tie_word_embeddings=False"),
        ({"model_type": "gpt2", "scale_attn_weights": False}, "a gpt2 with scale_attn_weights=False"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "a gpt2 with add_cross_attention=True"),
        ({"model_type": "qwen3", "attention_bias": True}, "a qwen3 with attention_bias=True"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4096},
            "a qwen3 with sliding_window=4096",
        ),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
            "a qwen3 with layer_types=.* supported is full_attention in every layer",
        ),
        ({"model_type": "gemma3_text", "attention_bias": True}, "a gemma3_text with attention_bias=True"),
        ({"model_type": "gemma3_text", "hidden_activation": "silu"}, "a gemma3_text with hidden_activation='silu'"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        (
            {
                "model_type": "gemma3_text",
                "num_hidden_layers": 3,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            "a gemma3_text with layer_types=.* supported is full_attention in every N-th layer, sliding_attention else",
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}},
            },
            "a gemma3_text with rope_type of sliding_attention='linear' is not supported; supported is default",
        ),
        ({"model_type": "gemma3_text", "sliding_window": None}, "sliding_window=None must be a number"),
        ({"model_type": "gemma3", "text_config": {"attention_bias": True}}, "a gemma3_text with attention_bias=True"),
        ({"model_type": "gemma2"}, "model_type='gemma2' is not supported; supported are .*gemma3_text"),
        (
            {"model_type": "mixtral", "sliding_window": 4096, "max_position_embeddings": 32768},
            "a mixtral with sliding_window=4096 is not supported; supported is null, or at least max_position_embeddings",
        ),
    ],
)
def test_what_our_model_cannot_compute_is_refused_by_name(config, message):
    with pytest.raises(UserError, match=rf"^config\.json: .*{message}"):
        model_config_of(config)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (
            {"type": "dynamic", "factor": 2.0},
            "rope_type='dynamic' is not supported; supported is default, linear, yarn and",
        ),
        ({"rope_type": "linear"}, "factor=None must be a number"),
        ("linear", "rope_scaling='linear' is not supported; supported is one set of values for all layers"),
        ({"full_attention": {"rope_type": "default"}}, "rope_scaling={'full_attention': .* one set of values"),
        (LLAMA3 | {"low_freq_factor": 2.0}, "low_freq_factor of rope_scaling=2.0 is not supported; supported is 1"),
        (LLAMA3 | {"high_freq_factor": 8}, "high_freq_factor of rope_scaling=8 is not supported; supported is 4"),
        (YARN | {"beta_fast": 16}, "beta_fast of rope_scaling=16 is not supported; supported is 32"),
        (YARN | {"beta_slow": 2}, "beta_slow of rope_scaling=2 is not supported; supported is 1"),
        (YARN | {"truncate": False}, "truncate of rope_scaling=False"),
        (
            YARN | {"attention_factor": 1.0},
            "attention_factor of rope_scaling=1.0 is not supported; supported is 1.1386",
        ),
        (YARN | {"mscale": 0.7, "mscale_all_dim": 1.0}, "attention_factor of rope_scaling=0.96"),
        (YARN | {"original_max_position_embeddings": "512"}, "original_max_position_embeddings='512' must be a number"),
        (LLAMA3 | {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ],
)
def test_a_rope_scaling_that_is_not_ours_is_refused_by_name(scaling, message):
    for spelling in ("rope_scaling", "rope_parameters"):
        with pytest.raises(UserError, match=rf"^config\.json: .*{message}"):
            model_config_of({"model_type": "llama", spelling: scaling})
