"""Modules import only downwards: to read a file one needs to know only what stands below it in this table."""

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tonsai_jax"

# From the ground up. A module imports those of the levels below its own, and its own folder's.
LEVELS = (
    ("choices", "errors", "interrupts"),
    ("sole_writer",),
    ("files", "sampling", "stages", "user_function"),
    ("checksums", "manifest_fields", "names"),
    ("reporting", "text"),
    ("jobs",),
    ("corpus",),
    ("tokenizer",),
    ("chat",),
    ("data",),
    ("model",),
    ("config",),
    ("config_checks", "saved_config"),
    ("runtime",),
    ("hosts",),
    ("training",),
    ("checkpoints",),
    ("huggingface", "planning"),
    ("inference",),
    ("chat_ui", "evaluation"),
    ("report",),
    ("gguf",),
    ("adapt",),
    ("reinforce",),
    ("samples", "teachers"),
    ("cli", "hooks", "opening"),
    ("finish", "roll_back"),
    ("train",),
    ("ablation",),
    ("scaling",),
    ("commands",),
    ("__main__",),
)
# Some know less than their level lets them.
ONLY = {
    "text": {"errors"},
    "reporting": {"errors", "files"},
    "jobs": {"errors", "files", "reporting"},
    "corpus": {"checksums", "errors", "files", "jobs", "manifest_fields", "names", "reporting", "sole_writer", "text"},
    "chat": {"corpus", "errors", "files", "text", "tokenizer"},
    "model": {"errors"},
    "config": {"errors", "sampling", "stages", "model"},
    "config_checks": {"choices", "errors", "stages", "config"},
    "saved_config": {"model", "config"},
    "runtime": {"errors", "files", "interrupts", "sole_writer"},
    "hosts": {"errors", "files", "reporting", "data", "saved_config", "runtime"},
    "planning": {
        "errors",
        "files",
        "reporting",
        "stages",
        "data",
        "model",
        "config",
        "config_checks",
        "saved_config",
        "runtime",
        "training",
    },
    "training": {
        "choices",
        "errors",
        "files",
        "reporting",
        "stages",
        "tokenizer",
        "data",
        "model",
        "config",
        "config_checks",
        "saved_config",
        "runtime",
        "hosts",
    },
    "chat_ui": {"chat", "errors", "inference", "reporting", "sampling"},
    "report": {
        "choices",
        "errors",
        "files",
        "reporting",
        "stages",
        "sampling",
        "model",
        "config",
        "saved_config",
        "evaluation",
    },
    "__main__": {"errors", "interrupts"},  # it imports a command when it knows which
    "ablation": {
        "errors",
        "files",
        "reporting",
        "stages",
        "jobs",
        "corpus",
        "data",
        "config",
        "config_checks",
        "saved_config",
        "evaluation",
        "cli",
    },
    "scaling": {
        "errors",
        "files",
        "manifest_fields",
        "reporting",
        "stages",
        "data",
        "model",
        "config",
        "saved_config",
        "runtime",
        "planning",
        "training",
        "cli",
    },
}
# Text is prepared on machines without an accelerator; there JAX would only cost seconds and memory.
WITHOUT_JAX = (
    *(
        PACKAGE / f"{name}.py"
        for name in ("checksums", "choices", "errors", "files", "manifest_fields", "names", "stages")
    ),
    *(PACKAGE / name for name in ("data/manifest.py", "data/rows.py", "data/row_writer.py", "data/tokenize.py")),
    *(
        file
        for room in ("text", "jobs", "corpus", "reporting", "tokenizer", "chat", "samples", "report")
        for file in PACKAGE.glob(f"{room}/**/*.py")
    ),
)

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


@functools.cache
def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, inside functions too, by their full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full, not relative"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    """The name in the table: of the file, or of the folder that it lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_used(path: Path) -> set[str]:
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("tonsai_jax.")}
    return ours - {part_of(path)}


def level_of(part: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if part in parts)


def test_the_table_names_every_part_of_the_package_once() -> None:
    assert sorted(part for parts in LEVELS for part in parts) == sorted({part_of(path) for path in MODULES})


@every_module
def test_a_module_imports_only_from_below(path: Path) -> None:
    above = {part for part in parts_used(path) if level_of(part) >= level_of(part_of(path))}
    assert not above, f"{path.name} imports {above}, which do not stand below it"


@every_module
def test_a_module_imports_no_more_than_its_part_may(path: Path) -> None:
    assert parts_used(path) <= ONLY.get(part_of(path), {part for parts in LEVELS for part in parts})


def test_no_modules_of_one_folder_import_each_other_in_a_ring() -> None:
    def name_of(path: Path) -> str:
        return ".".join(("tonsai_jax", *path.relative_to(PACKAGE).with_suffix("").parts))

    names = {name_of(path): path for path in MODULES}
    imported = {
        name: {other for other in names if any(f"{found}.".startswith(f"{other}.") for found in imports_of(path))}
        for name, path in names.items()
    }
    while imported:  # take away those that import nothing that is left
        free = {name for name, others in imported.items() if not others & imported.keys()}
        assert free, f"import each other in a ring: {sorted(imported)}"
        imported = {name: others for name, others in imported.items() if name not in free}


@every_module
def test_no_module_needs_pytorch_transformers_or_a_script(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"torch", "transformers", "scripts", "tests"}


@pytest.mark.parametrize("path", WITHOUT_JAX, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_for_text_imports_jax(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"jax", "flax", "optax", "orbax"}


def test_preparing_text_and_reading_a_report_never_load_jax() -> None:
    """Not through another module either."""
    names = ("corpus.prepare", "samples.stories", "tokenizer.training", "data.tokenize", "report.write")
    code = "import sys\n" + "".join(f"import tonsai_jax.{name}\n" for name in names)
    code += "sys.exit(' '.join({'jax', 'flax', 'torch'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@functools.cache
def loaded_by_the_trainer() -> dict[str, str | None]:
    """The file of every module that `import tonsai_jax.train` loads, by the module's name."""
    code = (
        "import json, sys, tonsai_jax.train\n"
        "json.dump({name: getattr(module, '__file__', None) for name, module in sys.modules.items()}, sys.stdout)"
    )
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_the_trainer_loads_nothing_that_prepares_text() -> None:
    """It reads token rows; the quickstart alone cleans text, and imports that when it needs it."""
    for name in ("tonsai_jax.corpus", "tonsai_jax.jobs", "tonsai_jax.tokenizer.training", "datasets", "datatrove"):
        assert not [module for module in loaded_by_the_trainer() if f"{module}.".startswith(f"{name}.")], name


def test_the_trainer_does_not_load_pytorch() -> None:
    """Where it is installed, it takes as long to load as everything else together."""
    assert not {"torch", "transformers", "tensorflow"} & loaded_by_the_trainer().keys()


def test_the_trainer_loads_little() -> None:
    """What a reader of the train command must know; files without a line of code do not count."""
    ours = [file for name, file in loaded_by_the_trainer().items() if name.partition(".")[0] == "tonsai_jax" and file]
    lines = [len(Path(file).read_text(encoding="utf-8").splitlines()) for file in ours]
    assert sum(count > 0 for count in lines) <= 87
    assert sum(lines) <= 12_100
