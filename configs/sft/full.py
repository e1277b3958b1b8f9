"""Teach a base model to answer: all parameters, on the answers of conversations only (SFT).

    tonsai prepare-sft --khmer khmer.jsonl --english english.jsonl --tokenizer-dir hf:ORG/NAME --output-dir data/chat
    python -m tonsai_jax.train --config configs/sft/full.py --workdir runs/chat --config.init_from=hf:ORG/NAME
    tonsai chat --workdir runs/chat

`init_from` is a model of the Hub, a folder in its format, or the workdir of a run; the rows are made with its tokenizer, which
must have a chat template (docs/instruct.md). The length of a sequence is that of the packed rows, 2048 tokens.
`configs/sft/full.py:laptop` is for models of a few million parameters on a CPU, with rows of 256 tokens (--row-tokens 256).

Hardware: as for pretraining a model of the same size; configs/sft/lora.py needs less. Which, also before there are rows:

    tonsai estimate --config configs/sft/full.py --config.init_from=hf:ORG/NAME --gpu h100 --tokens 5e6

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
    config.init_from = "runs/base"  # set it to your model: without one, random weights would learn from answers alone
    config.data.dir = "data/chat"
    config.steps = 0
    config.epochs = 3.0
    config.seq_len = 2048
    config.global_batch_size = 32
    config.micro_batch_size = 4
    config.model.document_mask = True  # also for plain text, where it is mixed in

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-5
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 20
    config.optimizer.final_ratio = 0.0
    config.optimizer.weight_decay = 0.0

    config.checkpoint.every = 200
    config.eval.every = 100
    config.eval.tokens = 500_000
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
        config.eval.tokens = 16_000
        config.optimizer.learning_rate = 1e-3
        config.optimizer.warmup_steps = 5
    return config
