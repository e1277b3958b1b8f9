"""A small model of English children's stories (TinyStories, arXiv:2305.07759): 8 layers, width 512, context 512.

    tonsai prepare --config configs/data/tinystories.yaml --output-dir data/tinystories
    tonsai train-tokenizer --dataset-dir data/tinystories --vocab-size 10000 --output-dir artifacts/tinystories
    tonsai tokenize --dataset-dir data/tinystories --tokenizer-dir artifacts/tinystories \
        --val-ratio 0.005 --output-dir data/tinystories_tokens
    python -m tonsai_jax.train --config configs/tinystories.py

35.2 M parameters, 0.98 B tokens. Hardware: one GPU with 16 GB or more.
Time: not measured yet. Score: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dir = "data/tinystories_tokens"
    config.steps = 15_000
    config.seq_len = 512
    config.global_batch_size = 128

    config.model.context_length = 512
    config.model.num_layers = 8
    config.model.num_heads = 4
    config.model.d_model = 512
    config.model.d_ff = 1344

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 500

    config.checkpoint.every = 1000
    config.eval.every = 1000
    config.eval.prompt_suite = False
    config.sample.every = 1000
    config.sample.prompts = ("Once upon a time", "Lily and Tom went to the park.")
    return config
