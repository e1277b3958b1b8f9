"""Export a trained model as a GGUF file, for llama.cpp and the programs built on it."""

from tonsai_jax.commands.export_gguf import main
from tonsai_jax.errors import run_command

if __name__ == "__main__":
    run_command(main)
