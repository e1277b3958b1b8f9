"""Your own text on a laptop: 4 layers of width 128, context 256; 2.8 M parameters with a vocabulary of 8,000.

    tonsai data --khmer khmer.txt --english english.txt --vocab-size 8000
    python -m tonsai_jax.train --config configs/small.py --workdir runs/mine

The run is as long as the text is worth: 4 epochs for 1 to 4 MB of text, with a dropout of 0.1. Each reading teaches less than the
one before, and so little text is soon learned by heart: in a run of 8 epochs the score of held-out Khmer got worse after the
third (docs/low_data.md says what else helps). More text takes a variant without dropout, so that the run still ends within half
an hour: `configs/small.py:10mb` has 3 epochs (4 to 10 MB), `configs/small.py:30mb` has 1 (10 to 30 MB). The run evaluates,
writes samples, and exports the model at its end.

Hardware: 2 CPU cores. Time: 2 m 40 s for 2 MB of Khmer Wikipedia and English speeches (557 steps); the variants have 2,893 steps
for 10 MB and 3,595 for 29 MB. Memory: 1.3 GiB. Score: 0.876 bits per byte of held-out Khmer, 1.424 of English; see
docs/performance.md.

For one GPU with 8 GB or more:

    python -m tonsai_jax.train --config configs/small.py:gpu --workdir runs/mine

It has 8 layers of width 512, context 512, 33.1 M parameters, and 4 epochs. On a GPU without bfloat16 (T4, V100) add
--config.model.dtype=float32. Time and score on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.errors import unknown_name

EPOCHS = {"": 4, "10mb": 3, "30mb": 1, "gpu": 4}


def get_config(variant: str = "") -> ConfigDict:
    if variant not in EPOCHS:
        raise unknown_name("variant", variant, filter(None, EPOCHS))
    config = default_config()
    config.steps = 0
    config.epochs = float(EPOCHS[variant])
    config.seq_len = 256
    config.global_batch_size = 8

    config.model.context_length = 256
    config.model.num_layers = 4
    config.model.num_heads = 2
    config.model.d_model = 128
    config.model.d_ff = 320
    config.model.dtype = "float32"
    config.model.scan_layers = False

    config.loss.chunk_tokens = 512

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 20

    config.checkpoint.every = 500
    config.eval.every = 500
    config.eval.tokens = 80_000
    config.sample.every = 500
    config.export = True

    if EPOCHS[variant] == 4:
        config.model.dropout = 0.1
    if variant == "gpu":
        config.seq_len = config.model.context_length = 512
        config.global_batch_size = 32
        config.model.num_layers = 8
        config.model.num_heads = 4
        config.model.d_model = 512
        config.model.d_ff = 1344
        config.model.dtype = "bfloat16"
        config.loss.chunk_tokens = 4096
        config.eval.tokens = 500_000
        config.optimizer.learning_rate = 1e-3
    return config
