"""The console entry `tonsai`, and what holds for every command: its name, its help, the commands that texts name."""

import contextlib
import io
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest

from tonsai_jax.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
every_command = pytest.mark.parametrize("name", COMMANDS)


def tonsai(*words: str) -> tuple[int, str, str]:
    """Runs the entry in this process; returns the exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["tonsai", *words]),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def help_of(name: str) -> str:
    return tonsai(name, "--help")[1]


def test_the_package_installs_the_entry() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["tonsai"].split(":")
    assert getattr(import_module(module), function) is main


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_has_one_line_for_each_command_in_the_order_of_the_pipeline(words: tuple[str, ...]) -> None:
    code, out, _ = tonsai(*words)
    assert code == 0
    assert re.findall(r"^  ([a-z-]+)  ", out, re.MULTILINE) == list(COMMANDS)


def test_every_module_of_commands_is_a_command() -> None:
    modules = {path.stem.replace("_", "-") for path in (ROOT / "tonsai_jax" / "commands").glob("[!_]*.py")}
    assert modules == COMMANDS.keys() - {"train"}


def test_the_version_is_that_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert tonsai("--version") == (0, f"tonsai {version}\n", "")


def test_an_unknown_command_ends_in_one_line_with_a_suggestion() -> None:
    assert tonsai("tokenise") == (
        1,
        "",
        "error: tonsai tokenise: no such command; did you mean 'tokenize'? (tonsai --help)\n",
    )


@every_command
def test_help_of_a_command_names_it_as_it_was_called(name: str) -> None:
    code, out, err = tonsai(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: tonsai {name} ") or name == "train"


def test_the_module_is_the_entry_too() -> None:
    words = [sys.executable, "-m", "tonsai_jax", "prepare", "--khmer", "nothing.txt", "--output-dir", "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: nothing.txt: no such file or folder")


def test_the_entry_loads_no_library_and_a_command_loads_only_its_own() -> None:
    code = (
        "import sys\nfrom tonsai_jax.__main__ import main\n"
        "sys.argv = ['tonsai', 'estimate', '--help']\n"
        "loaded = lambda: ' '.join({'numpy', 'jax', 'pyarrow', 'argparse'} & set(sys.modules))\n"
        "before = loaded()\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(before + '|' + loaded())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "|argparse\n"


def texts() -> list[Path]:
    """Everything that may tell a person which command to type."""
    folders = (ROOT / "tonsai_jax", ROOT / "configs", ROOT / "docs")
    files = [path for folder in folders for ending in ("py", "md", "yaml") for path in folder.rglob(f"*.{ending}")]
    return [*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def test_every_command_that_a_text_names_exists_and_has_the_flags_named_with_it() -> None:
    helps = {name: help_of(name) for name in COMMANDS}
    wrong = []
    for path in texts():
        text = re.sub(r"\\+\n", " ", path.read_text(encoding="utf-8"))  # a command may go on in the next line
        for name, rest in re.findall(r"(?<![\w/-])tonsai ([a-z][\w-]*)([^`\n]*)", text):
            if name not in COMMANDS:
                wrong.append(f"{path.relative_to(ROOT)}: tonsai {name}")
                continue
            for flag in re.findall(r"(?<!\S)--[a-z][\w-]*(?=[\s=]|$)", rest):
                if flag not in helps[name]:
                    wrong.append(f"{path.relative_to(ROOT)}: tonsai {name} {flag}")
    assert not wrong
