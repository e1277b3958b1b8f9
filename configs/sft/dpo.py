"""Teach a chat model which of two answers people prefer: direct preference optimization (DPO), without a reward model.

    tonsai prepare-sft --pairs --input preferences.jsonl --tokenizer-dir runs/chat/tokenizer --output-dir data/pairs
    python -m tonsai_jax.train --config configs/sft/dpo.py --workdir runs/dpo --config.init_from=runs/chat
    tonsai chat --workdir runs/dpo

`init_from` is a model that already answers: the workdir of a run of configs/sft/full.py, or a chat model of the Hub. It is also
the reference: the run scores all pairs once before its first step, and keeps these numbers in WORKDIR/reference.npz. The length
of a sequence is that of the packed rows. --config.loss.objective=ipo is the variant that stops at a margin (docs/preferences.md).

The learning rate is far below that of SFT, since a few hundred steps can ruin a model that answers well. `margin` in the log is
how much more the model prefers the chosen answers than it did; `accuracy` in how many pairs.

`configs/sft/dpo.py:laptop` is for models of a few million parameters on a CPU, with rows of 256 tokens (--row-tokens 256).

Hardware: as for configs/sft/full.py. Time: not measured yet. Score: docs/preferences.md measures a small example of `:laptop`.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.errors import unknown_name

VARIANTS = ("", "laptop")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, filter(None, VARIANTS))
    config = default_config()
    config.init_from = "runs/chat"
    config.data.dir = "data/pairs"
    config.steps = 0
    config.epochs = 1.0
    config.seq_len = 2048
    config.global_batch_size = 16
    config.micro_batch_size = 4
    config.model.capacity_factor = 0.0  # experts take every token, as they do where the reference is computed
    config.loss.objective = "dpo"
    config.loss.beta = 0.1

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-7
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 10
    config.optimizer.final_ratio = 0.0
    config.optimizer.beta2 = 0.999
    config.optimizer.weight_decay = 0.0

    config.checkpoint.every = 100
    config.eval.every = 50
    config.eval.tokens = 120_000
    config.sample.chat = True
    config.sample.prompts = ("តើអ្នកជានរណា?", "Who are you?")
    config.export = True

    if variant == "laptop":
        config.seq_len = 256
        config.global_batch_size = 8
        config.micro_batch_size = 0
        config.model.dtype = "float32"
        config.model.scan_layers = False
        config.loss.chunk_tokens = 512
        config.eval.every = 100
        config.eval.tokens = 16_000
        config.optimizer.learning_rate = 5e-5
        config.optimizer.warmup_steps = 5
    return config
