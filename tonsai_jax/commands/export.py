"""Export a trained model in Hugging Face format, and optionally upload it to the Hub."""

import argparse
import dataclasses
from pathlib import Path

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_replace
from tonsai_jax.runtime.libraries import quiet_libraries

EXAMPLES = """examples:
  tonsai export --workdir runs/gpt2 --output-dir export/gpt2
  tonsai export --workdir runs/gpt2 --output-dir export/gpt2 --verify  # needs transformers: uv sync --extra hf
  tonsai export --workdir runs/lora --output-dir export/lora              # LoRA: merged into its base model
  tonsai export --workdir runs/lora --output-dir export/adapter --adapter # LoRA: only the adapters, for peft
  tonsai export --workdir runs/gpt2 --output-dir export/gpt2 --push-to-hub USER/NAME --private
  tonsai export --output-dir export/gpt2 --push-to-hub USER/NAME      # upload an earlier export as it is
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--workdir", metavar="DIR", help="folder of the run, the --workdir of tonsai train; without it, only upload")
    parser.add_step("checkpoint to export")
    add(
        "--output-dir",
        type=folder_to_replace,
        required=True,
        metavar="DIR",
        help="folder to write; replaces an earlier export, keeps added files",
    )
    add("--dtype", choices=["float32", "bfloat16", "float16"], help="dtype of the weights (default: float32)")
    add(
        "--license", metavar="ID", help="license for the model card, as the Hub names it: apache-2.0, cc-by-sa-4.0, ..."
    )
    add(
        "--no-normalizer",
        action="store_true",
        help="the exported tokenizer leaves text as it is, instead of normalizing it like the training text",
    )
    add(
        "--adapter",
        action="store_true",
        help="of a run with LoRA write only the adapters, as peft loads them onto the base model, instead of the merged model",
    )
    add(
        "--verify",
        action="store_true",
        help="load the export with transformers and compare it with the run: token ids, logits, a greedy continuation",
    )
    add("--push-to-hub", metavar="USER/NAME", help="also upload the export; run `hf auth login` once before")
    add("--private", action="store_true", help="with --push-to-hub: only you see the model")
    add(
        "--revision",
        metavar="BRANCH",
        help="with --push-to-hub: upload to this branch, created if needed (default: main)",
    )
    add("--commit-message", metavar="TEXT", help="with --push-to-hub: message of the upload")
    args = parser.parse_args()
    uploading = _given(args, "private", "revision", "commit_message")
    if uploading and not args.push_to_hub:
        raise UserError(f"{uploading[0]} has no effect without --push-to-hub USER/NAME; add that, or leave it out")
    exporting = _given(args, "step", "dtype", "license", "no_normalizer", "adapter", "verify")
    if not args.workdir and (exporting or not args.push_to_hub):
        raise UserError(
            "--workdir is missing: the folder of the run to export. It may be left out only with --push-to-hub, to upload "
            "an earlier export as it is"
        )

    if args.adapter and (merging := _given(args, "dtype", "verify")):
        raise UserError(
            f"{merging[0]} is for a whole model, and --adapter writes only adapters (float32); leave one out"
        )

    quiet_libraries()
    from tonsai_jax.huggingface.hub import check_repo_id, push_to_hub

    if args.push_to_hub:
        check_repo_id(args.push_to_hub)  # now, and not after the export
    if args.adapter:
        folder = _export_adapter(args)
    else:
        folder = _export(args) if args.workdir else Path(args.output_dir)
    if args.push_to_hub:
        address = push_to_hub(
            folder, args.push_to_hub, private=args.private, revision=args.revision, message=args.commit_message
        )
        print(f"uploaded to {address}")
    elif args.adapter:
        print(f"next: the model card {folder / 'README.md'} says how peft loads it")
    else:
        print(f'next: AutoModelForCausalLM.from_pretrained("{folder}"); the model card is {folder / "README.md"}')


def _given(args: argparse.Namespace, *names: str) -> list[str]:
    """Those of the options that were given, as they are written on the command line."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, False)]


def _export(args: argparse.Namespace) -> Path:
    from tonsai_jax.huggingface.card_details import details_of_run
    from tonsai_jax.huggingface.export import export
    from tonsai_jax.huggingface.verify import check_libraries, verify
    from tonsai_jax.inference.load import load_run

    if args.verify:
        check_libraries()  # now, and not after the export
    run = load_run(args.workdir, args.step)
    details = dataclasses.replace(details_of_run(run.workdir, run.config, run.step, run.saved), license=args.license)
    dtype = args.dtype or "float32"
    folder = export(
        run.model_config,
        run.params,
        run.tokenizer,
        args.output_dir,
        details=details,
        dtype=dtype,
        normalize=not args.no_normalizer,
    )
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{folder}: {run.model_config.num_parameters:,} parameters of step {run.step:,}, {size:,.1f} MB")
    if args.verify:
        print(f"verified: {verify(folder, run.model_config, run.params, run.tokenizer, dtype)}")
    return folder


def _export_adapter(args: argparse.Namespace) -> Path:
    from tonsai_jax.checkpoints.saved import open_checkpoint
    from tonsai_jax.files import read_json
    from tonsai_jax.huggingface.adapter import export_adapter
    from tonsai_jax.huggingface.card_details import details_of_run, hub_model
    from tonsai_jax.saved_config import from_json
    from tonsai_jax.tokenizer.loading import Tokenizer

    run = open_checkpoint(args.workdir, args.step)
    if run.lora is None:
        raise UserError(
            f"{run.workdir}: has no adapters, all parameters were trained (lora.rank=0); leave --adapter out"
        )
    config = from_json(read_json(run.workdir / "config.json"))
    details = details_of_run(run.workdir, config, run.step, run.saved)
    base, is_run = run.saved["base"]["where"], run.saved["base"]["step"] is not None
    folder = export_adapter(
        run.model_config,
        run.params(),
        run.lora,
        Tokenizer.from_folder(run.workdir / "tokenizer"),
        args.output_dir,
        base_model=base,
        base_is_run=is_run,
        details=dataclasses.replace(details, license=args.license),
        normalize=not args.no_normalizer,
    )
    count = run.lora.num_parameters(run.model_config)
    print(f"{folder}: {count:,} parameters of the adapters of step {run.step:,}, for the model {base}")
    if is_run:
        print(
            f"note: that is a run; export it first, peft needs the base model in Hugging Face format: --workdir {base}"
        )
    if hub_model(base) is None:
        print(
            "note: adapter_config.json names that folder; before you share it, put the base model's name on the Hub there"
        )
    return folder
