"""Measures a trained model on held-out text: bits per byte of every source and every language."""

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json

EXAMPLE = """example:
  tonsai evaluate --workdir runs/gpt2
  tonsai evaluate --workdir runs/gpt2 --data-dir data/other_tokens --json scores.json
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    parser.add_checkpoint()
    add("--data-dir", metavar="DIR", help="token rows to evaluate on (default: those that the run was trained on)")
    add("--seq-len", type=int, metavar="T", help="sequence length (default: the longest of the run)")
    add("--batch-size", type=int, default=8, metavar="B", help="sequences per batch (default: 8)")
    add(
        "--max-batches",
        type=int,
        default=0,
        metavar="N",
        help="batches of each source, spread evenly (default: 0, all)",
    )
    parser.add_json()
    args = parser.parse_args()
    if args.batch_size < 1 or args.max_batches < 0:
        raise UserError(
            f"--batch-size must be at least 1 (it is {args.batch_size}) and --max-batches at least 0 (it is {args.max_batches})"
        )

    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    from tonsai_jax.data.manifest import read_manifest
    from tonsai_jax.evaluation.run import evaluate_run
    from tonsai_jax.inference.load import load_run

    run = load_run(args.workdir, args.step)
    data_dir = args.data_dir or run.config.data.dir
    if not data_dir:
        raise UserError(
            f"{args.workdir}: this run learned without token rows; name those to evaluate on with --data-dir"
        )
    evaluation = evaluate_run(
        run,
        read_manifest(data_dir),
        seq_len=args.seq_len,
        batch_size=args.batch_size,
        max_batches=args.max_batches,
    )
    print(f"{args.workdir}, step {run.step}: bits per byte of held-out text, lower is better")
    print(evaluation.table())
    if args.json:
        write_json(args.json, {"step": run.step, **evaluation.scalars()})
