"""The expert capacity of a small mixture of experts: what dropped choices cost, compared with dropping nothing.

    tonsai data --khmer 'km/*.txt' --english 'en/*.txt' --khmer-weight 0.3 --english-weight 0.7 --vocab-size 4096 \
        --val-ratio 0.015 --output-dir data/capacity
    tonsai ablate --config configs/ablations/capacity.py --workdir runs/ablations/capacity --seeds 3

The share of dropped choices is the metric `train/router/dropped` of each run. A micro-batch has 4,096 tokens here, so the loads
of the experts vary more from batch to batch than in one of 32,768 tokens: a capacity drops more here than it would there.

Hardware: 2 CPU cores.
Time: 50 minutes, on a machine with much other work. Score: docs/models.md.
"""

from tonsai_jax.ablation.plan import Ablation
from tonsai_jax.model.presets import preset


def get_ablation() -> Ablation:
    mixtral = {f"model.{key}": value for key, value in preset("mixtral").items()}
    return Ablation(
        base="../quickstart.py",
        overrides={
            "data.dir": "data/capacity/tokens",
            "data.sample_corpus": False,
            **mixtral,
            "model.tie_embeddings": True,
            "model.num_layers": 3,
            "model.num_kv_heads": 2,
            "model.d_ff": 128,
            "model.rope_theta": 10_000.0,
            "model.router_temperature": 1.2,
            "steps": 200,
            "global_batch_size": 16,
            "optimizer.warmup_steps": 20,
            "log_every": 5,
            "checkpoint.every": 200,
            "checkpoint.keep_last": 1,
            "eval.every": 200,
            "sample.every": 0,
            "export": False,
        },
        variants={
            "capacity_1.25": {},
            "capacity_1.1": {"model.capacity_factor": 1.1},
            "capacity_1.0": {"model.capacity_factor": 1.0},
            "nothing_dropped": {"model.capacity_factor": 0.0},
        },
    )
