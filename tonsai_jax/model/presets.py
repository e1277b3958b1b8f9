"""Switches of `ModelConfig` by the name of the Hugging Face family that they make."""

from typing import Any

from tonsai_jax.errors import UserError, did_you_mean

_LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "mlp": "swiglu",
    "bias": False,
    "tie_embeddings": False,
    "qk_norm": False,
    "num_experts": 0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "norm": "layernorm",
        "position": "learned",
        "mlp": "gelu",
        "bias": True,
        "tie_embeddings": True,
        "qk_norm": False,
        "num_experts": 0,
    },
    "llama": _LLAMA,
    "qwen3": _LLAMA | {"qk_norm": True, "rope_theta": 1_000_000.0, "norm_epsilon": 1e-6},
    "mixtral": _LLAMA | {"num_experts": 8, "experts_per_token": 2, "rope_theta": 1_000_000.0},
}


def preset(family: str) -> dict[str, Any]:
    """What makes a model one of `family`, for `config.model.update(preset("llama"))`; sizes are left alone.

    Raises `UserError` where the family is not known.
    """
    if family not in PRESETS:
        raise UserError(f"preset {family!r} is not known{did_you_mean(family, PRESETS)}")
    return dict(PRESETS[family])
