"""GPT-2 small: 12 layers, width 768, context 1024; 124 M parameters with a vocabulary of 50k.

    python -m tonsai_jax.train --config configs/gpt2_124m.py --workdir runs/gpt2_124m

Hardware: one GPU with 24 GB or more; on 8 GPUs no key needs to change. 10 B tokens.
Time: not measured yet. Score: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.model.presets import preset


def get_config() -> ConfigDict:
    config = default_config()
    config.steps = 20_000
    config.seq_len = 1024
    config.global_batch_size = 512
    config.micro_batch_size = 32

    config.model.update(preset("gpt2"))
    config.model.vocab_size = 50_000
    config.model.context_length = 1024
    config.model.num_layers = 12
    config.model.num_heads = 12
    config.model.d_model = 768
    config.model.d_ff = 3072
    config.model.scan_layers = False

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 700

    config.checkpoint.every = 1000
    config.checkpoint.keep_best = 1
    config.eval.every = 1000
    config.sample.every = 1000
    return config
