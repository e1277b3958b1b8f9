"""The quickstart's model learns to answer questions about stories, on a laptop, without any data of your own.

    python -m tonsai_jax.train --config configs/quickstart.py
    python -m tonsai_jax.train --config configs/sft/quickstart.py
    tonsai chat --workdir runs/sft_quickstart --temperature 0 --max-new-tokens 32

It writes conversations about stories in Khmer and English, continues from runs/quickstart on their answers, evaluates on
stories that are held out, exports the model, and answers a question in each language.

Hardware: 2 CPU cores. Time: 2 m 37 s, data included. Memory: 1 GB.
Score: on held-out stories 99 % of the answers are exact in Khmer and in English (scripts/bench/quick_answers.py); 0.001 and 0.002
bits per byte of an answer. With 450 steps English reaches only 67 %.
"""

from ml_collections import ConfigDict

from tonsai_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.init_from = "runs/quickstart"
    config.data.dir = "data/sft_quickstart"
    config.data.sample_questions = True
    config.steps = 900
    config.seq_len = 256
    config.global_batch_size = 8

    config.model.dtype = "float32"
    config.model.scan_layers = False

    config.loss.chunk_tokens = 512

    config.optimizer.name = "muon"  # learned to copy in fewer steps than AdamW
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 20

    config.checkpoint.every = 300
    config.eval.every = 300
    config.eval.prompt_suite = False
    config.sample.chat = True
    config.sample.temperature = 0.0
    config.sample.max_new_tokens = 32
    config.sample.prompts = (  # about held-out stories
        "នៅក្បែរភ្នំ មានក្មេងស្រីតូចម្នាក់ឈ្មោះកល្យាណ។ ព្រឹកមួយ កល្យាណដើរលេងក្នុងសួន។ នាងឃើញកូនសេកមួយក្បាលធ្លាក់ពីសំបុក។ តើកល្យាណឃើញអ្វី?",
        "Once upon a time, a brave boy named Sam lived by the sea. One day, Sam was walking in the garden. "
        "He saw a baby parrot that had fallen from its nest. What did Sam find?",
    )
    config.export = True
    return config
