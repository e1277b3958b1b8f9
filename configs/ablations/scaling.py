"""Size, length and mix: the runs that the scaling law of `tonsai plan` is fitted to, and a larger size that tests it.

    tonsai data --khmer 'km/*.txt' --english 'en/*.txt' --vocab-size 8000 --val-ratio 0.02 --output-dir data/scaling
    tonsai ablate --config configs/ablations/scaling.py --workdir runs/ablations/scaling --config.data.dir=data/scaling/tokens
    tonsai plan --measured runs/ablations/scaling --save-fit fit.json

Three sizes (0.2 M, 0.8 M and 1.8 M parameters in the layers), three lengths (0.5 M, 1.5 M and 4.6 M tokens) and three shares of
Khmer, each with each: 27 runs that are fitted. Each length is a run of its own, because the learning rate must fall to its end
before the score means something. The variants that begin with "held_out" have a size that is not fitted, 3.1 M: the fit reports
how well it predicts them. It needs token rows with sources named khmer and english.

Hardware: 2 CPU cores.
Time: not measured yet. Score: docs/plan.md.
"""

from typing import Any

from tonsai_jax.ablation.plan import Ablation
from tonsai_jax.scaling.shape import shape_of_width

STEPS = (250, 750, 2250)  # of 8 sequences of 256 tokens
KHMER_SHARES = (0.2, 0.5, 0.8)
WIDTHS = (64, 128, 192)
HELD_OUT_WIDTH = 256


def variant(width: int, steps: int, khmer_share: float) -> dict[str, Any]:
    model = {f"model.{key}": value for key, value in shape_of_width(width).items()}
    weights = {"khmer": khmer_share, "english": round(1 - khmer_share, 2)}
    return {**model, "steps": steps, "data.weights": weights, "optimizer.warmup_steps": steps // 20}


def get_ablation() -> Ablation:
    fitted = {
        f"width_{width}_steps_{steps}_khmer_{100 * share:.0f}": variant(width, steps, share)
        for width in WIDTHS
        for steps in STEPS
        for share in KHMER_SHARES
    }
    held_out = {
        f"held_out_width_{HELD_OUT_WIDTH}_steps_{steps}_khmer_{100 * share:.0f}": variant(HELD_OUT_WIDTH, steps, share)
        for steps, share in ((750, 0.2), (750, 0.8), (2250, 0.5))
    }
    return Ablation(
        base="../small.py",
        overrides={
            "epochs": 0.0,
            "checkpoint.every": 10_000,
            "checkpoint.keep_last": 1,
            "eval.every": 10_000,
            "eval.tokens": 200_000,
            "sample.every": 0,
            "export": False,
        },
        variants=fitted | held_out,
    )
