"""Make the report of a run, or compare several: one HTML page with curves, samples, scores, configuration, data and cost."""

from pathlib import Path

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import file_to_write

EXAMPLES = """examples:
  tonsai report --workdir runs/mine
  tonsai report --workdir runs/mine --price 2.50
  tonsai report --workdir runs/mine runs/other --output compared.html

The page needs no network and no script. A run also writes it to its workdir when it ends or stops.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--workdir", nargs="+", type=Path, required=True, metavar="DIR", help="folders of runs; several are compared")
    add(
        "--output",
        type=file_to_write,
        metavar="FILE",
        help="the page (default: report.html in the workdir; of several, here)",
    )
    add("--price", type=float, metavar="X", help="of an hour of one device, in any currency: shows the cost")
    add("--against", type=Path, metavar="DIR", help="another run, whose configuration is compared")
    args = parser.parse_args()
    if args.price is not None and not 0 <= args.price < float("inf"):
        raise UserError(f"--price {args.price:g}: the price of an hour of a device must be at least 0")

    from tonsai_jax.report.write import write_report  # imported here: a mistake in the flags needs none of it

    # The page of several runs does not replace the one that a run has of its own.
    page = args.output or (args.workdir[0] if len(args.workdir) == 1 else Path()) / "report.html"
    for note in write_report(page, args.workdir, price=args.price, against=args.against):
        print(note)
    print(f"written to {page}; open it in a browser")
