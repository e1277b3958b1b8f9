"""Draw the curves of one or several runs: loss, bits per byte by language, speed."""

from pathlib import Path

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import file_to_write
from tonsai_jax.reporting.curves import write_curves

EXAMPLES = """examples:
  tonsai plot --workdir runs/mine
  tonsai plot --workdir runs/mine runs/other --output curves.html

The page needs no network and no other program. A run also writes it to its workdir when it ends.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--workdir", nargs="+", type=Path, required=True, metavar="DIR", help="folders of runs to compare")
    add(
        "--output",
        type=file_to_write,
        metavar="FILE",
        help="the page (default: curves.html in the workdir; of several, here)",
    )
    args = parser.parse_args()
    for workdir in args.workdir:
        if not (workdir / "metrics.jsonl").is_file():
            raise UserError(f"{workdir}: no metrics.jsonl, so this is not the workdir of a run; check the path")
    names = [workdir.resolve().name for workdir in args.workdir]
    unique = len(set(names)) == len(names)
    runs = dict(zip(names if unique else map(str, args.workdir), args.workdir, strict=True))
    # The page of several runs does not replace the one that a run has of its own.
    page = args.output or (args.workdir[0] if len(runs) == 1 else Path()) / "curves.html"
    write_curves(page, runs)
    print(f"written to {page}; open it in a browser")
