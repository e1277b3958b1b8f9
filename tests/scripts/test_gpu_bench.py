"""scripts/bench/gpu.py, which runs unattended: here at a toy size, with PyTorch where it is installed."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from tests.support.made_once import MadeOnce
from tests.support.tiny_run import environment

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts" / "bench"
sys.path.insert(0, str(BENCH))

import gpu  # noqa: E402  # after the path
import gpu_process  # noqa: E402
from gpu_cases import CHECK, FLAGS, LOSSES, MAIN, MODELS, VARIANTS, Part, parts  # noqa: E402
from gpu_process import Ending, run_worker  # noqa: E402
from gpu_report import loss_difference, markdown, merged, tokens_per_second  # noqa: E402
from our_step import compiled_with  # noqa: E402

HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("transformers") is not None

# A step of training on a machine that has JAX, Flax, Optax and Orbax and nothing else of what this project installs.
BLOCKED = (
    "absl.app array_record datasets datatrove fasttext ftfy grain huggingface_hub jinja2 loguru ml_collections psutil "
    "pyarrow ray regex safetensors sentencepiece tensorboardX tiktoken tokenizers torch transformers"
)
BARE_STEP = f"""
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(f"{{name}}.".startswith(f"{{blocked}}.") for blocked in {BLOCKED.split()}):
            raise ModuleNotFoundError(f"not on this machine: {{name}}", name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, {str(BENCH)!r})
import gpu
import numpy as np
import tonsai_jax.training.loss, tonsai_jax.runtime.memory
from our_step import device_batch, make_step
from tonsai_jax.model.config import ModelConfig

config = ModelConfig(vocab_size=128, context_length=8, num_layers=1, num_heads=1, d_model=8, d_ff=8)
state, step, mesh = make_step(config, chunk_tokens=8)
state, metrics = step(state, device_batch(np.zeros((2, 9), np.uint16), mesh))
assert np.isfinite(float(metrics["loss"])) and int(state.step) == 1
"""


@pytest.mark.full
def test_a_training_step_needs_only_jax_flax_and_optax() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE_STEP], env=environment(1), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_main_case_is_the_recipes_model() -> None:
    from configs.gpt2_500m import get_config

    recipe = get_config()
    model = MODELS["gpt2_500m"]
    assert {name: recipe.model[name] for name in model if name != "vocab_size"} == {
        name: value for name, value in model.items() if name != "vocab_size"
    }
    assert (MAIN[0].micro_batch, MAIN[0].seq_len) == (recipe.micro_batch_size, recipe.seq_len)


def test_the_mixture_of_experts_is_the_recipes() -> None:
    from configs.moe_1b import get_config

    recipe = get_config().model
    assert {name: recipe[name] for name in MODELS["moe_1b"]} == MODELS["moe_1b"]


@dataclass
class ToyRun:
    """Both halves of everything that gpu.py measures: what was printed, and the JSON."""

    printed: str
    figures: list[dict]

    def rows(self, part: str) -> list[dict]:
        return [row for figures in self.figures for row in figures["rows"] if row["part"] == part]


def measure_toys(folder: Path) -> None:
    """Writes the JSON and the output of two calls that together measure everything."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(BENCH / "gpu.py"), "--toy", "--minutes", "30"]
    halves = (("losses", "kernels"), ("main", "transformers", "flags", "--profile", str(folder / "trace")))
    settings = environment(1) | {"OMP_NUM_THREADS": "1"}  # PyTorch's threads would spin while other tests need the core
    started = [
        subprocess.Popen(
            [*command, "--json", str(folder / f"{number}.json"), "--groups", *half],
            env=settings,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, half in enumerate(halves)
    ]
    printed = "\n".join([process.communicate()[0] for process in started])
    assert [process.returncode for process in started] == [0, 0], printed
    (folder / "printed.txt").write_text(printed, encoding="utf-8")


@pytest.fixture
def toy_run(made_once: MadeOnce) -> ToyRun:
    folder = made_once("gpu-bench", measure_toys)
    figures = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("?.json"))]
    return ToyRun((folder / "printed.txt").read_text(encoding="utf-8"), figures)


@pytest.mark.full
def test_the_toy_run_measures_everything(toy_run: ToyRun) -> None:
    assert [row for row in toy_run.rows("kernels") if "failed" in row] == []
    assert {row["library"] for row in toy_run.rows("steps")} == (
        {"ours", "PyTorch", "Transformers"} if HAS_TORCH else {"ours"}
    )
    assert {row["variant"] for row in toy_run.rows("steps") if row["library"] == "ours"} == {
        MAIN[0].variant,
        FLAGS[1].variant,
    }
    assert {row["way"] for row in toy_run.rows("kernels")} == (
        {"JAX", "JAX xla", "PyTorch", "PyTorch flash"} if HAS_TORCH else {"JAX", "JAX xla"}
    )
    assert toy_run.rows("profile")
    for figures in toy_run.figures:
        assert figures["markdown"].strip() in toy_run.printed


@pytest.mark.full
@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch and Transformers are in the `hf` extra")
def test_our_losses_are_pytorchs(toy_run: ToyRun) -> None:
    losses = {row["way"]: row["losses"] for row in toy_run.rows("losses")}
    assert len(losses["ours"]) == LOSSES["steps"]
    assert losses["ours"][0] - losses["ours"][-1] > 0.5, "nothing was learned, so nothing was compared"
    assert loss_difference(toy_run.rows("losses")) < 1e-2
    assert "our losses and PyTorch's agree" in toy_run.figures[0]["markdown"]


def part_of(tmp_path: Path, script: str, needs: str = "jax") -> Part:
    """A part whose worker is this Python script, which has imported json, sys, time and emit."""
    file = tmp_path / "worker.py"
    emit = "def emit(**row): print('RESULT ' + json.dumps(row), flush=True)"
    file.write_text(f"import json, subprocess, sys, time\n{emit}\n{script}\n", encoding="utf-8")
    return Part("group", "the title", str(file), "task", {}, 3, needs)


def copy_row(seconds: float) -> dict:
    return {"part": "kernels", "what": "copy", "way": "JAX", "bytes": 1e9, "seconds": [seconds]}


def test_a_part_that_fails_is_one_line_and_keeps_its_results_and_its_last_words(tmp_path: Path) -> None:
    report = gpu.Report(tmp_path / "gpu.json")
    script = f"emit(**{copy_row(1.0)})\nprint('about to fail', file=sys.stderr)\nsys.exit('ValueError: too | big')"
    report.run(part_of(tmp_path, script), tmp_path, Ending(), 60)
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["rows"] == [copy_row(1.0)]
    assert written["not_measured"] == [
        {
            "title": "the title",
            "why": "exit code 1: ValueError: too / big",
            "failed": True,
            "stderr": ["about to fail", "ValueError: too | big"],
        }
    ]


def test_a_part_that_hangs_is_ended_at_its_time_limit_and_keeps_its_results(tmp_path: Path) -> None:
    rows: list[dict] = []
    part = part_of(tmp_path, "emit(what='x')\ntime.sleep(60)")
    why, _ = run_worker(part, tmp_path, 0.5, Ending(), rows.append)
    assert (rows, why) == ([{"what": "x"}], "stopped after 0.5 s")


def test_a_result_is_in_the_file_before_the_next_one_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    waits = f"while '2.0' not in open({str(file)!r}).read(): time.sleep(0.01)"
    report = gpu.Report(file)
    script = f"emit(**{copy_row(2.0)})\n{waits}\nemit(**{copy_row(3.0)})"
    report.run(part_of(tmp_path, script), tmp_path, Ending(), 30)
    assert (len(report.rows), report.not_measured) == (2, [])


def test_what_there_is_no_time_for_is_named_and_does_not_fail(tmp_path: Path) -> None:
    report = gpu.Report(tmp_path / "gpu.json")
    report.run(part_of(tmp_path, ""), tmp_path, Ending(), seconds=0)
    report.raise_what_failed()
    assert "| the title | no time left |" in json.loads((tmp_path / "gpu.json").read_text())["markdown"]


def test_a_library_that_is_not_installed_is_named_and_does_not_fail(tmp_path: Path) -> None:
    report = gpu.Report(None)
    report.run(part_of(tmp_path, "", needs="no_such_package"), tmp_path, Ending(), 60)
    report.raise_what_failed()
    assert "| the title | no_such_package is not installed |" in report.markdown()


def test_without_a_gpu_the_command_ends_with_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    report = gpu.Report(None)
    fails = part_of(tmp_path, "sys.exit('RuntimeError: JAX finds no GPU')")
    report.run(dataclasses.replace(fails, title=CHECK.title), tmp_path, Ending(), 60)
    with pytest.raises(gpu.UserError, match=r"JAX finds no GPU.*JAX_PLATFORMS=cpu .* --toy"):
        report.raise_if_no_gpu()


@pytest.mark.full
def test_only_a_toy_run_measures_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "gpu.py"), "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, env=environment(1), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: no GPU that JAX can use (exit code 1: RuntimeError: JAX finds no GPU)")


START_SECONDS = 5  # of gpu.py itself, and of its tables at the end
CALLS = [("losses", "main"), ("kernels", "transformers"), ("variants",), ("flags", "profile")]


@pytest.mark.parametrize("groups", CALLS, ids=" ".join)
def test_the_time_limits_of_a_call_add_up_to_less_than_its_nine_minutes(groups: tuple[str, ...]) -> None:
    seconds = [part.seconds for part in parts(Path("folder"), toy=False) if part.group in groups]
    profile = gpu.PROFILE_SECONDS if "profile" in groups else 0
    assert START_SECONDS + CHECK.seconds + sum(seconds) + profile <= 9 * 60
    assert len(seconds) >= 4


def test_a_part_has_the_time_that_is_left_over_and_leaves_later_parts_theirs() -> None:
    first, second, third = (Part("g", "t", "s", "t", {}, seconds, "jax") for seconds in (100, 200, 50))
    assert gpu.time_limit(first, (second, third), 400) == 150  # of which 50 were left over
    assert gpu.time_limit(first, (second, third), 200) == 150  # the second no longer fits, the third does
    assert gpu.time_limit(first, (second, third), 60) == 60
    assert gpu.time_limit(third, (), 300) == 300


def test_the_mixture_and_our_fastest_settings_come_before_the_other_variants() -> None:
    ours = [case for case in (*MAIN, *VARIANTS) if case.library == "ours"]
    assert (ours[0].variant, ours[0].model, ours[0].micro_batch) == ("unrolled, no remat", "gpt2_500m", 16)
    assert (VARIANTS[0].model, VARIANTS[1].variant, VARIANTS[1].micro_batch) == (
        "moe_1b",
        "unrolled, remat qkv_mlp",
        16,
    )


def test_a_step_is_compiled_with_more_options_and_an_unknown_one_is_an_error() -> None:
    double = jax.jit(lambda state, batch: state + batch)
    one = jax.numpy.ones(())
    assert compiled_with(double, one, one, FLAGS[1].xla)(one, one) == 2
    with pytest.raises(Exception, match="xla_no_such_option"):
        compiled_with(double, one, one, {"xla_no_such_option": True})


def test_what_failed_ends_the_command_with_a_line_that_names_it(tmp_path: Path) -> None:
    report = gpu.Report(None)
    report.run(part_of(tmp_path, "sys.exit(1)"), tmp_path, Ending(), 60)
    with pytest.raises(gpu.UserError, match="the title"):
        report.raise_what_failed()


def test_losses_that_differ_end_the_command_with_an_error() -> None:
    report = gpu.Report(None)
    report.rows = [
        {"part": "losses", "way": way, "losses": [5.0, last]} for way, last in (("ours", 4.0), ("PyTorch", 4.02))
    ]
    assert "DO NOT AGREE" in report.markdown()
    with pytest.raises(gpu.UserError, match=r"differ by 0\.02"):
        report.raise_what_failed()


def step_row(library: str, seconds: list[float], **changes: object) -> dict:
    row = {"part": "steps", "model_name": "m", "library": library, "variant": "v", "micro_batch": 4, "sequences": 4}
    row |= {"seq_len": 100, "attention": "xla", "flops_per_token": 1e9, "first_step_seconds": 9.0, "peak_bytes": 2**31}
    return row | {"seconds": seconds} | changes


def test_the_figures_of_a_case_are_those_of_all_its_processes() -> None:
    rows = [step_row("ours", [0.1, 0.2]), step_row("PyTorch", [0.4]), step_row("ours", [0.3], first_step_seconds=1.0)]
    ours, _ = merged(rows)
    assert ours["seconds"] == [0.1, 0.2, 0.3]
    assert tokens_per_second(ours) == pytest.approx(2000)
    table = markdown({"command": "c", "date": "d"}, rows, [], peak=1e13)
    line = "| m: ours, v | 4 | xla | 2,000 | 200.0 (100.0 to 300.0) | 20.0 % | 2.0 | 9 | 2.00 | - |"
    assert line in table


def test_the_fastest_of_our_cases_is_profiled() -> None:
    fastest, slower = MAIN[0], "scanned, remat qkv_mlp"
    names = {"model_name": fastest.model, "micro_batch": 16, "sequences": 16}
    rows = [step_row("ours", [9.0], variant=slower, **names), step_row("ours", [1.0], variant=fastest.variant, **names)]
    part = gpu.profile_part(rows, Path("trace"), toy=False)
    assert fastest.variant in part.title
    assert part.arguments["trace"] == "trace"


def test_a_worker_sees_one_card_and_the_code_of_this_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")  # JAX refuses both names of it together
    seen = gpu_process.environment(tmp_path)
    assert "XLA_CLIENT_MEM_FRACTION" not in seen
    assert seen["CUDA_VISIBLE_DEVICES"] == "3"
    assert seen["TMPDIR"] == str(tmp_path)
    assert seen["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
