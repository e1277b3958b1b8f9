"""The recipe's mixture of experts: 24 layers, width 896, 8 experts with 2 per token, vocabulary 96k, context 8k.

    python -m tonsai_jax.train --config configs/moe_1b.py --workdir runs/moe
    python -m tonsai_jax.train --config configs/moe_1b.py:mixture --workdir runs/moe
    python -m tonsai_jax.train --config configs/moe_1b.py:muon --workdir runs/moe_muon

It has 1537.5 M parameters, of which 546.6 M work for each token, and is exported as Mixtral. The run has the three phases of
the recipe. Phase A trains on the whole mixture while the context grows from 2k to 4k to 8k tokens. Phase B is mostly the target
language, phase C is instructions, of which only the answers are learned (docs/instruct.md). A step has 524,288 tokens. PHASE_B
and PHASE_C give the weights of the sources `khmer`, `english` and `instructions`; change them to the names of your sources.
This adds the instructions to the token rows:

    tonsai prepare-sft --input instructions.jsonl --name instructions --add-to data/tokens

The variant `moe_1b.py:mixture` uses the weights of the token rows in all phases. `moe_1b.py:muon` trains with Muon, at the same
learning rate (docs/optimizers.md says why).

Hardware: one GPU with 80 GB, or 8 GPUs (--config.mesh.fsdp=8, or --config.mesh.expert=8 to spread the experts). 21 B tokens.
Time: not measured yet. Score: not measured yet.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config
from tonsai_jax.errors import unknown_name
from tonsai_jax.model.presets import preset

PHASE_B = {"khmer": 0.8, "english": 0.2}
PHASE_C = {"instructions": 0.9, "khmer": 0.1}


VARIANTS = ("", "mixture", "muon")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, filter(None, VARIANTS))
    config = default_config()
    config.seq_len = 2048
    config.global_batch_size = 256
    config.micro_batch_size = 16
    context_4k = {"seq_len": 4096, "global_batch_size": 128}
    context_8k = {"seq_len": 8192, "global_batch_size": 64}
    config.stages = (
        {"steps": 24_000},
        {"steps": 6_000, **context_4k},
        {"steps": 2_000, **context_8k},
        {"steps": 7_000, **context_8k, "weights": PHASE_B},
        {"steps": 1_000, **context_8k, "weights": PHASE_C},
    )

    config.model.update(preset("mixtral"))
    config.model.vocab_size = 96_000
    config.model.context_length = 8192
    config.model.num_layers = 24
    config.model.d_model = 896
    config.model.num_heads = 14
    config.model.num_kv_heads = 2
    config.model.d_ff = 2560
    config.model.rope_theta = 10_000.0
    config.model.rope_scaling = "yarn"
    config.model.rope_factor = 4.0  # 2048 -> 8192
    config.model.router_temperature = 1.2
    # 1.25 computes 16 more TFLOP a step of 32,768 tokens, of empty slots (docs/models.md).
    config.model.capacity_factor = 1.0
    config.model.scan_layers = False
    config.loss.load_balance = 0.01
    config.loss.router_z = 0.001

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 800  # 2 %

    config.checkpoint.every = 1000
    config.checkpoint.keep_best = 1
    config.eval.every = 1000
    config.sample.every = 1000

    if variant == "mixture":
        config.stages = tuple(
            {key: value for key, value in stage.items() if key != "weights"} for stage in config.stages
        )
    elif variant == "muon":
        config.optimizer.name = "muon"
    return config
