"""Between our `ModelConfig` and the `config.json` of a Hugging Face model: `config_json` writes one, `model_config_of` reads one.

The files of other people leave out what is the default of `transformers`, spell RoPE in two ways, and ask for things that our
model does not have. Reading takes the defaults of `transformers` 5.23 and refuses what our model cannot compute, by name.
"""

import math
from collections.abc import Mapping
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.names import ARCHITECTURES, family_of
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import preset
from tonsai_jax.model.rope import LLAMA3_FAST, LLAMA3_SLOW, YARN_FAST, YARN_SLOW

MODEL_TYPES = {family: family for family in ARCHITECTURES} | {"gemma3": "gemma3_text"}
# What transformers 5.23 takes for a key that config.json does not have, and null where it computes the value.
_LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 50_257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
    },
    "llama": _LLAMA_DEFAULTS,
    "qwen3": _LLAMA_DEFAULTS
    | {
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "intermediate_size": 22_016,
        "num_key_value_heads": 32,
        "head_dim": 128,
    },
    "mixtral": _LLAMA_DEFAULTS
    | {
        "max_position_embeddings": 131_072,
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "gemma3": _LLAMA_DEFAULTS
    | {
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "layer_types": None,
    },
}
# Keys with the only values that our model computes, the default first; anything else is another model.
_SILU = ("silu", "swish")
_TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")  # three names of one function
_ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": _TANH_GELU,
        "tie_word_embeddings": (True,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "llama": {"hidden_act": _SILU, "attention_bias": (False,), "mlp_bias": (False,)},
    "qwen3": {"hidden_act": _SILU, "attention_bias": (False,)},
    "mixtral": {"hidden_act": _SILU},
    "gemma3": {
        "hidden_activation": _TANH_GELU,
        "attention_bias": (False,),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
        "use_bidirectional_attention": (False, None),
    },
}


def config_json(model_config: ModelConfig, *, end_of_text_id: int, pad_id: int, dtype: str) -> dict[str, Any]:
    """The content of `config.json` for the model's family.

    Args:
      model_config: of the model.
      end_of_text_id: the id that starts and ends a text.
      pad_id: the id for padding.
      dtype: of the weights, "float32", "bfloat16" or "float16".

    Returns values for JSON. The vocabulary is the tokenizer's, without the padding of our table.
    Raises `UserError` if no family fits the model.
    """
    family = family_of(model_config)
    common = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": MODEL_TYPES[family],
        "dtype": dtype,
        "vocab_size": model_config.vocab_size,
        "tie_word_embeddings": model_config.tie_embeddings,
        "initializer_range": 0.02,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": pad_id,
        "use_cache": True,
    }
    return common | (_gpt2_config(model_config) if family == "gpt2" else _llama_config(model_config))


def _gpt2_config(model_config: ModelConfig) -> dict[str, Any]:
    return {
        "n_positions": model_config.context_length,
        "n_ctx": model_config.context_length,  # GPT-2's older name for it, which llama.cpp's converter reads
        "n_embd": model_config.d_model,
        "n_layer": model_config.num_layers,
        "n_head": model_config.num_heads,
        "n_inner": model_config.d_ff,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model_config.norm_epsilon,
        "scale_attn_weights": True,
        "resid_pdrop": model_config.dropout,
        "embd_pdrop": model_config.dropout,
        "attn_pdrop": model_config.attention_dropout,
    }


def _llama_config(model_config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "max_position_embeddings": model_config.context_length,
        "hidden_size": model_config.d_model,
        "intermediate_size": model_config.d_ff,
        "num_hidden_layers": model_config.num_layers,
        "num_attention_heads": model_config.num_heads,
        "num_key_value_heads": model_config.kv_heads,
        "head_dim": model_config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": model_config.norm_epsilon,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": model_config.attention_dropout,
        "rope_theta": model_config.rope_theta,
        "rope_scaling": None,
        "sliding_window": None,
    }
    if model_config.rope_scaling != "none":
        values["rope_scaling"] = {
            "rope_type": model_config.rope_scaling,
            "factor": model_config.rope_factor,
        }
    if model_config.rope_scaling in ("yarn", "llama3"):
        values["rope_scaling"]["original_max_position_embeddings"] = model_config.original_context
    if model_config.rope_scaling == "llama3":
        values["rope_scaling"] |= {"low_freq_factor": float(LLAMA3_SLOW), "high_freq_factor": float(LLAMA3_FAST)}
    if model_config.num_experts:
        values |= {
            "num_local_experts": model_config.num_experts,
            "num_experts_per_tok": model_config.experts_per_token,
            "output_router_logits": False,
        }
    if family_of(model_config) == "gemma3":
        values = {key: value for key, value in values.items() if key not in ("hidden_act", "mlp_bias")}
        values |= _gemma3_config(model_config)
    return values


def _gemma3_config(model_config: ModelConfig) -> dict[str, Any]:
    """`layer_types` and `sliding_window_pattern` say the same; versions of transformers before 4.53 read only the second."""
    every = model_config.global_every if model_config.sliding_window else 1
    numbers = range(1, model_config.num_layers + 1)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": model_config.query_scalar or model_config.head_dim,
        # transformers wants a number even where no layer slides
        "sliding_window": model_config.sliding_window or model_config.context_length,
        "sliding_window_pattern": every,
        "layer_types": ["sliding_attention" if number % every else "full_attention" for number in numbers],
        "rope_local_base_freq": model_config.local_rope_theta,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }


def model_config_of(config: Mapping[str, Any]) -> ModelConfig:
    """The model that a `config.json` describes, the inverse of `config_json`.

    How a model is computed and trained is not read: the dropout rates, `dtype` and the keys after them have our defaults.

    Args:
      config: the content of the file. A key that it lacks has the default of `transformers`.

    Raises `UserError` for a family that is not supported, for what our model cannot compute, and for a value that is no number.
    """
    model_type = config.get("model_type")
    if model_type == "gemma3" and isinstance(config.get("text_config"), Mapping):
        return model_config_of({"model_type": MODEL_TYPES["gemma3"]} | dict(config["text_config"]))
    families = {name: family for family, name in MODEL_TYPES.items()}
    if model_type not in families:
        raise UserError(
            f"config.json: model_type={model_type!r} is not supported; supported are {', '.join(families)}, and the text "
            "part of gemma3 (text_config)"
        )
    family = families[model_type]
    config = _DEFAULTS[family] | dict(config)
    if config.get("quantization_config"):
        raise UserError(
            "config.json: the weights are quantized (quantization_config); take the model before quantization"
        )
    for key, supported in _ONLY[family].items():
        if config.get(key, supported[0]) not in supported:
            raise _unsupported(config, key, config[key], f"{key}={supported[0]}")
    values = _from_gpt2(config) if family == "gpt2" else _from_llama(config)
    model_config = ModelConfig(**preset(family) | values)
    family_of(model_config)
    return model_config


def _from_gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    width = _whole(config, "n_embd")
    return {
        "vocab_size": _whole(config, "vocab_size"),
        "context_length": _whole(config, "n_positions"),
        "num_layers": _whole(config, "n_layer"),
        "num_heads": _whole(config, "n_head"),
        "d_model": width,
        "d_ff": 4 * width if config["n_inner"] is None else _whole(config, "n_inner"),
        "norm_epsilon": _number(config, "layer_norm_epsilon"),
    }


def _from_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """Llama, Qwen3, Mixtral and Gemma 3."""
    model_type, context_length = config["model_type"], _whole(config, "max_position_embeddings")
    if model_type == "mixtral" or config.get("use_sliding_window"):
        window = config.get("sliding_window")
        if window is not None and _whole(config, "sliding_window") < context_length:
            raise _unsupported(config, "sliding_window", window, "null, or at least max_position_embeddings")
    if model_type == "qwen3" and set(config.get("layer_types") or ()) - {"full_attention"}:
        raise _unsupported(config, "layer_types", config["layer_types"], "full_attention in every layer")
    width, num_heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    values = {
        "vocab_size": _whole(config, "vocab_size"),
        "context_length": context_length,
        "num_layers": _whole(config, "num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": num_heads if config["num_key_value_heads"] is None else _whole(config, "num_key_value_heads"),
        "head_size": width // num_heads if config["head_dim"] is None else _whole(config, "head_dim"),
        "d_model": width,
        "d_ff": _whole(config, "intermediate_size"),
        "norm_epsilon": _number(config, "rms_norm_eps"),
        "tie_embeddings": bool(config["tie_word_embeddings"]),
    }
    if model_type == "mixtral":
        values["num_experts"] = _whole(config, "num_local_experts")
        values["experts_per_token"] = _whole(config, "num_experts_per_tok")
    if model_type == MODEL_TYPES["gemma3"]:
        return values | _from_gemma3(config)
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return values | _rope(config, rope, config["rope_theta"])


def _from_gemma3(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that only Gemma 3 has, and RoPE, which its two kinds of layers have each on their own."""
    by_layer_type = config.get("rope_parameters") or {}
    everywhere = dict(by_layer_type.get("full_attention") or {}) | dict(config.get("rope_scaling") or {})
    local = _rope(config, by_layer_type.get("sliding_attention") or {}, config["rope_local_base_freq"])
    if "rope_scaling" in local:
        raise _unsupported(config, "rope_type of sliding_attention", local["rope_scaling"], "default")
    values = _rope(config, everywhere, config["rope_theta"]) | {"query_scalar": _whole(config, "query_pre_attn_scalar")}
    num_layers, types = _whole(config, "num_hidden_layers"), config["layer_types"]
    every = min(
        _whole(config, "sliding_window_pattern"), num_layers + 1
    )  # the same for every pattern without such a layer
    if types is not None:
        every = types.index("full_attention") + 1 if "full_attention" in types else num_layers + 1
    regular = ["sliding_attention" if number % every else "full_attention" for number in range(1, num_layers + 1)]
    if types not in (None, regular):
        raise _unsupported(
            config, "layer_types", types, "full_attention in every N-th layer, sliding_attention elsewhere"
        )
    if every == 1:
        return values | {"sliding_window": 0}
    return values | {
        "sliding_window": _whole(config, "sliding_window"),
        "global_every": every,
        "local_rope_theta": local["rope_theta"],
    }


def _rope(config: Mapping[str, Any], rope: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """Our keys of RoPE.

    Args:
      config: of the model.
      rope: its `rope_scaling`, or what is called `rope_parameters` since transformers 5.
      theta: the base where `rope` has none, as in `rope_scaling`.
    """
    if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
        raise _unsupported(config, "rope_scaling", rope, "one set of values for all layers")
    rope = dict(rope)
    scaling = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise _unsupported(config, "partial_rotary_factor", partial, "1")
    values = {"rope_theta": _number({"rope_theta": theta} | rope, "rope_theta")}
    if scaling == "default":
        return values
    if scaling not in ("linear", "yarn", "llama3"):
        raise _unsupported(config, "rope_type", scaling, "default, linear, yarn and llama3")
    values["rope_scaling"] = scaling
    if scaling == "linear":
        return values | {"rope_factor": _number(rope, "factor")}
    for where in (config, rope, {"original_max_position_embeddings": config["max_position_embeddings"]}):
        if where.get("original_max_position_embeddings") is not None:
            values["rope_original_context"] = _whole(where, "original_max_position_embeddings")
            break
    if scaling == "yarn" and rope.get("factor") is None:
        rope = rope | {"factor": config["max_position_embeddings"] / values["rope_original_context"]}
    values["rope_factor"] = factor = _number(rope, "factor")
    if scaling == "llama3":
        _check_rope(config, rope, {"low_freq_factor": LLAMA3_SLOW, "high_freq_factor": LLAMA3_FAST})
    else:
        magnitude = _magnitude(factor)
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            magnitude = _magnitude(factor, rope["mscale"]) / _magnitude(factor, rope["mscale_all_dim"])
        defaults = {"beta_fast": YARN_FAST, "beta_slow": YARN_SLOW, "truncate": True, "attention_factor": magnitude}
        given = {key: value for key, value in rope.items() if value is not None}
        _check_rope(config, defaults | given, defaults | {"attention_factor": _magnitude(factor)})
    return values


def _check_rope(config: Mapping[str, Any], rope: Mapping[str, Any], ours: Mapping[str, float]) -> None:
    for key, supported in ours.items():
        value = rope.get(key)
        if not isinstance(value, int | float) or not math.isclose(value, supported):
            raise _unsupported(config, f"{key} of rope_scaling", value, f"{supported}")


def _magnitude(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies rotated values by (arXiv:2309.00071, with DeepSeek's `mscale`)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"config.json: {key}={value!r} must be a number")
    return float(value)


def _whole(values: Mapping[str, Any], key: str) -> int:
    number = _number(values, key)
    if not number.is_integer() or number < 1:
        raise UserError(f"config.json: {key}={values[key]!r} must be a whole number of at least 1")
    return int(number)


def _unsupported(config: Mapping[str, Any], key: str, value: object, supported: str) -> UserError:
    return UserError(
        f"config.json: a {config['model_type']} with {key}={value!r} is not supported; supported is {supported}"
    )
