"""The flags of `python -m tonsai_jax.train`; every mistake in them is one line."""

import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from tonsai_jax.config import default_workdir
from tonsai_jax.errors import UserError

_HELP = "Config file, with an optional variant: configs/gpt2_500m.py or configs/gpt2_500m.py:exact."


def parse_flags(argv: list[str], doc: str) -> tuple[ConfigDict, Path, int | None]:
    """The config with its overrides, the workdir, and how many steps to train today (None: all).

    Args:
      argv: the command line, program name first.
      doc: what --help prints, above the flags.

    Raises `UserError` for an unknown flag or key, a value of the wrong type, or a config file that does not load.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, _HELP, flag_values=values, lock_config=True, sys_argv=argv)
    flags.DEFINE_string(
        "workdir", None, "Folder of the run; runs/<name of the config> if not given.", flag_values=values
    )
    flags.DEFINE_integer("steps_today", None, "Train at most so many steps, save, exit 0.", flag_values=values)
    if len(argv) < 2 or {"--help", "-h", "-help", "--helpfull"} & set(argv[1:]):
        print(f"{doc}\nFlags:\n{values.main_module_help() or values.get_help()}")
        sys.exit(0)
    try:
        rest = values(argv)[1:]
        config = values.config
        if config is not None:
            config.to_dict()  # raises what went wrong when the file was loaded
    except FileNotFoundError as error:
        raise UserError(f"--config: {error}; there are some in configs/") from error
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except (flags.Error, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(_told(error, argv)) from error
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag; a flag is written --name=value (see --help)")
    if config is None:
        raise UserError("--config is missing; try --config configs/quickstart.py")
    if values.steps_today is not None and values.steps_today < 1:
        raise UserError(f"--steps_today={values.steps_today} must be at least 1")
    path = config_flags.get_config_filename(values["config"])
    return config, Path(values.workdir) if values.workdir else default_workdir(path), values.steps_today


def _told(error: Exception, argv: list[str]) -> str:
    text = str(error.args[0] if error.args else error).replace("\\n", " ").replace("\\'", "'")
    suggestion = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    unknown = suggestion[2] if suggestion else text.strip("'\"")
    for word in argv:
        if word.partition("=")[0].endswith(f".{unknown}"):
            return f"{word}: no such key" + (
                f"; did you mean {suggestion[1]}?" if suggestion else " (see tonsai_jax/config.py)"
            )
    return f"{' '.join(text.split())} (in: {' '.join(argv[1:])})"
