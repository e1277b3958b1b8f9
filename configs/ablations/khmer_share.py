"""How much Khmer in the mix, for GPT-2 small over 1 B tokens: what a larger share gains in Khmer, and costs in English.

    python scripts/ablate.py --config configs/ablations/khmer_share.py --workdir runs/ablations/khmer_share --seeds 3 \
        --config.data.dir=data/tokens

The rows are those of `scripts/prepare_dataset.py --khmer ... --english ...`: sources named khmer and english. Compare the
bits per byte of each language; the loss is of another mix in each variant and tells nothing.

Hardware: one GPU of 80 GB.
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
