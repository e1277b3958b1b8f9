"""Continue from an open model: teach it Khmer, or another language, and see what it forgets.

    tonsai data --khmer khmer.txt --english english.txt --khmer-weight 0.75 --english-weight 0.25 --tokenizer-dir hf:ORG/NAME
    python -m tonsai_jax.train --config configs/continue_from_hf.py --workdir runs/continued --config.init_from=hf:ORG/NAME

`init_from` is a model of the Hugging Face Hub (`hf:HuggingFaceTB/SmolLM2-135M`), a folder in its format, or the workdir of a run:
GPT-2, Llama, Qwen3, Mixtral and Gemma 3 (docs/adapt.md). The model keeps its tokenizer, or gets a new vocabulary first.

The learning rate rises again to a third of a usual peak and falls to nothing. A quarter of the tokens is the model's old language
(replay), so that it forgets less of it: the weights of `tonsai data`, or --config.data.weights. The run measures bits per byte
before its first step, and at its end prints both values of every language.

`configs/continue_from_hf.py:laptop` is for models of a few million parameters on a CPU:

    python -m tonsai_jax.train --config configs/continue_from_hf.py:laptop --workdir runs/continued --config.init_from=FOLDER

Hardware: as for a run from scratch of the same size; `tonsai estimate` says which.
Time: not measured yet. Score: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.errors import unknown_name

VARIANTS = ("", "laptop")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, filter(None, VARIANTS))
    config = default_config()
    config.steps = 0
    config.epochs = 1.0
    config.seq_len = 1024
    config.global_batch_size = 64
    config.micro_batch_size = 8

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 50
    config.optimizer.final_ratio = 0.0

    config.checkpoint.every = 500
    config.eval.every = 500
    config.sample.every = 500
    config.export = True

    if variant == "laptop":
        config.seq_len = 256
        config.global_batch_size = 8
        config.micro_batch_size = 0
        config.model.dtype = "float32"
        config.model.scan_layers = False
        config.loss.chunk_tokens = 512
        config.eval.tokens = 80_000
        config.optimizer.warmup_steps = 20
    return config
