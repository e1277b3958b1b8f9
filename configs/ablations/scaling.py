"""Size, length and mix: the runs that the scaling law of `tonsai plan` is fitted to, and a larger size that tests it.

    tonsai data --khmer 'km/*.txt' --english 'en/*.txt' --vocab-size 8000 --val-ratio 0.02 --output-dir data/scaling
    tonsai ablate --config configs/ablations/scaling.py --workdir runs/ablations/scaling --config.data.dir=data/scaling/tokens
    tonsai plan --measured runs/ablations/scaling --save-fit fit.json

Three sizes (0.2 M, 0.8 M and 1.8 M parameters in the layers) times three lengths (0.8 M, 2.5 M and 4.9 M tokens), with half of
the tokens Khmer; a fifth and four fifths of Khmer for each size at the middle length, and a fifth for the middle size at the
greatest. Each length is a run of its own, because the learning rate must fall to its end before the score means something. 3.5
MB of Khmer are read 1.2 to 7 times, so that the law learns when more readings make the score worse. A fourth, larger size (3.2
M) at the middle length tests the law: `tonsai plan` predicts each size from the others, then fits all. It needs token rows with
sources named khmer and english.

Hardware: 2 CPU cores.
Time: 2.8 hours for 3.5 MB of Khmer and 25 MB of English, each run on one core; two at a time take half. Score: docs/plan.md.
"""

from typing import Any

from tonsai_jax.ablation.plan import Ablation
from tonsai_jax.scaling.shape import shape_of_width

STEPS = (400, 1200, 2400)  # of 8 sequences of 256 tokens
KHMER_SHARES = (0.2, 0.5, 0.8)
WIDTHS = (64, 128, 192)
TESTED_WIDTH = 256
# (width, steps, share of Khmer)
RUNS = (
    *((width, steps, 0.5) for width in WIDTHS for steps in STEPS),
    *((width, 1200, share) for width in WIDTHS for share in (0.2, 0.8)),
    (128, 2400, 0.2),
    *((TESTED_WIDTH, 1200, share) for share in KHMER_SHARES),
)


def variant(width: int, steps: int, khmer_share: float) -> dict[str, Any]:
    model = {f"model.{key}": value for key, value in shape_of_width(width).items()}
    weights = {"khmer": khmer_share, "english": round(1 - khmer_share, 2)}
    return {**model, "steps": steps, "data.weights": weights}


def get_ablation() -> Ablation:
    return Ablation(
        base="../small.py:30mb",  # without dropout
        overrides={
            "epochs": 0.0,
            "checkpoint.every": 10_000,
            "checkpoint.keep_last": 1,
            "eval.every": 10_000,
            "eval.tokens": 200_000,
            "sample.every": 0,
            "export": False,
        },
        variants={
            f"width_{width}_steps_{steps}_khmer_{100 * share:.0f}": variant(width, steps, share)
            for width, steps, share in RUNS
        },
    )
