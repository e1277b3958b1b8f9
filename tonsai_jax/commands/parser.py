"""The parser of a command's flags: a mistake in them is one line, as every other mistake."""

import argparse
from typing import TYPE_CHECKING, NoReturn

from tonsai_jax.errors import UserError
from tonsai_jax.files import file_to_write
from tonsai_jax.sampling import Sampling

if TYPE_CHECKING:
    from tonsai_jax.checkpoints.store import CheckpointStep
    from tonsai_jax.inference.load import LanguageModel


class CommandParser(argparse.ArgumentParser):
    """A parser that keeps the line breaks of its texts, and raises `UserError` where argparse would print its usage."""

    def __init__(self, *, description: str | None, epilog: str, allow_abbrev: bool = True) -> None:
        super().__init__(
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=allow_abbrev,
        )

    def add_checkpoint(self) -> None:
        """Adds the flags that choose a checkpoint: `args.workdir` and `args.step`, None for the newest."""
        self.add_argument(
            "--workdir", required=True, metavar="DIR", help="folder of the run, the --workdir of tonsai train"
        )
        self.add_step("checkpoint to use")

    def add_model(self) -> "argparse._MutuallyExclusiveGroup":
        """Adds the flags that choose a model: `args.workdir` with `args.step`, or `args.model`; `open_model` opens it.

        Returns the group of the flags of which exactly one is given; a command can add its own to it.
        """
        models = self.add_mutually_exclusive_group(required=True)
        models.add_argument("--workdir", metavar="DIR", help="folder of the run, the --workdir of tonsai train")
        models.add_argument("--model", metavar="MODEL", help="hf:ORG/NAME, or the folder of an exported model")
        self.add_step("checkpoint of the run to use")
        return models

    def add_step(self, meaning: str) -> None:
        """Adds the flag that chooses one of the checkpoints of a run: `args.step`, a step, "best", or None for the newest."""
        best = "“best” has the best score of those kept, see checkpoint.best_metric in tonsai_jax/config.py"
        self.add_argument("--step", type=_step, metavar="N|best", help=f"{meaning} (default: the newest); {best}")

    def add_json(self) -> None:
        """Adds the flag for a file that gets the printed figures: `args.json`, a path or None."""
        self.add_argument(
            "--json", type=file_to_write, metavar="FILE", help="also write the figures to this file, as JSON"
        )

    def add_sampling(self) -> None:
        """Adds the flags that say how text is drawn from a model; `sampling_of` reads all but `args.seed`."""
        for name, meaning in (
            ("temperature", "0 for greedy decoding"),
            ("top_k", "draw from the N most likely tokens, 0 for all"),
            ("top_p", "draw from the top tokens of this probability, 1 for all"),
            ("min_p", "draw from tokens of at least this share of the top token's probability, 0 for all"),
            ("repetition_penalty", "above 1, tokens that the text already has become less likely"),
        ):
            default = getattr(Sampling, name)
            self.add_argument(
                f"--{name.replace('_', '-')}",
                type=type(default),
                default=default,
                metavar="N" if isinstance(default, int) else "X",
                help=f"{meaning} (default: {default:g})",
            )
        self.add_argument(
            "--stop",
            action="append",
            default=[],
            metavar="TEXT",
            help="end the generated text before this text; can be given several times",
        )
        self.add_argument(
            "--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default: 0)"
        )

    def add_texts(self, *, required: bool) -> None:
        """Adds the flags that name texts: `args.dataset_dir` or `args.input`, one of them or, unless `required`, none."""
        inputs = self.add_mutually_exclusive_group(required=required)
        inputs.add_argument("--dataset-dir", metavar="DIR", help="documents written by tonsai prepare")
        inputs.add_argument(
            "--input", nargs="+", metavar="FILE", help="text files (also .gz and .zst), one text per line"
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help)")


def _step(text: str) -> "CheckpointStep":
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise UserError(f"--step {text}: must be the step of a checkpoint, or best")
    return int(text)


def open_model(args: argparse.Namespace) -> "LanguageModel":
    """The model that the flags of `add_model` name; a `Run` for --workdir. Raises `UserError` where there is none."""
    from tonsai_jax.inference.load import load_model, load_run  # imported here: a mistake in the flags needs no JAX

    if args.workdir is not None:
        return load_run(args.workdir, args.step)
    if args.step is not None:
        raise UserError("--step is a checkpoint of a run; give it with --workdir, not with --model")
    return load_model(args.model)


def sampling_of(args: argparse.Namespace) -> Sampling:
    """How text is drawn, by the flags of `add_sampling`; raises `UserError` for a value out of range."""
    return Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        stop=tuple(args.stop),
    )
