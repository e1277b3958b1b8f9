"""Short sequences first, for GPT-2 small over 1 B tokens: 256 tokens, then 1024, compared with 1024 in all steps.

    tonsai ablate --config configs/ablations/sequence_length.py --workdir runs/ablations/sequence_length --seeds 3

All steps have the same number of tokens, so all variants train on the same amount; compare the losses over time. Bits per
byte are measured at the length of the last stage, which is 1024 in all variants.

Hardware: one GPU with 80 GB.
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
