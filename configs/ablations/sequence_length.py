"""Short sequences first, for GPT-2 small over 1 B tokens: 256, then 1024, against 1024 from the beginning.

    python scripts/ablate.py --config configs/ablations/sequence_length.py --workdir runs/ablations/sequence_length --seeds 3 \
        --config.data.dir=data/tokens

A step has the same number of tokens throughout, so all variants read the same amount; look at the loss against time. Bits
per byte are at the length of the last stage, 1024 in all.

Hardware: one GPU of 80 GB.
Time: not measured yet. Score: not measured yet.
"""

from tonsai_jax.ablation.plan import Ablation

SHORT = {"seq_len": 256, "global_batch_size": 2048}


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
            "long": {},
            "short_half": {"stages": ({"steps": 1000, **SHORT}, {"steps": 1000})},
            "short_most": {"stages": ({"steps": 1800, **SHORT}, {"steps": 200})},
        },
    )
