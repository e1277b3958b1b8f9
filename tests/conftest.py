"""The two tiers of tests, JAX's settings for them, and the fixtures that several rooms use."""

import os
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.support.made_once import MadeOnce
from tests.support.tiny_run import TinyRun, make_rows
from tonsai_jax.interrupts import ENDING_SIGNALS
from tonsai_jax.reporting.progress_bar import Progress


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `full` too")


def pytest_configure(config: pytest.Config) -> None:
    everything = config.getoption("--all")
    if not any(word.startswith("-m") for word in config.invocation_params.args):
        config.option.markexpr = "not slow" if everything else "not slow and not full"
    # A shell lets what it starts in the background ignore Ctrl-C, and nohup a hangup; what a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    settings = {
        "JAX_PLATFORMS": "cpu",
        # Most of the tests' time is XLA's: programs are compiled once for all processes, and for the next call of pytest.
        "JAX_COMPILATION_CACHE_DIR": str(config.cache.mkdir("jax-programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    # Compiles in half the time. Set it to 0 to compile as a user's run does.
    quick = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
    if quick and version("jax").startswith("0.10."):  # saves a third more; JAX 0.12 ends the process at this flag
        settings["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


@pytest.fixture(autouse=True)
def jobs_of_other_tests_are_long_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it ten seconds of jobs in earlier tests of this process could make this one print how far it is."""
    monkeypatch.setattr(Progress, "_ended", float("-inf"))


@pytest.fixture(autouse=True)
def signals_do_what_they_did() -> Iterator[None]:
    """A run that is saved leaves signals ignored to the end of its process, and processes that this one starts inherit that."""
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MadeOnce:
    base = tmp_path_factory.getbasetemp()
    return MadeOnce(
        (base if worker_id == "master" else base.parent) / "made-once"
    )  # xdist's processes share the parent


@pytest.fixture(scope="session")
def rows(made_once: MadeOnce) -> Path:
    """Token rows of 100 stories in Khmer and in English."""
    return made_once("stories", make_rows) / "rows"


@pytest.fixture(scope="session")
def trained(rows: Path, made_once: MadeOnce) -> Path:
    """A run with checkpoints at steps 2 and 4; copy it before you touch it."""

    def train(folder: Path) -> None:
        TinyRun(rows, folder / "run", ("checkpoint.every=2",)).train(steps_today=4)

    return made_once("trained", train) / "run"


@pytest.fixture
def run(rows: Path, tmp_path: Path) -> TinyRun:
    return TinyRun(rows, tmp_path / "run")


@pytest.fixture(scope="session")
def hf() -> tuple[Any, Any]:
    """torch and transformers."""
    reason = "PyTorch and transformers are not installed; `uv sync --extra hf` brings them"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers
