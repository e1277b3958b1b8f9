"""What we recommend for Khmer and English from scratch, in three sizes. docs/recipe.md has the figures of each choice.

    tonsai data --khmer 'khmer/*.txt' --english 'english/*.txt' --vocab-size 32000
    python -m tonsai_jax.train --config configs/khmer.py --workdir runs/khmer
    python -m tonsai_jax.train --config configs/khmer.py:350m --workdir runs/khmer_350m
    python -m tonsai_jax.train --config configs/khmer.py:800m --workdir runs/khmer_800m

| variant | parameters | layers | width | heads | tokens |
| --- | --- | --- | --- | --- | --- |
| (none) | 134.1 M | 12 | 768 | 6 | 2.2 B |
| `350m` | 369.2 M | 24 | 1024 | 8 | 6.8 B |
| `800m` | 777.9 M | 24 | 1536 | 12 | 14.6 B |

It is a Qwen3, trained with Muon, and is exported as one. The choices were measured on models of 7 M
parameters; the learning rate of these sizes is what a model of this size has in arXiv:2502.16982, and is not measured here.
20 tokens for each parameter but those of the input embedding (arXiv:2203.15556) are more than most people have of Khmer:
`tonsai plan` says what your text is enough for, and which mix.

To see on a CPU that it runs, add --config.global_batch_size=1 --config.seq_len=128 --config.steps=2 --config.tokens=0
--config.optimizer.warmup_steps=0.

Hardware: one GPU with 80 GB, or 8 (add --config.mesh.fsdp=8 to split the parameters over them).
Time: not measured yet. Score: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.errors import unknown_name

VARIANTS = ("", "350m", "800m")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, filter(None, VARIANTS))
    config = default_config()
    config.steps = 0
    config.tokens = 2.2e9
    config.seq_len = 2048
    config.global_batch_size = 128
    config.micro_batch_size = 32

    config.model.context_length = 2048
    config.model.num_layers = 12
    config.model.num_heads = 6
    config.model.d_model = 768
    config.model.d_ff = 2048
    config.model.scan_layers = False

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200

    config.checkpoint.every = 1000
    config.checkpoint.keep_best = 1
    config.eval.every = 1000
    config.sample.every = 1000
    config.export = True

    if variant == "350m":
        config.tokens = 6.8e9
        config.global_batch_size = 256
        config.micro_batch_size = 16
        config.model.num_layers = 24
        config.model.num_heads = 8
        config.model.d_model = 1024
        config.model.d_ff = 2752
    elif variant == "800m":
        config.tokens = 14.6e9
        config.global_batch_size = 256
        config.micro_batch_size = 16
        config.model.num_layers = 24
        config.model.num_heads = 12
        config.model.d_model = 1536
        config.model.d_ff = 4096
    return config
