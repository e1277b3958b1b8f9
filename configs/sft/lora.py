"""Teach a base model to answer with LoRA: a few parameters next to the model are trained, the model itself stays as it is.

    tonsai prepare-sft --khmer khmer.jsonl --english english.jsonl --tokenizer-dir hf:ORG/NAME --output-dir data/chat
    python -m tonsai_jax.train --config configs/sft/lora.py --workdir runs/chat --config.init_from=hf:ORG/NAME
    tonsai chat --workdir runs/chat
    tonsai export --workdir runs/chat --output-dir export/chat              # one model
    tonsai export --workdir runs/chat --output-dir export/adapter --adapter   # only what was trained, for peft

The learning rate is ten times that of configs/sft/full.py (three times in `:laptop`), as adapters take it. A checkpoint holds
the adapters alone; the run needs the model of `init_from` again when it resumes. Embeddings are not trained: a base that never
saw the tokens of its chat template learns better with configs/sft/full.py. `configs/sft/lora.py:laptop` is for models of a few
million parameters on a CPU, with rows of 256 tokens (--row-tokens 256).

Hardware: as configs/sft/full.py, but without gradients and moments of the model. How much that is, also before there are rows:

    tonsai estimate --config configs/sft/lora.py --config.init_from=hf:ORG/NAME --gpu h100 --tokens 5e6

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

    config.lora.rank = 16
    config.lora.alpha = 32.0

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-4
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
        config.optimizer.learning_rate = 3e-3
        config.optimizer.warmup_steps = 5
    return config
