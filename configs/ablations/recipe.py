"""The choices of configs/khmer.py, one at a time, on models that a CPU can train; docs/recipe.md has the figures.

    tonsai data --khmer 'km/*.txt' --english 'en/*.txt' --vocab-size 8000 --output-dir data/recipe
    tonsai ablate --config configs/ablations/recipe.py --workdir runs/ablations/recipe --seeds 5 \
        --config.data.dir=data/recipe/tokens --text km=news.km.txt en=news.en.txt

`recipe` is the baseline: 4 layers of width 256, 75 steps of 8,192 tokens, half of them Khmer. Each other variant changes one
thing and keeps the FLOPs per token (`tied` has fewer parameters). AdamW has the learning rate that was the best for GPT-2.
`gpt2_adamw_300` is what the recipe replaces, with four times the steps. It needs token rows with sources named khmer and
english. --text names text of another domain than the training text.

Hardware: 2 CPU cores.
Time: 6 to 8 minutes for 75 steps and their scoring, on one core of a slow machine. Score: docs/recipe.md.
"""

from tonsai_jax.ablation.plan import Ablation
from tonsai_jax.model.presets import preset

GPT2 = {f"model.{key}": value for key, value in preset("gpt2").items()} | {"model.num_heads": 4, "model.d_ff": 1024}
ADAMW = {"optimizer.name": "adamw", "optimizer.learning_rate": 1e-3}
EMBEDDING_RATE = {"optimizer.rate_of": {"token_embedding": 10.0}}  # which the recipe has by optimizer.embedding_rate


def get_ablation() -> Ablation:
    return Ablation(
        base="../small.py:30mb",  # without dropout
        overrides={
            "data.weights": {"khmer": 0.5, "english": 0.5},
            "steps": 75,
            "epochs": 0.0,
            "global_batch_size": 32,
            "model.num_heads": 2,
            "model.d_model": 256,
            "model.d_ff": 680,  # SwiGLU has three matrices and GELU has two: the same FLOPs as with 1024
            "optimizer.learning_rate": 6e-3,
            "optimizer.warmup_steps": 8,
            "log_every": 5,
            "checkpoint.every": 10_000,
            "checkpoint.keep_last": 1,
            "eval.every": 10_000,
            "eval.tokens": 100_000,
            "eval.prompt_suite": False,
            "sample.every": 0,
            "export": False,
        },
        variants={
            "recipe": {},
            "gpt2_adamw_300": {**GPT2, **ADAMW, "steps": 300, "optimizer.warmup_steps": 30},
            "adamw": ADAMW | EMBEDDING_RATE,
            "gpt2": GPT2,
            "embedding_rate_1": {"optimizer.embedding_rate": 1.0},
            "heads_of_64": {"model.num_heads": 4},
            "no_qk_norm": {"model.qk_norm": False},
            "rope_theta_1e6": {"model.rope_theta": 1e6},  # as Qwen3 has it
            "relu2": {"model.mlp": "relu2", "model.d_ff": 1024},
            "tied": {"model.tie_embeddings": True},
            "wsd": {"optimizer.schedule": "wsd", "optimizer.decay_steps": 37, "optimizer.final_ratio": 0.0},
            "cautious_decay": {"optimizer.cautious_weight_decay": True},
            "khmer_last": {
                "stages": (
                    {"steps": 50, "weights": {"khmer": 0.35, "english": 0.65}},
                    {"steps": 25, "weights": {"khmer": 0.8, "english": 0.2}},
                )
            },
        },
    )
