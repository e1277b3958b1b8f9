"""A cosine schedule compared with WSD (warm-up, stable, decay), for GPT-2 small over 1 B tokens.

    tonsai ablate --config configs/ablations/schedule.py --workdir runs/ablations/schedule --seeds 3

A WSD run can be extended from any step before its decay; the question is what that costs. Both end at a tenth of the peak.

Hardware: one GPU with 80 GB.
Time: not measured yet. Score: not measured yet.
"""

from tonsai_jax.ablation.plan import Ablation


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
            "cosine": {},
            "wsd_10": {"optimizer.schedule": "wsd", "optimizer.decay_steps": 200},
            "wsd_20": {"optimizer.schedule": "wsd", "optimizer.decay_steps": 400},
        },
    )
