"""`tonsai COMMAND`, the same as `python -m tonsai_jax COMMAND`: runs one command and imports only what that command needs."""

import importlib
import sys

from tonsai_jax.errors import UserError, did_you_mean, run_command
from tonsai_jax.interrupts import raise_at_ctrl_c

# In the order in which a person uses them. To add a command, write its module in commands/, with a `main()` that parses
# sys.argv, and add its line here.
COMMANDS = {
    "data": "raw text to token rows: prepare, train-tokenizer and tokenize in one command",
    "prepare": "raw text to clean documents",
    "train-tokenizer": "documents to a vocabulary",
    "tokenizer-report": "measure a tokenizer and compare it with others",
    "extend-tokenizer": "add tokens of another language to the tokenizer of a model",
    "tokenize": "documents to token rows, which training reads",
    "verify": "check every byte of token rows against their manifest",
    "prepare-sft": "conversations to packed rows, for training on the answers",
    "new-vocabulary": "give a model the vocabulary of another tokenizer",
    "plan": "what to train with your text and budget, and the bits per byte to expect",
    "estimate": "memory, speed, hours and cost of a config on GPUs that you do not have",
    "train": "token rows to a trained model (python -m tonsai_jax.train)",
    "grpo": "improve a chat model by practice with rewards",
    "ablate": "train variants of a config and compare them",
    "checkpoints": "list, verify, prune and compare the checkpoints of a run",
    "report": "a page about a run, or several compared: curves, samples, scores, data, cost",
    "evaluate": "bits per byte of a trained model on held-out text",
    "tasks": "scores of a trained model on questions with choices and on missing words",
    "lm-eval": "tasks of the Language Model Evaluation Harness, on a model of ours",
    "scorecard": "Khmer and English of a trained model, from test sets that were downloaded once",
    "prompts": "continue a suite of Khmer and English prompts and check the texts",
    "generate": "continue text with a trained model",
    "chat": "chat with a trained model, in the terminal or on a local web page",
    "export": "a trained model in Hugging Face format, for transformers and the Hub",
    "export-gguf": "a trained model as a GGUF file, for llama.cpp",
}


def main() -> None:
    """The console entry `tonsai`."""
    run_command(_run)


def _run() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(_help())
    elif name == "--version":
        from importlib.metadata import version  # imported here, as it takes longer than the rest of this module

        print(f"tonsai {version('tonsai-jax')}")
    elif name in COMMANDS:
        sys.argv = [f"tonsai {name}", *sys.argv[2:]]  # argparse takes the name in its usage line from here
        module = importlib.import_module(_module_of(name))
        raise_at_ctrl_c()  # till here a signal ended the process at once
        module.main()
    else:
        raise UserError(f"tonsai {name}: no such command{did_you_mean(name, COMMANDS)} (tonsai --help)")


def _module_of(name: str) -> str:
    return "tonsai_jax.train" if name == "train" else f"tonsai_jax.commands.{name.replace('-', '_')}"


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "Train a language model for Khmer and English: from raw text to Hugging Face.",
            "",
            "usage: tonsai COMMAND [FLAGS], tonsai COMMAND --help, tonsai --version",
            "",
            *lines,
        ]
    )


if __name__ == "__main__":
    main()
