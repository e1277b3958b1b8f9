"""The family of models that the planner chooses from: one shape for each width, so that a size is one number."""

from typing import Any

from tonsai_jax.model.presets import preset

HEAD_SIZE = 128
SMALL_HEAD_SIZE = 64  # of widths that are too small for two heads of 128, or no multiple of 128
LEAST_LAYERS = 4
WIDTHS = (64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072)


def shape_of_width(width: int) -> dict[str, Any]:
    """The keys of `config.model` of the family's model of this width, a multiple of 64.

    It is a Qwen3 (RMSNorm, RoPE, SwiGLU, normalized queries and keys; docs/recipe.md). It has a layer for each 64 of its
    width, but at least 4. SwiGLU has three matrices where GELU has two, so its inner width is 8/3 of the width, rounded to a
    multiple of 64: then a layer has about 12 width^2 parameters, as in GPT-2 (arXiv:2002.05202).
    """
    head_size = SMALL_HEAD_SIZE if width < 2 * HEAD_SIZE or width % HEAD_SIZE else HEAD_SIZE
    return preset("qwen3") | {
        "rope_theta": 10_000.0,
        "num_layers": max(LEAST_LAYERS, width // 64),
        "num_heads": width // head_size,
        "num_kv_heads": 0,
        "head_size": head_size,
        "d_model": width,
        "d_ff": 64 * round(width * 8 / 3 / 64),
    }
