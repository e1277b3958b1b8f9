"""Where each of our parameters stands in a Hugging Face model, and that model's `config.json`: one table per family.

Ours are stacked along a leading layer axis; theirs are one tensor per layer, and per expert. GPT-2's linear layers over there
are `Conv1D`, whose weights are [in, out] as ours are; the others' are [out, in]. What one of ours holds side by side (queries,
keys and values; SwiGLU's gate and values) is several of theirs.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import PRESETS
from tonsai_jax.model.rope import LLAMA3_FAST, LLAMA3_SLOW

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
}
# Switches that tell the families apart; what else a preset sets is free.
_SWITCHES = ("norm", "position", "mlp", "bias", "qk_norm")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the Hugging Face model.

    Attributes:
      name: over there.
      path: of our parameter, with dots.
      index: what to take of it: a layer, and an expert.
      columns: which of its last axis, or None for all.
      rows: how many of its first axis, or None for all; a table's padding is cut off.
      is_transposed: [out, in] over there.
      factor: what it is multiplied with.
    """

    name: str
    path: str
    index: tuple[int, ...] = ()
    columns: slice | None = None
    rows: int | None = None
    is_transposed: bool = False
    factor: float = 1.0

    def of(self, param: Any) -> Any:
        """This tensor, a float32 array, of the parameter at `path`."""
        value = param[self.index][..., self.columns or slice(None)][: self.rows] * self.factor
        return value.T if self.is_transposed else value


def family_of(config: ModelConfig) -> str:
    """The Hugging Face family that is this model: a key of `ARCHITECTURES`.

    Raises `UserError` where there is none.
    """
    families = [
        family
        for family, switches in PRESETS.items()
        if all(getattr(config, name) == switches[name] for name in _SWITCHES)
        and bool(config.num_experts) == bool(switches["num_experts"])
    ]
    if not families:
        found = ", ".join(f"model.{name}={getattr(config, name)}" for name in (*_SWITCHES, "num_experts"))
        raise UserError(f"no Hugging Face family has {found}; tonsai_jax/model/presets.py has what they are made of")
    if families == ["gpt2"]:
        own_head = config.num_heads * config.head_dim != config.d_model
        for name, differs in (
            ("tie_embeddings", not config.tie_embeddings),
            ("num_kv_heads", config.kv_heads != config.num_heads),
            ("head_size", own_head),
        ):
            if differs:
                raise UserError(
                    f"Hugging Face's gpt2 has no model.{name}={getattr(config, name)}; the llama preset has"
                )
    return families[0]


def tensors(config: ModelConfig) -> list[Tensor]:
    """Every tensor of the Hugging Face model, in the order of its layers. Raises `UserError` where there is no such model."""
    return list(_gpt2(config) if family_of(config) == "gpt2" else _llama(config))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict's leaves by their paths, with dots."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _gpt2(config: ModelConfig) -> Iterator[Tensor]:
    yield Tensor("transformer.wte.weight", "token_embedding", rows=config.vocab_size)
    yield Tensor("transformer.wpe.weight", "position_embedding")
    parts = {
        "ln_1": "attention_norm",
        "attn.c_attn": "qkv",
        "attn.c_proj": "attention_out",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp_up",
        "mlp.c_proj": "mlp_down",
    }
    for layer in range(config.num_layers):
        for theirs, ours in parts.items():
            weight = "scale" if "norm" in ours else "kernel"
            yield Tensor(f"transformer.h.{layer}.{theirs}.weight", f"blocks.{ours}.{weight}", (layer,))
            yield Tensor(f"transformer.h.{layer}.{theirs}.bias", f"blocks.{ours}.bias", (layer,))
    yield Tensor("transformer.ln_f.weight", "final_norm.scale")
    yield Tensor("transformer.ln_f.bias", "final_norm.bias")


def _llama(config: ModelConfig) -> Iterator[Tensor]:
    """Llama, and Qwen3 and Mixtral, which name what they share alike."""
    F, q, kv = config.d_ff, config.num_heads * config.head_dim, config.kv_heads * config.head_dim
    gate, values = slice(0, F), slice(F, 2 * F)
    yield Tensor("model.embed_tokens.weight", "token_embedding", rows=config.vocab_size)
    for layer in range(config.num_layers):
        prefix, at = f"model.layers.{layer}", (layer,)
        yield Tensor(f"{prefix}.input_layernorm.weight", "blocks.attention_norm.scale", at)
        for name, columns in (("q", slice(0, q)), ("k", slice(q, q + kv)), ("v", slice(q + kv, q + 2 * kv))):
            theirs = f"{prefix}.self_attn.{name}_proj.weight"
            yield Tensor(theirs, "blocks.qkv.kernel", at, columns, is_transposed=True)
        if config.qk_norm:
            for name in ("q_norm", "k_norm"):
                yield Tensor(f"{prefix}.self_attn.{name}.weight", f"blocks.{name}.scale", at)
        yield Tensor(f"{prefix}.self_attn.o_proj.weight", "blocks.attention_out.kernel", at, is_transposed=True)
        yield Tensor(f"{prefix}.post_attention_layernorm.weight", "blocks.mlp_norm.scale", at)
        if config.num_experts:
            experts = f"{prefix}.block_sparse_moe"
            # Mixtral's router has no temperature: it is in the weights.
            temperature = 1 / config.router_temperature
            yield Tensor(f"{experts}.gate.weight", "blocks.router.kernel", at, is_transposed=True, factor=temperature)
            for number in range(config.num_experts):
                one, where = f"{experts}.experts.{number}", (layer, number)
                yield Tensor(f"{one}.w1.weight", "blocks.experts_up.kernel", where, gate, is_transposed=True)
                yield Tensor(f"{one}.w3.weight", "blocks.experts_up.kernel", where, values, is_transposed=True)
                yield Tensor(f"{one}.w2.weight", "blocks.experts_down.kernel", where, is_transposed=True)
        else:
            yield Tensor(f"{prefix}.mlp.gate_proj.weight", "blocks.mlp_up.kernel", at, gate, is_transposed=True)
            yield Tensor(f"{prefix}.mlp.up_proj.weight", "blocks.mlp_up.kernel", at, values, is_transposed=True)
            yield Tensor(f"{prefix}.mlp.down_proj.weight", "blocks.mlp_down.kernel", at, is_transposed=True)
    yield Tensor("model.norm.weight", "final_norm.scale")
    if not config.tie_embeddings:
        yield Tensor("lm_head.weight", "head", rows=config.vocab_size)


def config_json(config: ModelConfig, *, end_of_text_id: int, pad_id: int, dtype: str) -> dict[str, Any]:
    """The content of `config.json` for the model's family; the vocabulary is the true one, without padding.

    Raises `UserError` where no family is made of the model's switches.
    """
    family = family_of(config)
    common = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": 0.02,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": pad_id,
        "use_cache": True,
    }
    return common | (_gpt2_config(config) if family == "gpt2" else _llama_config(config))


def _gpt2_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.d_ff,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon,
        "scale_attn_weights": True,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
    }


def _llama_config(config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": config.attention_dropout,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "sliding_window": None,
    }
    if config.rope_scaling != "none":
        values["rope_scaling"] = {
            "rope_type": config.rope_scaling,
            "factor": config.rope_factor,
        }
    if config.rope_scaling in ("yarn", "llama3"):
        values["rope_scaling"]["original_max_position_embeddings"] = config.original_context
    if config.rope_scaling == "llama3":
        values["rope_scaling"] |= {"low_freq_factor": float(LLAMA3_SLOW), "high_freq_factor": float(LLAMA3_FAST)}
    if config.num_experts:
        values |= {
            "num_local_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "output_router_logits": False,
        }
    return values
