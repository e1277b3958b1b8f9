"""Where each of our parameters stands in a Hugging Face model: one table per family.

Ours are stacked along a leading layer axis; theirs are one tensor per layer. GPT-2's linear layers over there are
`Conv1D`, whose weights are [in, out] as ours are, so nothing is transposed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tonsai_jax.model.config import ModelConfig

GPT2 = {
    "token_embedding": "transformer.wte.weight",
    "position_embedding": "transformer.wpe.weight",
    "blocks.attention_norm.scale": "transformer.h.{layer}.ln_1.weight",
    "blocks.attention_norm.bias": "transformer.h.{layer}.ln_1.bias",
    "blocks.qkv.kernel": "transformer.h.{layer}.attn.c_attn.weight",
    "blocks.qkv.bias": "transformer.h.{layer}.attn.c_attn.bias",
    "blocks.attention_out.kernel": "transformer.h.{layer}.attn.c_proj.weight",
    "blocks.attention_out.bias": "transformer.h.{layer}.attn.c_proj.bias",
    "blocks.mlp_norm.scale": "transformer.h.{layer}.ln_2.weight",
    "blocks.mlp_norm.bias": "transformer.h.{layer}.ln_2.bias",
    "blocks.mlp_up.kernel": "transformer.h.{layer}.mlp.c_fc.weight",
    "blocks.mlp_up.bias": "transformer.h.{layer}.mlp.c_fc.bias",
    "blocks.mlp_down.kernel": "transformer.h.{layer}.mlp.c_proj.weight",
    "blocks.mlp_down.bias": "transformer.h.{layer}.mlp.c_proj.bias",
    "final_norm.scale": "transformer.ln_f.weight",
    "final_norm.bias": "transformer.ln_f.bias",
}


def named_tensors(config: ModelConfig, params: Mapping[str, Any]) -> Iterator[tuple[str, Any, int | None]]:
    """Each tensor of the Hugging Face model: (its name, our parameter, the layer to take from it or None).

    Nothing is copied or sliced yet. Raises `KeyError` where `params` and the table do not cover each other.
    """
    ours = dict(_flat(params))
    if ours.keys() != GPT2.keys():
        raise KeyError(f"parameters without a name in the table, or the reverse: {sorted(ours.keys() ^ GPT2.keys())}")
    for path, name in GPT2.items():
        if "{layer}" in name:
            for layer in range(config.num_layers):
                yield name.format(layer=layer), ours[path], layer
        else:
            yield name, ours[path], None


def gpt2_config(config: ModelConfig, *, end_of_text_id: int, pad_id: int, dtype: str) -> dict[str, Any]:
    """The content of `config.json` for GPT2LMHeadModel; the vocabulary is the true one, without padding."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.d_ff,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "initializer_range": 0.02,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": pad_id,
        "use_cache": True,
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
