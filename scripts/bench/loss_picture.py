"""Draws the training loss of a run as an SVG file that needs nothing else: the picture in README.md."""

import argparse
import json
from pathlib import Path

from tonsai_jax.errors import run_command
from tonsai_jax.files import atomic_write
from tonsai_jax.reporting.plot import Line, line_plot

EXAMPLE = """example:
  python scripts/bench/loss_picture.py --workdir runs/quickstart --output docs/quickstart.svg
"""
STYLE = """<style>
svg { font: 12px system-ui, sans-serif; --color: #0072b2 }
polyline { fill: none; stroke: var(--color); stroke-width: 2 }
text { fill: #66758a } .grid { stroke: #d9dfe7 }
</style>"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--output", type=Path, required=True, help="the SVG file to write")
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    points = [(float(row["step"]), row["train/loss"]) for row in rows if row.get("train/loss") is not None]
    picture = line_plot([Line("training loss", 0, points)], x_label="step", y_label="training loss, nats per token")
    head, body = str(picture).split(">", 1)
    with atomic_write(args.output) as partial:
        partial.write_text(f'{head} xmlns="http://www.w3.org/2000/svg">{STYLE}{body}\n', encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
