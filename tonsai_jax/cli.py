"""The flags of `python -m tonsai_jax.train`; every mistake in them ends in a one-line error."""

import re
import sys
import traceback
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from tonsai_jax.config import RENAMED
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_write

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
    flags.DEFINE_integer(
        "steps_today", None, "Train at most this many steps, then save and exit with code 0.", flag_values=values
    )
    if len(argv) < 2 or {"--help", "-h", "-help", "--helpfull"} & set(argv[1:]):
        print(f"{doc}\nFlags:\n{values.main_module_help() or values.get_help()}")
        sys.exit(0)
    file = _config_file(argv)
    if not file:
        raise UserError("--config is missing; try --config configs/quickstart.py")
    if not Path(file).is_file():
        raise UserError(f"--config={file}: no such file; there are some in configs/")
    try:
        rest = values(argv)[1:]
        config = values.config
    except UserError:
        raise
    except Exception as error:  # a config file is a program: anything can go wrong in it
        raise UserError(_explained(error, argv, file)) from error
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag; a flag is written --name=value (see --help)")
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config() returns {config!r}; it must return a config, as those in configs/ do")
    if values.steps_today is not None and values.steps_today < 1:
        raise UserError(f"--steps_today={values.steps_today} must be at least 1")
    path = config_flags.get_config_filename(values["config"])
    workdir = folder_to_write(values.workdir) if values.workdir else default_workdir(path)
    return config, workdir, values.steps_today


def default_workdir(config_path: str) -> Path:
    """The workdir of a command without --workdir: for 'configs/gpt2_500m.py:exact' it is 'runs/gpt2_500m_exact'."""
    file, _, variant = config_path.partition(":")
    return Path("runs", Path(file).stem + (f"_{variant}" if variant else ""))


def _config_file(argv: list[str]) -> str:
    """The file that --config names, without its variant; empty where there is none."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            return (value if equals else following).partition(":")[0]
    return ""


def _explained(error: BaseException, argv: list[str], file: str) -> str:
    """One line about a mistake, with the line of the config file or the word of the command line where it is."""
    chain = [error]
    while (context := chain[-1].__context__) is not None:
        chain.append(context)
    cause = next(each for each in chain if "Traceback" not in str(each))  # the libraries wrap it with a stack trace
    if isinstance(cause, SyntaxError):
        return f"{cause.filename}, line {cause.lineno}: {cause.msg}"
    text = " ".join(str(cause.args[0] if cause.args else cause).replace("\\n", " ").replace("\\'", "'").split())
    suggestion = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    unknown = suggestion[2] if suggestion else text.strip("'\"")
    meant = f"; did you mean {suggestion[1]}?" if suggestion else " (see tonsai_jax/config.py)"
    if renamed := next((old for old in RENAMED if re.search(rf"\b{old}\b", text)), None):
        unknown, meant = renamed, f"; it is called {RENAMED[renamed]} now"
    frames = [frame for each in chain for frame in traceback.extract_tb(each.__traceback__)]
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == Path(file).absolute()]
    if lines:
        what = f"no such key {unknown!r}{meant}" if suggestion or renamed else f"{type(cause).__name__}: {text}"
        return f"{file}, line {lines[-1]}: {what}"
    for word in argv:
        if re.search(rf"\.{re.escape(unknown)}(\.|$)", word.partition("=")[0]):
            return f"{word}: no such key{meant}"
    return f"{text} (in: {' '.join(argv[1:])})"
