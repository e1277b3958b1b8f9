"""What to train with your text and budget: size, steps, mix and epochs, and the bits per byte to expect."""

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import file_to_write, write_json

EXAMPLE = """examples:
  tonsai plan --tokens km=350e3 en=7e6 --cpu-minutes 20
  tonsai plan --data-dir data/tokens --gpu h100 --gpu-hours 20 --importance km=0.7 en=0.3
  tonsai plan --data-dir data/tokens --cpu-minutes 20 --measured runs/mine
  tonsai plan --measured runs/ablations/scaling --save-fit fit.json

It rests on a fit to measured runs (docs/plan.md). With --measured, complete runs below a folder replace the fit (at least three
sizes and three lengths), or adapt its level to your text (fewer). It prints the command that trains the proposal.
"""


def main() -> None:
    args = _parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # leaves a GPU of this machine alone
    from tonsai_jax.reporting.tables import tables_as_text
    from tonsai_jax.runtime.libraries import quiet_libraries
    from tonsai_jax.scaling.fit import save_fit
    from tonsai_jax.scaling.plan import fit_for, make_plan
    from tonsai_jax.scaling.report import check_table, fit_table

    quiet_libraries()
    fit, measured = fit_for(args.measured)
    if args.save_fit:
        if measured != "fit":
            raise UserError(f"--measured {args.measured}: a fit needs complete runs of at least 3 sizes and 3 lengths")
        save_fit(args.save_fit, fit)
        print(tables_as_text([fit_table(fit), check_table(fit)]) + f"\n\n{args.save_fit}: the fit")
        return
    text, figures = make_plan(
        fit,
        measured,
        tokens=args.tokens and _numbers("--tokens", args.tokens),
        data_dir=args.data_dir,
        vocab_size=args.vocab_size,
        importance=args.importance and _numbers("--importance", args.importance),
        gpu=args.gpu,
        gpu_hours=args.gpu_hours,
        num_gpus=args.num_gpus,
        cpu_minutes=args.cpu_minutes,
        flops=args.flops,
        config_file=args.config,
        workdir=args.workdir,
    )
    print(text)
    if args.json:
        write_json(args.json, figures)


def _parse_args() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE, allow_abbrev=False)
    add = parser.add_argument
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument(
        "--tokens", nargs="+", metavar="LANGUAGE=N", help="training tokens of each language: km=8e6 en=60e6"
    )
    texts.add_argument("--data-dir", metavar="DIR", help="token rows: their tokens, sources and vocabulary")
    add("--cpu-minutes", type=float, metavar="X", help="budget: minutes of this machine's CPU")
    add("--flops", type=float, metavar="X", help="model FLOP/s of the CPU (default: measured, for some seconds)")
    add(
        "--gpu", metavar="NAME", help="with --gpu-hours: h100, rtx4090 or another GPU in tonsai_jax/runtime/hardware.py"
    )
    add("--gpu-hours", type=float, metavar="X", help="budget: hours of all GPUs together")
    add("--num-gpus", type=int, default=1, metavar="N", help="GPUs that train together (default: 1)")
    add(
        "--importance",
        nargs="+",
        metavar="LANGUAGE=X",
        help="weight of each language's bits per byte (default: all the same)",
    )
    add("--vocab-size", type=int, metavar="N", help="token ids, with --tokens (default: those of the fitted runs)")
    add("--config", metavar="FILE", help="config that the proposal changes (default: by the budget, from configs/)")
    add("--workdir", default="runs/planned", metavar="DIR", help="of the printed command (default: %(default)s)")
    add("--measured", type=Path, metavar="DIR", help="runs of yours: a fit of their own, or its level")
    add(
        "--save-fit", type=file_to_write, metavar="FILE", help="only fit the runs of --measured, and write the fit here"
    )
    parser.add_json()
    args = parser.parse_args()
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    if args.save_fit:
        if not args.measured:
            raise UserError("--save-fit needs runs to fit: add --measured runs/ablations/scaling")
        planning = (
            "tokens",
            "data_dir",
            "cpu_minutes",
            "flops",
            "gpu",
            "gpu_hours",
            "importance",
            "vocab_size",
            "config",
            "json",
        )
        for name in planning:
            if getattr(args, name) is not None:
                raise UserError(f"--save-fit only fits, and plans nothing: leave --{name.replace('_', '-')} out")
        return
    if not (args.tokens or args.data_dir):
        raise UserError("no text: add --tokens km=8e6 en=60e6, or --data-dir DIR (token rows)")
    if (args.cpu_minutes is None) == (args.gpu_hours is None):
        raise UserError("give one budget: --cpu-minutes 20, or --gpu h100 --gpu-hours 20")
    if (args.gpu is None) != (args.gpu_hours is None):
        raise UserError("--gpu and --gpu-hours belong together: --gpu h100 --gpu-hours 20")
    if args.num_gpus < 1 or (args.num_gpus > 1 and not args.gpu):
        raise UserError(f"--num-gpus {args.num_gpus}: {'must be at least 1' if args.gpu else 'is for --gpu'}")
    if args.gpu and args.flops is not None:
        raise UserError("--flops is the speed of a CPU; that of a GPU follows from its roofline (docs/plan.md)")
    for name in ("cpu_minutes", "gpu_hours", "flops"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value:g} must be above 0")
    if args.vocab_size is not None and (args.data_dir or args.vocab_size < 1):
        rule = "the token rows have their own" if args.data_dir else "must be at least 1"
        raise UserError(f"--vocab-size {args.vocab_size}: {rule}")


def _numbers(flag: str, words: list[str]) -> Mapping[str, float]:
    """The numbers in words such as km=8e6, by language."""
    numbers = {}
    for word in words:
        language, _, text = word.partition("=")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not language or not 0 < number < math.inf:
            raise UserError(f"{flag} {word}: write LANGUAGE=NUMBER with a number above 0, as in km=8e6")
        if language in numbers:
            raise UserError(f"{flag}: {language} is given twice; give each language once")
        numbers[language] = number
    return numbers
