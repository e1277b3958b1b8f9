"""A first model of stories in Khmer and English, on a laptop, without any data of your own.

    python -m tonsai_jax.train --config configs/quickstart.py

It writes its own corpus, trains a tokenizer and a model of 1.3 M parameters, evaluates and exports it, and writes a story.

Hardware: 2 CPU cores. Time: 2.5 to 3 minutes with the installation. Memory: 1.4 GB.
Score: 0.050 bits per byte of held-out Khmer, 0.118 of English.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dir = "data/quickstart"
    config.data.sample_corpus = True
    config.steps = 700
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

    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 40

    config.checkpoint.every = 350
    config.eval.every = 350
    config.eval.prompt_suite = False
    config.sample.every = 350
    config.sample.prompts = (
        "កាលពីព្រេងនាយ មានក្មេងស្រីម្នាក់ឈ្មោះបុប្ផា។",
        "Once upon a time, there was a girl named Lina.",
    )
    config.export = True
    return config
