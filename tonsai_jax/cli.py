"""The flags of `python -m tonsai_jax.train`; every mistake in them ends in a one-line error."""

import re
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from tonsai_jax.checkpoints.remote_workdir import is_url, working_folder
from tonsai_jax.errors import UserError
from tonsai_jax.files import folder_to_write
from tonsai_jax.hosts.place import set_place
from tonsai_jax.saved_config import RENAMED, REPLACED

_HELP = "Config file, with an optional variant: configs/gpt2_500m.py or configs/gpt2_500m.py:exact."

# For a process of several where no scheduler starts them (docs/multi-host.md).
_PLACE = {
    "coordinator": "HOST:PORT of process 0, in a run of several processes; as JAX_COORDINATOR_ADDRESS.",
    "num_processes": "Processes of the run; as JAX_NUM_PROCESSES.",
    "process_id": "Which of them this one is, from 0; as JAX_PROCESS_ID.",
}


class Limits(NamedTuple):
    """Where a process stops before its run is complete; None for no limit.

    Attributes:
      steps_today: after so many steps.
      max_hours: after the step that ends later than this since the process started.
    """

    steps_today: int | None
    max_hours: float | None


def parse_flags(argv: list[str], doc: str) -> tuple[ConfigDict, Path, Limits]:
    """The config with its overrides, the workdir, and how far to train today.

    Args:
      argv: the command line, program name first.
      doc: what --help prints, above the flags.

    Raises `UserError` for an unknown flag or key, a value of the wrong type, or a config file that does not load.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, _HELP, flag_values=values, lock_config=True, sys_argv=argv)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run, or a gs:// or s3:// URL; runs/<name of the config> if not given.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps_today", None, "Train at most this many steps, then save and exit with code 0.", flag_values=values
    )
    flags.DEFINE_float(
        "max_hours", None, "Save and exit with code 0 this many hours after the process started.", flag_values=values
    )
    for name, meaning in _PLACE.items():
        define = flags.DEFINE_string if name == "coordinator" else flags.DEFINE_integer
        define(name, None, meaning, flag_values=values)
    if len(argv) < 2 or {"--help", "-h", "-help", "--helpfull"} & set(argv[1:]):
        print(f"{doc}\nFlags:\n{values.main_module_help() or values.get_help()}")
        sys.exit(0)
    file = _config_file(argv)
    if not file:
        meant = next((word for word in argv[1:] if word.endswith(".py")), "configs/quickstart.py")
        raise UserError(f"--config is missing; try --config {meant}")
    if not Path(file).is_file():
        raise UserError(f"--config={file}: no such file; there are some in configs/")
    _check_kind(Path(file))
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
    if values.max_hours is not None and not values.max_hours > 0:
        raise UserError(f"--max_hours={values.max_hours} must be more than 0, such as 0.5 for half an hour")
    set_place(*(values[name].value for name in _PLACE))
    path = config_flags.get_config_filename(values["config"])
    if values.workdir and is_url(values.workdir):
        if config.checkpoint.mirror not in ("", values.workdir):
            raise UserError(
                f"--workdir={values.workdir} is a URL, to which the run is copied; so is "
                f"checkpoint.mirror={config.checkpoint.mirror}, and a run has one such place: give one of the two"
            )
        config.checkpoint.mirror = values.workdir
        workdir = folder_to_write(str(working_folder(values.workdir)))
    else:
        workdir = folder_to_write(values.workdir) if values.workdir else default_workdir(path)
    return config, workdir, Limits(values.steps_today, values.max_hours)


def default_workdir(config_path: str) -> Path:
    """The workdir of a command without --workdir: for 'configs/gpt2_500m.py:exact' it is 'runs/gpt2_500m_exact'.

    A folder in configs/ is part of the name, since configs of two folders can have the same name: 'runs/sft_full'.
    """
    file, _, variant = config_path.partition(":")
    folders = Path(file).parent.parts
    inner = folders[len(folders) - folders[::-1].index("configs") :] if "configs" in folders else ()
    return Path("runs", "_".join((*inner, Path(file).stem, *filter(None, [variant]))))


def _config_file(argv: list[str]) -> str:
    """The file that --config names, without its variant; empty where there is none. Raises `UserError` for two of them."""
    given = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            given.append(value if equals else next(words, ""))
    if len(given) > 1:
        raise UserError(f"--config {given[0]} and --config {given[1]}: a run has one config; keep one of them")
    return given[0].partition(":")[0] if given else ""


def _explained(error: BaseException, argv: list[str], file: str) -> str:
    """One line about a mistake, with the line of the config file or the word of the command line where it is."""
    chain = [error]
    while (context := chain[-1].__context__) is not None:
        chain.append(context)
    cause = next(each for each in chain if "Traceback" not in str(each))  # the libraries wrap it with a stack trace
    if isinstance(cause, SyntaxError):
        return f"{cause.filename}, line {cause.lineno}: {cause.msg}"
    text = _one_line(str(cause.args[0] if cause.args else cause))
    suggestion = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    unknown = suggestion[2] if suggestion else text.strip("'\"")
    meant = f"; did you mean {suggestion[1]}?" if suggestion else " (see tonsai_jax/config.py)"
    if renamed := next((old for old in (*RENAMED, *REPLACED) if re.search(rf"\b{old}\b", text)), None):
        now = f"is called {RENAMED[renamed]} now" if renamed in RENAMED else f"was replaced by {REPLACED[renamed]}"
        unknown, meant = renamed, f"; it {now}"
    frames = [frame for each in chain for frame in traceback.extract_tb(each.__traceback__)]
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == Path(file).absolute()]
    if lines:
        what = f"no such key {unknown!r}{meant}" if suggestion or renamed else f"{type(cause).__name__}: {text}"
        return f"{file}, line {lines[-1]}: {what}"
    if "has no attribute 'get_config'" in text:
        return f"{file}: has no function get_config(); see the files in configs/"
    if "get_config() takes 0 positional arguments" in text:
        return f"{file}: this config has no variants; leave out what follows the colon"
    if word := _wrong_word(cause, text, argv, unknown, meant):
        return word
    if missing := re.fullmatch(r"Missing value for flag (\S+)", text):
        return f"{missing[1]}: its value is missing; write {missing[1]}=VALUE"
    return f"{text} (see --help)"


def _wrong_word(cause: BaseException, text: str, argv: list[str], unknown: str, meant: str) -> str:
    """The word of the command line that the error is about, and what is wrong with it; empty where it is about none."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        key = name.removeprefix("--config.")
        if re.search(rf"\.{re.escape(unknown)}(\.|$)", name):
            return f"{word}: no such key{meant}"
        if isinstance(cause, IndexError) and "[" in name:
            return f"{word}: there is no {key.partition(']')[0]}]; they are counted from 0"
        start = _one_line(f"flag {name}={value if equals else following}: ")
        if text.startswith(start):
            return f"{start.removeprefix('flag ')} {_expected(name, text.removeprefix(start).strip())}"
        if key != name and key in text.split():
            return f"{word}: no such key (see tonsai_jax/config.py)"
    return ""


def _check_kind(file: Path) -> None:
    """Raises `UserError` where the file is no config of a run but something else that a `--config` can name."""
    if file.suffix != ".py":
        raise UserError(f"--config={file}: a config is a Python file, such as configs/quickstart.py")
    if re.search(r"^def get_ablation\(", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
        raise UserError(
            f"--config={file}: is an ablation, variants of a config to compare; run it with `tonsai ablate --config {file}`"
        )


def _one_line(text: str) -> str:
    return " ".join(text.replace("\\n", " ").replace("\\'", "'").split())


def _expected(name: str, reason: str) -> str:
    """What the value of a flag must be, from the reason for which a library refused it."""
    for part, expected in (
        ("invalid literal for int()", "must be a whole number"),
        ("could not convert string to float", "must be a number"),
        ("Non-boolean argument", "must be True or False"),
        ("as tuple", "must be a tuple, such as (1, 2)"),
        ("as a ConfigDict", f"is a section; set a key in it, as in {name}.KEY=VALUE"),
    ):
        if part in reason:
            return expected
    return reason
