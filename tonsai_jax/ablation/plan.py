"""The plan of an ablation: a base config and variants that each set a few keys, all checked before the first run starts."""

import re
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import normpath
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.cli import parse_flags
from tonsai_jax.config import stages_of
from tonsai_jax.config_checks import validate
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.errors import UserError, unknown_name
from tonsai_jax.files import read_json
from tonsai_jax.saved_config import differences, from_json, to_json
from tonsai_jax.stages import Stage, total_steps

_FIRST_FLAG = 3  # in the command of a run, after the interpreter and the module

TOKENIZER, SAME_TEXT_AS = "tokenizer", "same_text_as"  # keys of a variant that are not keys of training
ROWS_OF_TOKENIZERS = "data"  # folder in the workdir


@dataclass(frozen=True)
class Ablation:
    """What the `get_ablation()` of a file in configs/ablations/ returns.

    Attributes:
      base: a config file for `tonsai_jax.train`; its path is relative to the folder of the ablation: "../quickstart.py".
      variants: {name: {key: value}}. Keys are written as on the command line of training: "optimizer.learning_rate". The first
        variant is the baseline, which the others are compared with. Two more keys:
        "tokenizer": a name of `tokenizers`; the variant trains on the documents that are encoded with it;
        "same_text_as": another variant; this one reads as much text of each source as that one, whatever its tokenizer.
      overrides: {key: value} for all variants.
      tokenizers: {name: flags of `tonsai train-tokenizer`}: {"small": ["--vocab-size=4000"]}. They are trained on --documents.
    """

    base: str
    variants: Mapping[str, Mapping[str, Any]]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tokenizers: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedRun:
    """One variant with one seed.

    Attributes:
      variant: name of the variant.
      seed: the run's seed.
      workdir: folder of the run.
      config: the config that training will use.
      command: starts or resumes the run.
      same_text_as: the variant whose text it reads; then length and weights of the config are not set yet (`with_same_text`).
    """

    variant: str
    seed: int
    workdir: Path
    config: ConfigDict
    command: tuple[str, ...]
    same_text_as: str | None = None

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run; raises `UserError` where a length in epochs needs token rows that do not exist yet."""
        stages = stages_of(self.config)
        if all(stage.steps for stage in stages):
            return stages
        return stages_of(self.config, read_manifest(self.config.data.dir).train_sizes())

    @property
    def total_steps(self) -> int:
        return total_steps(self.stages)

    def with_flags(self, *flags: str) -> "PlannedRun":
        """The run with these flags after its own. Raises `UserError` for a key or value that is not valid."""
        command = (*self.command, *flags)
        return replace(self, command=command, config=_config(command[_FIRST_FLAG:]), same_text_as=None)


def load_ablation(file: Path) -> tuple[Ablation, str]:
    """Returns the ablation that the file's `get_ablation()` makes, and the first paragraph of the file's docstring.

    Raises `UserError` if the file does not exist, has no such function, or fails.
    """
    if not file.is_file():
        raise UserError(f"--config {file}: no such file; configs/ablations/ has examples")
    try:
        module = runpy.run_path(str(file))
        ablation = module["get_ablation"]()
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # a config file is a program and can raise anything
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        if not frames:
            raise UserError(f"{file}: has no function get_ablation(); see the files in configs/ablations/") from error
        raise UserError(f"{file}, line {frames[-1]}: {type(error).__name__}: {error}") from error
    if not isinstance(ablation, Ablation):
        raise UserError(f"{file}: get_ablation() returns {type(ablation).__name__}; it must return an Ablation")
    for name in ("overrides", "variants", "tokenizers"):
        if not isinstance(value := getattr(ablation, name), Mapping):
            raise UserError(f"{file}: {name} is a {type(value).__name__}; it must be a dict")
    return ablation, " ".join((module["__doc__"] or "").split("\n\n")[0].split())


def plan_runs(
    file: Path, ablation: Ablation, workdir: Path, *, num_seeds: int, flags: Sequence[str] = ()
) -> list[PlannedRun]:
    """The runs in the order in which they are trained: all variants with the first seed, then all with the next.

    Args:
      file: the file of the ablation.
      ablation: what the file defines.
      workdir: folder for the runs.
      num_seeds: number of seeds, counted up from the `seed` of the base config.
      flags: keys for all variants, each written "--config.key=value".

    Raises `UserError` for a key, value or name that is not valid in any variant, for two variants that are the same run, and for
    a run in `workdir` that was trained with other values.
    """
    if num_seeds < 1:
        raise UserError(f"--seeds {num_seeds} must be at least 1")
    if not ablation.variants:
        raise UserError(f"{file}: has no variants; add some, the baseline first")
    for flag in flags:
        if not re.match(r"--config\.[\w.]+=", flag):
            raise UserError(f"{flag!r} is not a flag; to set a key for all variants, write --config.section.key=value")
    configs: dict[str, ConfigDict] = {}
    words: dict[str, list[str]] = {}
    for name, overrides in ablation.variants.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
            raise UserError(
                f"{file}: variant {name!r} cannot be the name of a folder; use only letters, digits and . _ + -"
            )
        if ablation.tokenizers and name == ROWS_OF_TOKENIZERS:
            raise UserError(f"{file}: variant {name!r}: the token rows of the tokenizers have this folder; rename it")
        try:
            words[name] = _words(file, ablation, overrides, workdir, flags)
            configs[name] = _config(words[name])
        except UserError as error:
            raise UserError(f"{file}: variant {name!r}: {error}") from error
        _check_same_text_as(file, ablation, name, configs[name])
        for other in words.keys() - {name}:
            if _same_text_as(ablation, other) == _same_text_as(ablation, name) and to_json(configs[other]) == to_json(
                configs[name]
            ):
                raise UserError(f"{file}: variants {other!r} and {name!r} are the same run; remove one of them")
    first_seed = next(iter(configs.values())).seed
    runs = []
    for seed in range(first_seed, first_seed + num_seeds):
        for name in ablation.variants:
            own = [*words[name], f"--config.seed={seed}"]
            if configs[name].wandb.project:
                own.append(f"--config.wandb.name={file.stem}-{name}-seed-{seed}")  # else all are called "seed-0"
            run_dir = workdir / name / f"seed-{seed}"
            command = (sys.executable, "-m", "tonsai_jax.train", *own, f"--workdir={run_dir}")
            runs.append(PlannedRun(name, seed, run_dir, _config(own), command, _same_text_as(ablation, name)))
    for run in runs:
        if not run.same_text_as:
            check_begun(run)
    return runs


def rows_folder(workdir: Path, tokenizer: str) -> Path:
    """Where the token rows of a tokenizer of the ablation are."""
    return workdir / ROWS_OF_TOKENIZERS / tokenizer / "tokens"


def has_begun(run: PlannedRun) -> bool:
    """Whether the run has a checkpoint."""
    checkpoints = run.workdir / "checkpoints"
    return checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())


def check_begun(run: PlannedRun) -> None:
    """Raises `UserError` if the run has a checkpoint trained with other values: its result would belong to no variant."""
    saved = run.workdir / "config.json"
    if not saved.is_file() or not has_begun(run):
        return
    changes = differences(to_json(from_json(read_json(saved))), to_json(run.config))
    if changes:
        raise UserError(
            f"{run.workdir}: was trained with other values ({'; '.join(changes)}); "
            "use another --workdir, or remove this folder to train the run again"
        )


def _words(
    file: Path, ablation: Ablation, overrides: Mapping[str, Any], workdir: Path, flags: Sequence[str]
) -> list[str]:
    """The config file and keys of a variant as flags of training; a later flag overrides an earlier one."""
    if not isinstance(overrides, Mapping):
        raise UserError(f"{overrides!r} must be a dict such as {{'optimizer.learning_rate': 1e-3}}")
    for keys in (ablation.overrides, overrides):
        if "seed" in keys:
            raise UserError("cannot set seed; set the first seed in the base config, and use --seeds N for more")
    shared, own = (_keys(ablation, keys, workdir) for keys in (ablation.overrides, overrides))
    both = {flag.partition("=")[0].removeprefix("--config.") for flag in flags} & own.keys()
    if both:
        raise UserError(f"sets {', '.join(sorted(both))}, which a flag also sets for all variants; remove the flag")
    before, after = ([f"--config.{key}={value}" for key, value in keys.items()] for keys in (shared, own))
    return [f"--config={normpath(file.parent / ablation.base)}", *before, *flags, *after]


def _keys(ablation: Ablation, overrides: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """The keys of training: without "same_text_as", and with the rows of the tokenizer instead of its name."""
    keys = {key: value for key, value in overrides.items() if key not in (TOKENIZER, SAME_TEXT_AS)}
    if TOKENIZER in overrides:
        name = overrides[TOKENIZER]
        if name not in ablation.tokenizers:
            raise unknown_name(TOKENIZER, name, ablation.tokenizers)
        if "data.dir" in keys:
            raise UserError("sets tokenizer and data.dir; remove one, a tokenizer has token rows of its own")
        keys["data.dir"] = rows_folder(workdir, name)
    return keys


def _same_text_as(ablation: Ablation, variant: str) -> str | None:
    return ablation.variants[variant].get(SAME_TEXT_AS)


def _check_same_text_as(file: Path, ablation: Ablation, variant: str, config: ConfigDict) -> None:
    """Raises `UserError` unless the text of the variant can be made that of the one it names."""
    other = _same_text_as(ablation, variant)
    if other is None:
        return
    others = [name for name in ablation.variants if name != variant and not _same_text_as(ablation, name)]
    if other not in others:
        raise UserError(f"{file}: variant {variant!r}: {unknown_name(SAME_TEXT_AS, other, others)}")
    if config.stages:
        raise UserError(f"{file}: variant {variant!r}: same_text_as sets length and weights, so it cannot have stages")


def _config(words: Sequence[str]) -> ConfigDict:
    config, _, _ = parse_flags(["train", *words], "")
    validate(config)
    return config
