"""Train variants of a config, each on the same data in the same order, and compare them."""

from pathlib import Path

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_write, write_json

EXAMPLE = """example:
  tonsai ablate --config configs/ablations/learning_rate.py --workdir runs/ablations/learning_rate --seeds 3
  tonsai ablate --config configs/ablations/schedule.py --workdir runs/ablations/schedule
  tonsai ablate --config configs/ablations/usual_recipe.py --documents data/documents --text km=news.km.txt en=news.en.txt

To set a key for all variants, add --config.section.key=value, as in training. If the command is stopped, run it again: it
skips complete runs, continues a stopped run and repeats failed runs. It writes report.html and results.json to the workdir.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--config",
        required=True,
        type=Path,
        metavar="FILE",
        help="file that defines the ablation, see configs/ablations/",
    )
    add(
        "--workdir",
        type=folder_to_write,
        metavar="DIR",
        help="folder for the runs and the report (default: runs/ablations/NAME)",
    )
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="train each variant with N seeds (default: 1, which gives no spread)",
    )
    add(
        "--documents",
        type=Path,
        metavar="DIR",
        help="documents from tonsai prepare or tonsai data, on which the tokenizers of the ablation are trained",
    )
    add(
        "--val-ratio",
        type=float,
        metavar="X",
        help="share of --documents that is kept for validation (default: 0.01)",
    )
    add(
        "--text",
        nargs="+",
        action="extend",
        default=[],
        metavar="LANGUAGE=FILE",
        help="also score each complete run on text of another domain, as tonsai evaluate --text does",
    )
    parser.add_json()
    args, flags = parser.parse_known_args()
    if args.val_ratio is not None and args.documents is None:
        raise UserError(f"--val-ratio {args.val_ratio}: is for the tokenizers of --documents; leave it out")

    from tonsai_jax.ablation.ablate import ablate
    from tonsai_jax.ablation.tables import tables
    from tonsai_jax.reporting.numbers import count_of
    from tonsai_jax.reporting.tables import tables_as_text

    workdir = args.workdir or folder_to_write(f"runs/ablations/{args.config.stem}")
    summary = ablate(
        args.config,
        workdir,
        num_seeds=args.seeds,
        flags=flags,
        documents=args.documents,
        val_ratio=0.01 if args.val_ratio is None else args.val_ratio,
        text=args.text,
    )
    print("\n" + tables_as_text(tables(summary)))
    print(f"\n{workdir / 'report.html'}: the same figures, and the loss curves")
    if args.json:
        write_json(args.json, summary)
    failed = [f"{run['variant']}, seed {run['seed']}" for run in summary["runs"] if run["failure"]]
    if failed:
        raise UserError(
            f"{len(failed)} of {count_of(len(summary['runs']), 'run')} failed: {'; '.join(failed)}; "
            "see train.log in their folders"
        )
