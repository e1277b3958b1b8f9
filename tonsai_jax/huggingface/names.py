"""Maps our parameters to the tensors of a Hugging Face model, one table per family.

Our parameters are stacked along a leading layer axis; a Hugging Face model has one tensor per layer, and per expert. Its GPT-2
uses `Conv1D`, whose weights are [in, out] like ours; the weights of the other families are [out, in]. A parameter that we store
in one array (queries, keys and values; gate and values of SwiGLU) is several tensors there.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import PRESETS
from tonsai_jax.tokenizer.loading import Tokenizer

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
# The keys of a preset that define its family; the other keys can differ.
_SWITCHES = ("norm", "position", "mlp", "bias", "sandwich_norms", "scale_embedding", "qk_norm")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the Hugging Face model.

    Attributes:
      name: its name in the Hugging Face model.
      path: the path of our parameter, with dots.
      index: the layer, and the expert, to take from our parameter.
      columns: the range of the last axis to take; None for all.
      rows: how many entries of the first axis to take; None for all. It cuts off the padding of the vocabulary.
      is_transposed: whether the Hugging Face tensor is [out, in].
      factor: a number that the values are multiplied by.
    """

    name: str
    path: str
    index: tuple[int, ...] = ()
    columns: slice | None = None
    rows: int | None = None
    is_transposed: bool = False
    factor: float = 1.0

    def of(self, param: Any) -> Any:
        """This tensor, a float32 array, taken from the parameter at `path`."""
        value = param[self.index][..., self.columns or slice(None)][: self.rows] * self.factor
        return value.T if self.is_transposed else value


def family_of(model_config: ModelConfig) -> str:
    """The Hugging Face family of the model: a key of `ARCHITECTURES`.

    Raises `UserError` if no family can represent the model.
    """
    families = [
        family
        for family, switches in PRESETS.items()
        if all(getattr(model_config, name) == switches[name] for name in _SWITCHES)
        and bool(model_config.num_experts) == bool(switches["num_experts"])
    ]
    if not families:
        found = ", ".join(f"model.{name}={getattr(model_config, name)}" for name in (*_SWITCHES, "num_experts"))
        raise UserError(
            f"no Hugging Face family has {found}; see tonsai_jax/model/presets.py for the values of each family"
        )
    if families[0] != "gemma3":
        for name, own in (("sliding_window", 0), ("query_scalar", model_config.head_dim)):
            if getattr(model_config, name) not in (0, own):
                raise UserError(
                    f"Hugging Face's {families[0]} has no model.{name}={getattr(model_config, name)}; "
                    f"the gemma3 preset has"
                )
    if families[0] in ("llama", "gemma3") and model_config.d_model % model_config.num_heads:
        raise UserError(
            f"transformers cannot load a {families[0]} whose model.d_model={model_config.d_model} is not a multiple of "
            f"model.num_heads={model_config.num_heads}, even with model.head_size; change one, or use the qwen3 preset"
        )
    if families == ["gpt2"]:
        own_head = model_config.num_heads * model_config.head_dim != model_config.d_model
        for name, differs in (
            ("tie_embeddings", not model_config.tie_embeddings),
            ("num_kv_heads", model_config.kv_heads != model_config.num_heads),
            ("head_size", own_head),
        ):
            if differs:
                raise UserError(
                    f"Hugging Face's gpt2 has no model.{name}={getattr(model_config, name)}; the llama preset has"
                )
    return families[0]


def check_ids(model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raises `UserError` if the tokenizer uses ids that the model does not have."""
    if tokenizer.required_rows > model_config.vocab_size:
        raise UserError(
            f"{tokenizer.folder}: this tokenizer has {tokenizer.required_rows} ids, but the model has only "
            f"{model_config.vocab_size}; use the tokenizer that the model was trained with"
        )


def tensors(model_config: ModelConfig) -> list[Tensor]:
    """All tensors of the Hugging Face model, in the order of its layers. Raises `UserError` if no family fits the model."""
    return list(_gpt2(model_config) if family_of(model_config) == "gpt2" else _llama(model_config))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested dict by their paths, with dots: {"blocks.qkv.kernel": array}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _gpt2(model_config: ModelConfig) -> Iterator[Tensor]:
    yield Tensor("transformer.wte.weight", "token_embedding", rows=model_config.vocab_size)
    yield Tensor("transformer.wpe.weight", "position_embedding")
    parts = {
        "ln_1": "attention_norm",
        "attn.c_attn": "qkv",
        "attn.c_proj": "attention_out",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp_up",
        "mlp.c_proj": "mlp_down",
    }
    for layer in range(model_config.num_layers):
        for theirs, ours in parts.items():
            weight = "scale" if "norm" in ours else "kernel"
            yield Tensor(f"transformer.h.{layer}.{theirs}.weight", f"blocks.{ours}.{weight}", (layer,))
            yield Tensor(f"transformer.h.{layer}.{theirs}.bias", f"blocks.{ours}.bias", (layer,))
    yield Tensor("transformer.ln_f.weight", "final_norm.scale")
    yield Tensor("transformer.ln_f.bias", "final_norm.bias")


def _llama(model_config: ModelConfig) -> Iterator[Tensor]:
    """Llama, Qwen3, Mixtral and Gemma 3: the tensors that they share have the same names, except for the norms."""
    F, q, kv = (
        model_config.d_ff,
        model_config.num_heads * model_config.head_dim,
        model_config.kv_heads * model_config.head_dim,
    )
    # Without norms after attention, the name "post_attention" is that of the norm before the feed-forward network.
    middle_norms = {"post_attention_layernorm": "mlp_norm"}
    if model_config.sandwich_norms:
        middle_norms = {
            "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "mlp_norm",
            "post_feedforward_layernorm": "post_mlp_norm",
        }
    gate, values = slice(0, F), slice(F, 2 * F)
    yield Tensor("model.embed_tokens.weight", "token_embedding", rows=model_config.vocab_size)
    for layer in range(model_config.num_layers):
        prefix, at = f"model.layers.{layer}", (layer,)
        yield Tensor(f"{prefix}.input_layernorm.weight", "blocks.attention_norm.scale", at)
        for name, columns in (("q", slice(0, q)), ("k", slice(q, q + kv)), ("v", slice(q + kv, q + 2 * kv))):
            theirs = f"{prefix}.self_attn.{name}_proj.weight"
            yield Tensor(theirs, "blocks.qkv.kernel", at, columns, is_transposed=True)
        if model_config.qk_norm:
            for name in ("q_norm", "k_norm"):
                yield Tensor(f"{prefix}.self_attn.{name}.weight", f"blocks.{name}.scale", at)
        yield Tensor(f"{prefix}.self_attn.o_proj.weight", "blocks.attention_out.kernel", at, is_transposed=True)
        for theirs, ours in middle_norms.items():
            yield Tensor(f"{prefix}.{theirs}.weight", f"blocks.{ours}.scale", at)
        if model_config.num_experts:
            experts = f"{prefix}.block_sparse_moe"
            # Mixtral has no router temperature, so the weights are divided by it.
            temperature = 1 / model_config.router_temperature
            yield Tensor(f"{experts}.gate.weight", "blocks.router.kernel", at, is_transposed=True, factor=temperature)
            for number in range(model_config.num_experts):
                one, where = f"{experts}.experts.{number}", (layer, number)
                yield Tensor(f"{one}.w1.weight", "blocks.experts_up.kernel", where, gate, is_transposed=True)
                yield Tensor(f"{one}.w3.weight", "blocks.experts_up.kernel", where, values, is_transposed=True)
                yield Tensor(f"{one}.w2.weight", "blocks.experts_down.kernel", where, is_transposed=True)
        else:
            yield Tensor(f"{prefix}.mlp.gate_proj.weight", "blocks.mlp_up.kernel", at, gate, is_transposed=True)
            yield Tensor(f"{prefix}.mlp.up_proj.weight", "blocks.mlp_up.kernel", at, values, is_transposed=True)
            yield Tensor(f"{prefix}.mlp.down_proj.weight", "blocks.mlp_down.kernel", at, is_transposed=True)
    yield Tensor("model.norm.weight", "final_norm.scale")
    if not model_config.tie_embeddings:
        yield Tensor("lm_head.weight", "head", rows=model_config.vocab_size)
