"""Export a trained model as a GGUF file, for llama.cpp and the programs built on it."""

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import file_to_write
from tonsai_jax.runtime.libraries import quiet_libraries

EXAMPLES = """examples:
  tonsai export-gguf --workdir runs/gpt2 --output export/gpt2.gguf
  tonsai export-gguf --workdir runs/gpt2 --output export/gpt2.gguf --dtype bfloat16
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    parser.add_checkpoint()
    add(
        "--output",
        type=file_to_write,
        required=True,
        metavar="FILE",
        help="the .gguf file to write; replaces an earlier one",
    )
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="dtype of the matrices (default: float32); llama-quantize of llama.cpp makes smaller files from any of them",
    )
    args = parser.parse_args()

    quiet_libraries()
    try:
        from tonsai_jax.gguf.export import check_path, export_gguf
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise UserError("GGUF files need the package gguf; install it with: uv sync --inexact --extra gguf") from None
    from tonsai_jax.gguf.vocabulary import vocabulary
    from tonsai_jax.huggingface.card_details import details_of_run
    from tonsai_jax.inference.load import load_run

    check_path(args.output)  # now, and not after the run is loaded
    run = load_run(args.workdir, args.step)
    details = details_of_run(run.workdir, run.config, run.step, run.saved)
    file = export_gguf(run.model_config, run.params, run.tokenizer, args.output, details=details, dtype=args.dtype)
    size = file.stat().st_size / 1e6
    print(f"{file}: {run.model_config.num_parameters:,} parameters of step {run.step:,}, {args.dtype}, {size:,.1f} MB")
    for difference in vocabulary(run.tokenizer).differences:
        print(f"note: {difference}")
    if run.tokenizer.normalization is not None:
        print(
            "note: llama.cpp takes a prompt as it is, but the training text was normalized; normalize a prompt with Khmer first, "
            "with khmer_normalizer.py of `tonsai export` (docs/gguf.md)"
        )
    print(f'next: llama-completion -m {file} -no-cnv -p "ប្រទេសកម្ពុជា"; docs/gguf.md has more programs')
