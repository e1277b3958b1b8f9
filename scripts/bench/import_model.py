"""Time and host memory of the import of a model: writes a random Llama of 1.1 B parameters and reads it in another process.

    python scripts/bench/import_model.py --folder /tmp/llama_1b
    python scripts/bench/import_model.py --folder models/SmolLM2-135M      # a model that is there already

The model's parameters are float32. On a CPU they are in the memory of the host, where a model stored in bfloat16 takes twice the
size of its files. The peak is that of the process, without what it had before it opened the model.
"""

import argparse
import subprocess
import sys
from pathlib import Path

READ = """
import resource, sys, time
import jax, psutil
from tonsai_jax.huggingface.pretrained import open_pretrained
jax.devices()
before, start = psutil.Process().memory_info().rss, time.monotonic()
model = open_pretrained(sys.argv[1])
params = jax.block_until_ready(model.params())
seconds = time.monotonic() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
there = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
stored = sum(file.stat().st_size for file in model.folder.glob("*.safetensors"))
largest = max(file.stat().st_size for file in model.folder.glob("*.safetensors"))
print(f"{model.model_config.num_parameters / 1e6:,.0f} M parameters, {stored / 1e9:.2f} GB in {model.dtype}, largest file "
      f"{largest / 1e9:.2f} GB: {seconds:.1f} s; parameters {there / 1e9:.2f} GB, peak of the process {peak / 1e9:.2f} GB")
"""


def write_random_model(folder: Path) -> None:
    """A Llama with the sizes of TinyLlama-1.1B in bfloat16, in two files."""
    import jax

    from tonsai_jax.huggingface.export import export
    from tonsai_jax.model.config import ModelConfig
    from tonsai_jax.model.presets import preset
    from tonsai_jax.tokenizer.examples import Example
    from tonsai_jax.tokenizer.loading import Tokenizer
    from tonsai_jax.tokenizer.special_tokens import END_OF_TEXT
    from tonsai_jax.tokenizer.training import train_tokenizer
    from tonsai_jax.training.state import init_params

    sizes = {"num_layers": 22, "num_heads": 32, "num_kv_heads": 4, "d_model": 2048, "d_ff": 5632}
    config = ModelConfig(**preset("llama") | sizes | {"vocab_size": 32_000, "context_length": 2048})
    text = [Example("The children walk to school every day.", "en")] * 5
    train_tokenizer(text, vocab_size=270, special_tokens=[END_OF_TEXT], output_dir=folder.with_suffix(".tokenizer"))
    tokenizer = Tokenizer.from_folder(folder.with_suffix(".tokenizer"))
    params = jax.jit(lambda: init_params(config, 0))()
    export(config, params, tokenizer, folder, dtype="bfloat16", max_shard_bytes=1_200_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the model; written first where it is absent")
    args = parser.parse_args()
    if not args.folder.exists():
        write_random_model(args.folder)
    subprocess.run([sys.executable, "-c", READ, str(args.folder)], check=True)


if __name__ == "__main__":
    main()
