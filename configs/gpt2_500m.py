"""The recipe's GPT-2: 24 layers, width 1536, 24 heads, inner width 6144, context 2048, vocabulary 50k.

    python -m tonsai_jax.train --config configs/gpt2_500m.py --workdir runs/gpt2
    python -m tonsai_jax.train --config configs/gpt2_500m.py:exact --workdir runs/gpt2_exact
    python -m tonsai_jax.train --config configs/gpt2_500m.py:muon --workdir runs/gpt2_muon

The recipe calls this model "500M", but it has 0.76 B parameters (759.9 M). The variant `gpt2_500m.py:exact` has 0.50 B (499.5 M):
22 layers, width 1280, 20 heads, inner width 5120. The variant `gpt2_500m.py:muon` trains the first one with Muon, at the same
learning rate (docs/optimizers.md says why). configs/khmer.py is what we would train instead.

To see on a CPU that it runs, add --config.global_batch_size=1 --config.seq_len=128 --config.steps=2
--config.optimizer.warmup_steps=0.

Hardware: one GPU with 80 GB, or 8 GPUs (add --config.mesh.fsdp=8 to split the parameters over them). 10.5 B tokens.
Time: not measured yet. Score: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.errors import unknown_name
from tonsai_jax.model.presets import preset

VARIANTS = ("", "exact", "muon")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, filter(None, VARIANTS))
    config = default_config()
    config.steps = 20_000
    config.seq_len = 2048
    config.global_batch_size = 256
    config.micro_batch_size = 16

    config.model.update(preset("gpt2"))
    config.model.vocab_size = 50_000
    config.model.context_length = 2048
    config.model.num_layers = 24
    config.model.num_heads = 24
    config.model.d_model = 1536
    config.model.d_ff = 6144
    config.model.scan_layers = False

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 700

    config.checkpoint.every = 1000
    config.checkpoint.keep_best = 1
    config.eval.every = 1000
    config.sample.every = 1000

    if variant == "exact":
        config.model.num_layers = 22
        config.model.num_heads = 20
        config.model.d_model = 1280
        config.model.d_ff = 5120
    elif variant == "muon":
        config.optimizer.name = "muon"
    return config
