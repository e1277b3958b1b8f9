"""`tonsai plan`: mistakes are one line, and the printed command trains what was proposed."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.scaling.synthetic_runs import LAWS
from tests.scaling.test_runs import write_run
from tests.support.console import tonsai
from tests.support.tiny_run import CONFIG, make_rows, train_in_this_process
from tonsai_jax.scaling.fit import load_fit
from tonsai_jax.scaling.runs import read_runs

TOKENS = ("--tokens", "km=350e3", "en=7e6")
MINUTES = ("--cpu-minutes", "20")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (MINUTES, "no text: add --tokens km=8e6 en=60e6, or --data-dir DIR (token rows)"),
        (TOKENS, "give one budget: --cpu-minutes 20, or --gpu h100 --gpu-hours 20"),
        ((*TOKENS, *MINUTES, "--gpu-hours", "2"), "give one budget"),
        ((*TOKENS, "--gpu-hours", "2"), "--gpu and --gpu-hours belong together: --gpu h100 --gpu-hours 20"),
        ((*TOKENS, *MINUTES, "--gpu", "h100"), "--gpu and --gpu-hours belong together"),
        ((*TOKENS, "--cpu-minutes", "0"), "--cpu-minutes 0 must be above 0"),
        ((*TOKENS, *MINUTES, "--flops", "-1"), "--flops -1 must be above 0"),
        ((*TOKENS, "--gpu", "h1000", "--gpu-hours", "1"), "--gpu h1000: not in the table; did you mean 'h100'?"),
        (("--tokens", "km", *MINUTES), "--tokens km: write LANGUAGE=NUMBER with a number above 0, as in km=8e6"),
        (("--tokens", "km=-1", *MINUTES), "--tokens km=-1: write LANGUAGE=NUMBER"),
        (("--tokens", "km=1e6", "km=2e6", *MINUTES), "--tokens: km is given twice; give each language once"),
        (
            ("--tokens", "lo=1e6", *MINUTES, "--flops", "1e11"),
            "the fit has no law for lo, only for en, km; train short",
        ),
        (
            (*TOKENS, *MINUTES, "--importance", "km=1"),
            "--importance names km, and the text is in km, en; name the same",
        ),
        ((*TOKENS, "--cpu-minutes", "0.01", "--flops", "1e11"), "do not suffice for 100 steps of any model"),
        ((*TOKENS, *MINUTES, "--vocab-size", "0"), "--vocab-size 0: must be at least 1"),
        ((*TOKENS, *MINUTES, "--config", "no.py"), "--config=no.py: no such file; there are some in configs/"),
        (("--data-dir", "/nowhere", *MINUTES), "/nowhere: no token rows here (no manifest.json)"),
        (("--save-fit", "fit.json"), "--save-fit needs runs to fit: add --measured runs/ablations/scaling"),
        (
            ("--save-fit", "fit.json", "--measured", "runs", *TOKENS),
            "--save-fit only fits, and plans nothing: leave --tokens out",
        ),
        ((*TOKENS, *MINUTES, "--num-gpus", "3"), "--num-gpus 3: is for --gpu"),
        ((*TOKENS, "--gpu", "h100", "--gpu-hours", "1", "--num-gpus", "0"), "--num-gpus 0: must be at least 1"),
        ((*TOKENS, "--gpu", "h100", "--gpu-hours", "1", "--flops", "1e12"), "--flops is the speed of a CPU"),
        (
            (*TOKENS, *MINUTES, "--config", "configs/moe_1b.py"),
            "--config configs/moe_1b.py: sets stages, and a plan is for a run from scratch with one mix",
        ),
        (
            (*TOKENS, *MINUTES, "--config", "configs/gpt2_124m.py"),
            "--config configs/gpt2_124m.py: optimizer.name=adamw, and the law is of runs with muon; name a config with muon",
        ),
        (
            (*TOKENS, *MINUTES, "--measured", "/nowhere"),
            "--measured /nowhere: no such folder; give the folder of a run",
        ),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], message: str) -> None:
    code, out, err = tonsai("plan", *words)
    [line] = err.splitlines()
    assert (code, out) == (1, "")
    assert line.startswith("error: ")
    assert message in line


def test_one_run_is_too_few_for_a_fit(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "mine")
    code, _, err = tonsai("plan", "--measured", str(tmp_path / "runs"), "--save-fit", str(tmp_path / "fit.json"))
    assert code == 1
    assert "a fit needs complete runs of at least 3 sizes and 3 lengths" in err
    assert not (tmp_path / "fit.json").exists()


def test_a_plan_says_what_to_train_what_it_rests_on_and_where_to_start(tmp_path: Path) -> None:
    json_file = tmp_path / "plan.json"
    code, out, err = tonsai("plan", *TOKENS, *MINUTES, "--flops", "1e11", "--json", str(json_file))
    assert (code, err) == (0, "")
    figures = json.loads(json_file.read_text(encoding="utf-8"))
    assert figures["proposal"]["bits_per_byte"].keys() == LAWS.keys()
    assert figures["proposal"]["seconds"] <= 20 * 60
    assert "the fit rests on other text" in out
    assert "from scratch: the budget cannot continue an open model" in out
    assert figures["command"] in out


def test_a_plan_for_little_text_says_that_the_text_is_the_limit() -> None:
    for minutes, is_said in (("20", False), ("20000", True)):
        code, out, _ = tonsai("plan", *TOKENS, "--cpu-minutes", minutes, "--flops", "1e11")
        assert (code, "the text is the limit, not the budget" in out) == (0, is_said)


def test_a_plan_for_a_config_with_dropout_says_that_the_law_does_not_know_it() -> None:
    for config, is_said in (("configs/small.py", True), ("configs/small.py:30mb", False)):
        code, out, _ = tonsai("plan", *TOKENS, *MINUTES, "--flops", "1e11", "--config", config)
        assert (code, "the config has dropout, and the law has no term for it" in out) == (0, is_said)


def test_a_run_of_ones_own_sets_the_level(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", score=2.0)
    plain, own = (tmp_path / "plain.json", tmp_path / "own.json")
    for words, file in (((), plain), (("--measured", str(tmp_path)), own)):
        assert tonsai("plan", *TOKENS, *MINUTES, "--flops", "1e11", *words, "--json", str(file))[0] == 0
    shipped, adapted = (json.loads(file.read_text(encoding="utf-8")) for file in (plain, own))
    assert adapted["proposal"]["bits_per_byte"]["km"] > 1.2 * shipped["proposal"]["bits_per_byte"]["km"]
    assert any("adapted to their level" in note for note in adapted["notes"])


@pytest.mark.full
def test_the_printed_command_trains_exactly_the_proposal(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    config = tmp_path / "tiny.py"
    config.write_text(
        CONFIG.format(rows="").replace("eval.every = 0", "eval.every = 10_000").replace('"adamw"', '"muon"'),
        encoding="utf-8",
    )
    plan, workdir = tmp_path / "plan.json", tmp_path / "run"
    words = ("--data-dir", str(rows), "--cpu-minutes", "1", "--flops", "1e9")
    code, _, err = tonsai("plan", *words, "--config", str(config), "--workdir", str(workdir), "--json", str(plan))
    assert (code, err) == (0, "")
    figures = json.loads(plan.read_text(encoding="utf-8"))
    proposal = figures["proposal"]
    train_in_this_process([sys.executable, "-m", "tonsai_jax.train", *shlex.split(figures["command"])[2:]])
    [run] = read_runs(workdir)
    assert (run.layer_parameters, run.optimizer) == (proposal["layer_parameters"], load_fit().optimizer)
    for language, text in run.texts.items():
        assert float(text.read) / float(text.unique) == pytest.approx(proposal["epochs"][language], rel=0.01)
    record = json.loads((workdir / "complete.json").read_text(encoding="utf-8"))
    assert record["step"] == proposal["steps"] >= 100
    assert run.bits_per_byte.keys() == proposal["bits_per_byte"].keys()
