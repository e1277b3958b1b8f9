"""The share of Khmer in the mixture, for GPT-2 small over 1 B tokens: what more Khmer gains in Khmer and costs in English.

    tonsai ablate --config configs/ablations/khmer_share.py --workdir runs/ablations/khmer_share --seeds 3

It needs token rows with sources named khmer and english, as `tonsai prepare --khmer ... --english ...` makes them.
Compare the bits per byte of each language. The losses cannot be compared, because each variant has another mixture.

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
            "khmer_60": {"data.weights": {"khmer": 0.6, "english": 0.4}},
            "khmer_30": {"data.weights": {"khmer": 0.3, "english": 0.7}},
            "khmer_90": {"data.weights": {"khmer": 0.9, "english": 0.1}},
        },
    )
