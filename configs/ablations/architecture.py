"""GPT-2 small with single parts of Llama, and with all of them together, over 1 B tokens.

    tonsai ablate --config configs/ablations/architecture.py --workdir runs/ablations/architecture --seeds 3

SwiGLU has three matrices and GELU has two, so SwiGLU gets two thirds of the inner width: the same number of parameters.

Hardware: one GPU with 80 GB.
Time: not measured yet. Score: not measured yet.
"""

from tonsai_jax.ablation.plan import Ablation

ROPE = {"model.position": "rope"}
RMSNORM = {"model.norm": "rmsnorm"}
SWIGLU = {"model.mlp": "swiglu", "model.d_ff": 2048}


def get_ablation() -> Ablation:
    return Ablation(
        base="../gpt2_124m.py",
        overrides={
            "steps": 2000,
            "optimizer.warmup_steps": 200,
            "checkpoint.every": 500,
            "checkpoint.keep_last": 1,
            "checkpoint.keep_best": 0,
            "sample.every": 0,
        },
        variants={
            "gpt2": {},
            "rope": ROPE,
            "rmsnorm": RMSNORM,
            "swiglu": SWIGLU,
            "all": {**ROPE, **RMSNORM, **SWIGLU, "model.bias": False},
        },
    )
