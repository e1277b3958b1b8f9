"""Nothing that is read can run a program: the source is searched for the calls that could (docs/security.md).

A new reader that needs one of these calls needs another format instead.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("tonsai_jax", "scripts", "configs") for path in (ROOT / folder).rglob("*.py"))

# Modules that turn bytes into programs or objects. `multiprocessing` pickles too, but only between processes of one command.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "hickle"}
# By the last name of the call: safe ones are in the comments.
CALLS = {
    "eval": "nothing",
    "exec": "nothing",
    "compile": "nothing",  # the builtin; `re.compile` and a method of that name are other names
    "yaml.load": "yaml.safe_load",
    "yaml.load_all": "yaml.safe_load_all",
    "yaml.unsafe_load": "yaml.safe_load",
    "yaml.full_load": "yaml.safe_load",
    "torch.load": "safetensors",
    "torch.hub.load": "safetensors",
    "os.system": "subprocess.run with a list",
    "os.popen": "subprocess.run with a list",
    "pandas.read_pickle": "parquet",
    "pd.read_pickle": "parquet",
}
# Arguments that must not be there, or must not be true.
ARGUMENTS = ("trust_remote_code", "allow_pickle", "shell")
# Downloads name the files that they need.
DOWNLOADS = ("snapshot_download",)


def name_of(node: ast.expr) -> str:
    """'yaml.load' of `yaml.load(...)`."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def faults_in(source: str) -> Iterator[str]:
    """What in a program could run what it reads: 'line 3: pickle'."""
    for node in ast.walk(ast.parse(source)):
        for module in imported(node):
            if module.partition(".")[0] in MODULES:
                yield f"line {node.lineno}: imports {module}"  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if name in CALLS:
            yield f"line {node.lineno}: {name}(); use {CALLS[name]}"
        for argument in node.keywords:
            is_off = isinstance(argument.value, ast.Constant) and argument.value.value is False
            if argument.arg in ARGUMENTS and not is_off:
                yield f"line {node.lineno}: {name}({argument.arg}=...)"
        if name.rpartition(".")[2] in DOWNLOADS and "allow_patterns" not in {each.arg for each in node.keywords}:
            yield f"line {node.lineno}: {name}() without allow_patterns"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "import joblib.externals",
        "x = eval(text)",
        "exec(open(path).read())",
        "yaml.load(text, Loader)",
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=wanted)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(words, shell=True)",
        "snapshot_download(name)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert list(faults_in(source))


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "re.compile(pattern)",
        "yaml.safe_load(text)",
        "np.load(path, allow_pickle=False)",
        "snapshot_download(name, allow_patterns=['*.json'])",
    ],
)
def test_the_search_lets_what_is_safe_pass(source: str) -> None:
    assert not list(faults_in(source))


def test_no_program_of_the_project_can_run_what_it_reads() -> None:
    assert len(FILES) > 300
    found = {str(path.relative_to(ROOT)): list(faults_in(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {path: faults for path, faults in found.items() if faults} == {}
