"""Export a trained model in Hugging Face format, and optionally upload it to the Hub."""

import argparse

from tonsai_jax.files import folder_to_replace
from tonsai_jax.runtime.libraries import quiet_libraries

EXAMPLES = """examples:
  tonsai export --workdir runs/gpt2 --output-dir export/gpt2
  tonsai export --workdir runs/gpt2 --output-dir export/gpt2 --push-to-hub USER/NAME
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="folder of the run, the --workdir of tonsai train")
    add("--step", type=int, metavar="N", help="checkpoint to export (default: the newest)")
    add(
        "--output-dir",
        type=folder_to_replace,
        required=True,
        metavar="DIR",
        help="folder to write; replaces an earlier export",
    )
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="dtype of the weights (default: float32)")
    add("--push-to-hub", metavar="USER/NAME", help="also upload the export; run `hf auth login` once before")
    args = parser.parse_args()

    quiet_libraries()
    from tonsai_jax.huggingface.card import details_of_run
    from tonsai_jax.huggingface.export import export
    from tonsai_jax.huggingface.hub import push_to_hub
    from tonsai_jax.inference.load import load_run

    run = load_run(args.workdir, args.step)
    details = details_of_run(run.workdir, run.config, run.step)
    folder = export(run.model_config, run.params, run.tokenizer, args.output_dir, details=details, dtype=args.dtype)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{folder}: {run.model_config.num_parameters:,} parameters of step {run.step:,}, {size:,.1f} MB")
    if args.push_to_hub:
        print(f"uploaded to {push_to_hub(folder, args.push_to_hub)}")
    else:
        print(f'next: AutoModelForCausalLM.from_pretrained("{folder}"); the model card is {folder / "README.md"}')
