"""A small mixture of experts for one GPU with 16 GB: 12 layers, width 512, 8 experts with 2 per token, context 2k.

    python -m tonsai_jax.train --config configs/moe_small.py --workdir runs/moe_small
    python -m tonsai_jax.train --config configs/moe_small.py:t4 --workdir runs/moe_small

With a tokenizer of `--vocab-size 32000` it has 175.3 M parameters, of which 62.1 M work for each token. The variant
`moe_small.py:t4` computes in float32, for the T4 and other GPUs without bfloat16. Their float16 is faster but not supported, so
expect only a part of their peak speed.

To see on a CPU that it learns, add --config.data.dir=data/quickstart --config.data.sample_corpus=True
--config.global_batch_size=4 --config.seq_len=256 --config.steps=50 --config.optimizer.warmup_steps=5.

Hardware: one GPU with 16 GB. 1.3 B tokens. Time: not measured yet. Score: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError
from tonsai_jax.model.presets import preset


def get_config(variant: str = "") -> ConfigDict:
    config = default_config()
    config.steps = 20_000
    config.seq_len = 2048
    config.global_batch_size = 32
    config.micro_batch_size = 4

    config.model.update(preset("mixtral"))
    config.model.tie_embeddings = True
    config.model.context_length = 2048
    config.model.num_layers = 12
    config.model.d_model = 512
    config.model.num_heads = 8
    config.model.num_kv_heads = 2
    config.model.d_ff = 1024
    config.model.rope_theta = 10_000.0
    config.model.router_temperature = 1.2
    config.model.scan_layers = False

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 400

    config.checkpoint.keep_best = 1
    config.sample.every = 1000

    if variant == "t4":
        config.model.dtype = "float32"
    elif variant:
        raise UserError(f"moe_small.py:{variant}: no such variant; use moe_small.py:t4")
    return config
