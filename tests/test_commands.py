"""The console entry `tonsai`, and what holds for every command: its name, its help, the commands that texts name."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.console import tonsai
from tonsai_jax.__main__ import COMMANDS, main
from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import file_to_write, folder_to_replace, folder_to_write

ROOT = Path(__file__).parents[1]
every_command = pytest.mark.parametrize("name", COMMANDS)


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
    modules = {path.stem.replace("_", "-") for path in (ROOT / "tonsai_jax" / "commands").glob("[!_]*.py")} - {"parser"}
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
        "loaded = lambda: ' '.join({'jax', 'pyarrow', 'argparse'} & set(sys.modules))\n"
        "before = loaded()\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(before + '|' + loaded())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "|argparse\n"


def test_a_word_that_is_not_utf8_ends_every_command_in_one_line() -> None:
    for name in COMMANDS:
        error = "error: b'--prompt=\\xff' is not UTF-8 text; set the terminal to UTF-8, or rename the file\n"
        assert tonsai(name, "--prompt=\udcff") == (1, "", error)


# Places that cannot be written


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "no folder can be made here, a file is in the way; choose another folder"),
        ("file/below", "no folder can be made here, a file is in the way; choose another folder"),
        ("folder/" + 300 * "x" + "/below", "cannot be written here (File name too long); choose another folder"),
        ("/proc/below", "cannot be written here (No such file or directory); choose another folder"),
    ],
)
def test_every_command_refuses_a_place_that_it_cannot_write_before_any_work(
    place: str, message: str, tmp_path: Path
) -> None:
    """Also before it looks at the other flags, which are not given here (but the trainer's)."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    path = tmp_path / place
    for name, flag in written_by_commands():
        if flag not in ("--json", "--output") or place != "file":
            others = ("--config=configs/quickstart.py",) if name == "train" else ()
            assert tonsai(name, *others, flag, str(path)) == (1, "", f"error: {path}: {message}\n")
    assert (tmp_path / "file").read_text() == "mine"
    assert not any((tmp_path / "folder").iterdir())


def test_every_command_refuses_a_folder_where_a_file_is_to_be_written(tmp_path: Path) -> None:
    message = f"error: {tmp_path}: is a folder, but a file is to be written; give the name of a file\n"
    for name, flag in written_by_commands():
        if flag in ("--json", "--output"):
            assert tonsai(name, flag, str(tmp_path)) == (1, "", message)


@functools.cache
def written_by_commands() -> set[tuple[str, str]]:
    """(command, flag) for every flag that names a place to write; --workdir is only read by most commands."""
    helps = {name: help_of(name) for name in COMMANDS}
    flags = ("--output-dir", "--output", "--json")
    written = {(name, flag) for name, text in helps.items() for flag in flags if f"{flag} " in text}
    return written | {(name, "--workdir") for name in ("train", "ablate", "grpo")}


def test_all_commands_that_write_have_a_flag_that_says_where() -> None:
    assert {name for name, _ in written_by_commands()} == COMMANDS.keys() - {"chat", "lm-eval"}  # they write nothing


@pytest.mark.parametrize("check", [file_to_write, folder_to_write, folder_to_replace])
def test_a_folder_without_permission_to_write(check: Callable[[str], Path], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    is_root = os.geteuid() == 0  # who may write everywhere, and becomes nobody here
    if is_root:
        for parent in (tmp_path, *tmp_path.parents[:2]):
            parent.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="no permission to write here; choose another folder"):
            check(str(locked / "below"))
    finally:
        if is_root:
            os.seteuid(0)
    locked.chmod(0o755)
    assert check(str(locked / "below")) == locked / "below"
    assert not any(locked.iterdir())


def test_a_mount_point_is_no_folder_that_can_be_replaced() -> None:
    with pytest.raises(UserError, match="/dev: is a mount point, which cannot be replaced; give a folder in it"):
        folder_to_replace("/dev")


@pytest.mark.parametrize(
    ("part", "commands"),
    [
        ("jobs", ("prepare", "tokenize", "data")),
        ("data/rows.py", ("train", "evaluate")),
        ("data/manifest.py", ("train", "evaluate", "estimate")),
        ("evaluation", ("evaluate",)),
        ("inference", ("generate", "evaluate", "export")),
        ("planning", ("estimate",)),
        ("ablation", ("ablate",)),
        ("huggingface", ("export",)),
    ],
)
def test_an_error_names_no_flag_that_its_command_does_not_have(part: str, commands: tuple[str, ...]) -> None:
    """Unless it names the command too, as in `tonsai tokenize --val-ratio`."""
    path = ROOT / "tonsai_jax" / part
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "UserError":
                pieces = (node.value for node in ast.walk(call) if isinstance(node, ast.Constant))
                text = re.sub(r"`tonsai [^`]*`|uv sync --inexact --extra", "", "".join(str(piece) for piece in pieces))
                for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", text):
                    assert all(flag in help_of(name) for name in commands), f"{file.name}: {flag} in {text!r}"


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("data", "--khmer", "k.txt"),
            "give either --vocab-size N, to train a tokenizer (8000 for a first try), or --tokenizer-dir",
        ),
        (("generate", "--workdir", "x", "--top-k", "many"), "argument --top-k: invalid int value: 'many' (tonsai gene"),
        (("report", "--workdir", "x", "--output", ""), "the name of the file to write is empty"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(words: tuple[str, ...], message: str) -> None:
    code, _, err = tonsai(*words)
    [line] = err.splitlines()
    assert (code, line.startswith("error: ")) == (1, True)
    assert message in line


def test_a_checkpoint_is_chosen_by_its_step_or_as_the_best() -> None:
    parser = CommandParser(description="", epilog="")
    parser.add_step("checkpoint to use")
    assert [parser.parse_args(words).step for words in ([], ["--step", "500"], ["--step", "best"])] == [
        None,
        500,
        "best",
    ]
    for wrong in ("newest", "-1", "1.5"):
        with pytest.raises(UserError, match=f"^--step {re.escape(wrong)}: must be the step of a checkpoint, or best$"):
            parser.parse_args([f"--step={wrong}"])
