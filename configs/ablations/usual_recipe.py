"""The usual recipe (GPT-2's tokenizer, model and optimizer) compared with ours, at equal compute and on equal text.

    tonsai prepare --khmer 'km/*.txt' --english 'en/*.txt' --output-dir data/documents
    tonsai ablate --config configs/ablations/usual_recipe.py --workdir runs/ablations/usual_recipe --seeds 5 \
        --documents data/documents --text km=news.km.txt en=news.en.txt

`usual` is what most projects do: a byte-level BPE with GPT-2's pattern, trained on all the text without balancing the languages,
a GPT-2, and AdamW. `ours` has the same number of steps, tokens and FLOPs per token. `ours_equal_data` reads each language as many
times as `usual` does; our tokenizer makes fewer tokens of the same text, so it takes fewer steps. In `ours_tokenizer` only the
tokenizer is ours. --text names text of another domain, such as news where the training text has none.

75 steps are 614,400 tokens, half of them Khmer: `ours` reads 2.3 MB of Khmer 1.3 times. Longer runs (--config.steps=300
--config.optimizer.warmup_steps=30, with another --workdir) read it 5 times; then `ours` memorizes it, and its lead shrinks. With
more text, raise the steps.

Hardware: 2 CPU cores.
Time: 5 to 8 minutes a run with its scoring, on one core. Score: docs/recipe.md.
"""

from tonsai_jax.ablation.plan import Ablation
from tonsai_jax.model.presets import preset

USUAL = {
    **{f"model.{key}": value for key, value in preset("gpt2").items()},
    "model.num_heads": 4,
    "model.d_ff": 1024,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-3,
}


def get_ablation() -> Ablation:
    return Ablation(
        base="../small.py:30mb",  # without dropout
        tokenizers={
            "usual": ["--model-type=gpt2", "--vocab-size=8000", "--language-weights=none"],
            "ours": ["--vocab-size=8000", "--language-weights=km=0.5,en=0.5"],
        },
        overrides={
            "data.weights": {"khmer": 0.5, "english": 0.5},
            "steps": 75,
            "epochs": 0.0,
            "global_batch_size": 32,
            "model.num_heads": 2,
            "model.d_model": 256,
            "model.d_ff": 680,  # SwiGLU has three matrices and GELU has two: the same FLOPs as with 1024
            "optimizer.learning_rate": 6e-3,
            "optimizer.warmup_steps": 8,
            "log_every": 5,
            "checkpoint.every": 10_000,
            "checkpoint.keep_last": 1,
            "eval.every": 10_000,
            "eval.tokens": 0,  # all: the same number of tokens would be another text for each tokenizer
            "eval.prompt_suite": False,
            "sample.every": 0,
            "export": False,
        },
        variants={
            "usual": {**USUAL, "tokenizer": "usual"},
            "ours": {"tokenizer": "ours"},
            "ours_equal_data": {"tokenizer": "ours", "same_text_as": "usual"},
            "ours_tokenizer": {**USUAL, "tokenizer": "ours"},
        },
    )
