"""Tiny Shakespeare, a classic first text: a local file of 1.1 MB, and a model of 2.2 M parameters.

    tonsai prepare --config configs/data/shakespeare.yaml --output-dir data/shakespeare
    tonsai train-tokenizer --dataset-dir data/shakespeare --vocab-size 1024 --output-dir artifacts/shakespeare
    tonsai tokenize --dataset-dir data/shakespeare --tokenizer-dir artifacts/shakespeare \
        --val-ratio 0.1 --output-dir data/shakespeare_tokens
    python -m tonsai_jax.train --config configs/shakespeare.py

configs/data/shakespeare.yaml says where to download the file. Hardware: 2 CPU cores.
Time: not measured yet. Score: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dir = "data/shakespeare_tokens"
    config.steps = 500
    config.seq_len = 256
    config.global_batch_size = 16

    config.model.context_length = 256
    config.model.num_layers = 4
    config.model.num_heads = 3
    config.model.d_model = 192
    config.model.d_ff = 512
    config.model.dtype = "float32"
    config.model.scan_layers = False

    config.loss.chunk_tokens = 512

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 50

    config.checkpoint.every = 250
    config.eval.every = 250
    config.eval.tokens = 80_000
    config.eval.prompt_suite = False
    config.sample.every = 250
    config.sample.prompts = ("ROMEO:", "First Citizen:\n")
    return config
