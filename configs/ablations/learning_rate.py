"""The peak learning rate of the quickstart, compared with half and with twice that rate.

    tonsai ablate --config configs/ablations/learning_rate.py --workdir runs/ablations/learning_rate --seeds 3

Hardware: 2 CPU cores.
Time: 8 m 18 s on one core. Score: docs/ablations.md.
"""

from tonsai_jax.ablation.plan import Ablation


def get_ablation() -> Ablation:
    return Ablation(
        base="../quickstart.py",
        overrides={
            "steps": 150,
            "optimizer.warmup_steps": 15,
            "log_every": 2,
            "checkpoint.every": 150,
            "checkpoint.keep_last": 1,
            "eval.every": 150,
            "sample.every": 0,
            "sample.max_new_tokens": 8,
            "export": False,
        },
        variants={
            "lr_1e-2": {},
            "lr_5e-3": {"optimizer.learning_rate": 5e-3},
            "lr_2e-2": {"optimizer.learning_rate": 2e-2},
        },
    )
