"""A run that `local.sh` starts in two processes does all that a run of one process does."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.tiny_run import TinyRun, environment
from tonsai_jax.files import sha256_file
from tonsai_jax.huggingface.export import export
from tonsai_jax.inference.load import load_run

LOCAL = Path(__file__).parents[2] / "scripts" / "launch" / "local.sh"
RESTART = LOCAL.with_name("restart.sh")
# A table that FSDP splits has 65,536 elements.
WIDE = ("model.d_model=256", "model.d_ff=256", "model.num_layers=1", "mesh.fsdp=2")
TEXTS = (
    "steps=2",
    "optimizer.warmup_steps=0",
    "eval.every=2",
    "sample.every=2",
    "eval.prompt_suite=True",
    "model.context_length=128",
)


@pytest.mark.full
def test_a_run_of_two_processes_is_evaluated_sampled_exported_and_complete(rows: Path, tmp_path: Path) -> None:
    two = TinyRun(rows, tmp_path / "two", (*WIDE, *TEXTS, "export=True"))
    one = TinyRun(rows, tmp_path / "one", two.overrides)
    complete = str(two.workdir / "complete.json")
    command = [str(RESTART), "-f", complete, "--", str(LOCAL), "-n", "2", "--", *two.command()]
    done = subprocess.run(command, env=environment(1), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if "[Gloo]" not in line]
    assert all(line.startswith("[0] ") for line in said), "only the first process speaks"
    assert "failed" not in done.stdout
    assert "[0]   report of the run: " in done.stdout

    one.train(devices=2)
    for run in (one, two):
        assert [each.name for each in (run.workdir / "prompt_suite").iterdir()] == ["step-000002.jsonl"]
    assert two.losses() == pytest.approx(one.losses(), abs=1e-6)
    ours, theirs = (json.loads((run.workdir / "complete.json").read_text()) for run in (two, one))
    assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-5)
    assert [ours["samples"], ours["exported"], ours["step"]] == [theirs["samples"], True, 2]
    for name in ("samples/step-000002.jsonl", "prompt_suite/step-000002.jsonl"):
        assert (two.workdir / name).read_text() == (one.workdir / name).read_text()

    # What the first process read from the parts of both is what one process reads: bit for bit.
    alone = load_run(two.workdir)
    again = export(alone.model_config, alone.params, alone.tokenizer, tmp_path / "again")
    assert sha256_file(two.workdir / "export" / "model.safetensors") == sha256_file(again / "model.safetensors")
    # And it is the model that one process with two devices trains.
    exported = load_file(again / "model.safetensors")
    for name, tensor in load_file(one.workdir / "export" / "model.safetensors").items():
        np.testing.assert_allclose(exported[name], tensor, atol=1e-5, err_msg=name)
