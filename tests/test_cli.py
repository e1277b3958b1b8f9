"""The command line of training: keys are set from it, and every mistake in it is one line that names the word."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tonsai_jax import train
from tonsai_jax.cli import Limits, parse_flags
from tonsai_jax.errors import UserError

ROOT = Path(__file__).parents[1]
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"
STAGED = """
from tonsai_jax.config import default_config

def get_config():
    config = default_config()
    config.stages = ({"steps": 9000}, {"steps": 1000, "weights": {"khmer": 1.0}})
    return config
"""


def parse(*words: str) -> tuple[ConfigDict, Path, Limits]:
    return parse_flags(["train", *words], "How to train.")


def test_a_config_file_alone_is_enough() -> None:
    config, workdir, limits = parse(QUICKSTART)
    assert config.data.dir == "data/quickstart"
    assert workdir == Path("runs/quickstart")
    assert limits == (None, None)


def test_the_name_of_the_config_may_be_a_word_of_its_own() -> None:
    flag, path = QUICKSTART.split("=")
    assert parse(flag, path)[0].to_dict() == parse(QUICKSTART)[0].to_dict()


def test_the_workdir_and_the_limits_of_today_are_taken() -> None:
    _, workdir, limits = parse(QUICKSTART, "--workdir", "runs/mine", "--steps_today=5", "--max_hours=1.5")
    assert (workdir, limits) == (Path("runs/mine"), Limits(steps_today=5, max_hours=1.5))


def test_a_variant_of_a_config_has_its_own_workdir() -> None:
    config, workdir, _ = parse(f"--config={ROOT / 'configs' / 'gpt2_500m.py'}:exact")
    assert config.model.num_layers == 22
    assert workdir == Path("runs/gpt2_500m_exact")


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("--config.steps=7", "steps", 7),
        ("--config.model.num_layers=2", "model.num_layers", 2),
        ("--config.optimizer.learning_rate=1e-3", "optimizer.learning_rate", 1e-3),
        ("--config.optimizer.clip_norm=2", "optimizer.clip_norm", 2.0),
        ("--config.model.document_mask=True", "model.document_mask", True),
        ("--config.model.document_mask", "model.document_mask", True),
        ("--noconfig.export", "export", False),
        ("--config.data.dir=data/mine", "data.dir", "data/mine"),
        ("--config.data.weights={'khmer': 1, 'english': 0.5}", "data.weights", {"khmer": 1, "english": 0.5}),
        ("--config.sample.prompts=('ខ្មែរ',)", "sample.prompts", ("ខ្មែរ",)),
        ("--config.stages=({'steps': 5}, {'steps': 6})", "stages", ({"steps": 5}, {"steps": 6})),
    ],
)
def test_a_key_is_set(word: str, key: str, value: object) -> None:
    config, _, _ = parse(QUICKSTART, word)
    section, _, name = key.rpartition(".")
    got = config[section][name] if section else config[name]
    assert (got.to_dict() if isinstance(got, ConfigDict) else got) == value


def test_a_key_inside_a_stage_is_set(tmp_path: Path) -> None:
    (tmp_path / "staged.py").write_text(STAGED)
    config, workdir, _ = parse(f"--config={tmp_path / 'staged.py'}", "--config.stages[0].steps=8")
    assert config.stages[0]["steps"] == 8
    assert config.stages[1]["steps"] == 1000
    assert workdir == Path("runs/staged")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--config is missing; try --config configs/quickstart.py"),
        (("configs/gpt2_124m.py", "--workdir=x"), "--config is missing; try --config configs/gpt2_124m.py"),
        (
            (QUICKSTART, "--config.model.num_layer=2"),
            r"--config\.model\.num_layer=2: no such key; did you mean num_layers",
        ),
        ((QUICKSTART, "--config.step=2"), r"--config\.step=2: no such key; did you mean steps"),
        ((QUICKSTART, "--config.device_batch_size=2"), r"no such key; it is called micro_batch_size now"),
        (
            (QUICKSTART, "--config.eval.max_batches=2"),
            r"no such key; it was replaced by eval\.tokens, the validation tokens",
        ),
        ((QUICKSTART, "--config.qqq=2"), r"--config\.qqq=2: no such key"),
        (
            (QUICKSTART, "--config.mdoel.num_layers=2"),
            r"--config\.mdoel\.num_layers=2: no such key; did you mean model",
        ),
        ((QUICKSTART, "--config.steps=many"), r"^--config\.steps=many: must be a whole number$"),
        ((QUICKSTART, "--config.steps=1.5"), r"^--config\.steps=1\.5: must be a whole number$"),
        ((QUICKSTART, "--config.steps", "many", "--workdir=x"), r"^--config\.steps=many: must be a whole number$"),
        ((QUICKSTART, "--config.steps="), r"^--config\.steps=: must be a whole number$"),
        ((QUICKSTART, "--config.steps"), r"^--config\.steps: its value is missing; write --config\.steps=VALUE$"),
        (
            (QUICKSTART, "--config.optimizer.learning_rate=abc"),
            r"^--config\.optimizer\.learning_rate=abc: must be a number$",
        ),
        ((QUICKSTART, "--config.export=maybe"), r"^--config\.export=maybe: must be True or False$"),
        (
            (QUICKSTART, "--config.stages=({'steps': 1},"),
            r"^--config\.stages=\({'steps': 1},: must be a tuple, such as ",
        ),
        (
            (QUICKSTART, "--config.model=5"),
            r"^--config\.model=5: is a section; set a key in it, as in --config\.model\.KEY",
        ),
        (
            (QUICKSTART, "--config.stages[3].steps=1"),
            r"^--config\.stages\[3\]\.steps=1: there is no stages\[3\]; they are counted from 0$",
        ),
        ((QUICKSTART, "--wrokdir=x"), "wrokdir.*workdir"),
        ((QUICKSTART, "--steps_today=soon"), "^--steps_today=soon: must be a whole number$"),
        ((QUICKSTART, "--steps_today=0"), "--steps_today=0 must be at least 1"),
        ((QUICKSTART, "--max_hours=0"), r"--max_hours=0\.0 must be more than 0"),
        ((QUICKSTART, "--max_hours=nan"), "--max_hours=nan must be more than 0"),
        ((QUICKSTART, "steps=7"), "'steps=7' is not a flag; a flag is written --name=value"),
        (
            (f"--config={ROOT / 'configs' / 'gpt2_124m.py'}:tiny",),
            r"gpt2_124m\.py: this config has no variants; leave out what follows the colon",
        ),
        ((QUICKSTART, "--config.model.num_layers.x=3"), r"^--config\.model\.num_layers\.x=3: no such key"),
        ((QUICKSTART, "--config.data.weights[0]=3"), r"^--config\.data\.weights\[0\]=3: no such key"),
        (
            (f"--config={ROOT / 'configs' / 'ablations' / 'schedule.py'}",),
            r"schedule\.py: is an ablation, .*; run it with `tonsai ablate --config /.*schedule\.py`",
        ),
        ((f"--config={ROOT / 'configs' / 'data' / 'khmer.yaml'}",), r"khmer\.yaml: a config is a Python file, such as"),
        (
            (QUICKSTART, "--config", "configs/small.py", "--config.steps=2"),
            r"--config .*quickstart\.py and --config configs/small\.py: a run has one config; keep one of them",
        ),
        (("--config=configs/none.py",), r"--config=configs/none\.py: no such file; there are some in configs/"),
        (
            (f"--config={ROOT / 'configs' / 'gpt2_500m.py'}:tiny",),
            "variant='tiny' is not known; known are: exact, muon",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_it(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(*(words or ("--workdir=x",)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n    pass\n", r"broken\.py, line 1"),
        ("x = 1\n", r"broken\.py: has no function get_config\(\); see the files in configs/"),
        ("def get_config():\n    pass\n", r"broken\.py: get_config\(\) returns None; it must return a config"),
        ("def get_config():\n    return undefined_name\n", r"broken\.py, line 2: NameError: .*undefined_name"),
        (
            "from tonsai_jax.config import default_config\n"
            "def get_config():\n    config = default_config()\n    config.model.num_layer = 2\n    return config\n",
            r"broken\.py, line 4: no such key 'num_layer'; did you mean num_layers\?",
        ),
        (
            "from tonsai_jax.config import default_config\n"
            "def get_config():\n    config = default_config()\n    config.steps = 'many'\n    return config\n",
            r"broken\.py, line 4: .*steps",
        ),
        ("import a_module_that_is_not_there\n", r"broken\.py, line 1: .*a_module_that_is_not_there"),
    ],
)
def test_a_config_file_that_does_not_load_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # what a file before this one left
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        parse(f"--config={tmp_path / 'broken.py'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_shows_an_example_and_every_flag(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_flags(["train", *words], train.__doc__ or "")
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "python -m tonsai_jax.train --config configs/quickstart.py" in told
    for flag in ("--config", "--workdir", "--steps_today", "--max_hours"):
        assert flag in told


def test_a_mistake_ends_the_command_with_one_line_and_no_trace() -> None:
    words = [sys.executable, "-m", "tonsai_jax.train", QUICKSTART, "--config.step=2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: --config.step=2: no such key; did you mean steps?"]


# Takes the place of JAX, which takes seconds to load. As in a `__del__`, an exception that a handler raises here is dropped.
DROPS_EXCEPTIONS = """
import os, signal
try:
    os.kill(os.getpid(), signal.NAME)
    while True: pass
except BaseException:
    print("went on")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
@pytest.mark.parametrize("words", [("-m", "tonsai_jax.train"), ("-m", "tonsai_jax", "train")])
def test_a_signal_while_the_trainer_is_loaded_ends_it(tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    (tmp_path / "jax.py").write_text(DROPS_EXCEPTIONS.replace("NAME", name))
    command = [sys.executable, *words, "--config", "configs/quickstart.py"]
    settings = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60, check=False)
    shown = "Ctrl-C" if name == "SIGINT" else name
    line = f"stopped by {shown}; nothing half-written was left under a final name\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.Signals[name], "", line)
