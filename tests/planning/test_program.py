"""What a step of the compiled program runs, and how often."""

import re

import pytest

from tests.planning.test_planning import config_of
from tonsai_jax.planning.compiled import compile_step
from tonsai_jax.planning.described_gpu import why_not_compiled
from tonsai_jax.planning.program import read_program
from tonsai_jax.planning.step_plan import plan_steps
from tonsai_jax.runtime.hardware import gpu_named

GIB = 2**30

TWO_BRANCHES = """
%usual (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}

%rare (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %y = f32[8]{0} conditional(%p, %x, %x), BRANCHES
}
"""


@pytest.mark.parametrize(
    "branches", ["true_computation=%usual, false_computation=%rare", "branch_computations={%rare, %usual}"]
)
def test_of_two_branches_the_one_where_the_condition_holds_runs(branches: str) -> None:
    program = read_program(TWO_BRANCHES.replace("BRANCHES", branches))
    assert program.times_run() == {"main": 1, "usual": 1}


@pytest.mark.full
def test_the_estimate_has_the_memory_that_cudnn_takes_for_packed_documents() -> None:
    """2 places for documents in each of 8 sequences of 64 tokens, for which the gradients of 256 queries are float32."""
    config = config_of(dtype="bfloat16", attention="auto", document_mask=True)
    (packed,) = plan_steps(config, vocab_size=1280, num_devices=1, backend="gpu", usable_bytes=GIB)
    config.model.attention = "cudnn"
    (masked,) = plan_steps(config, vocab_size=1280, num_devices=1, backend="gpu", usable_bytes=GIB)
    assert (packed.attention_backend, masked.attention_backend) == ("cudnn_packed", "cudnn")
    more = packed.memory()["workspace"] - masked.memory()["workspace"]
    assert more == pytest.approx(8 * 2 * 64 * 256 * 4, rel=0.05)  # a layer keeps statistics, and not the mask


@pytest.mark.full
@pytest.mark.skipif(why_not_compiled(gpu_named("h200")) is not None, reason="needs JAX's CUDA plugin")
def test_documents_on_a_gpu_have_no_bias_no_second_forward_pass_and_no_collective() -> None:
    """Grouped-query attention and remat, two layers, eight GPUs with sequences of their own."""
    config = config_of(num_heads=4, num_kv_heads=2, dtype="bfloat16", attention="auto", document_mask=True)
    config.model.update({"remat": "qkv_mlp", "scan_layers": False, "num_layers": 2})
    config.global_batch_size = 16
    (plan,) = plan_steps(config, vocab_size=1280, num_devices=8, backend="gpu", usable_bytes=GIB)
    step = compile_step(plan, gpu_named("h200"))
    program = read_program(step.text)
    times = program.times_run()
    calls = [
        (each.custom_call_target, re.findall(r'"mask_type": ?"(\w+)"', each.attributes))
        for name, instructions in program.computations.items()
        for each in [*instructions] * times.get(name, 0)
        if "fmha" in each.custom_call_target
    ]
    forward, backward = (("__cudnn$fmhaSoftmax" + end, ["PADDING_CAUSAL"]) for end in ("", "Backward"))
    assert sorted(calls) == [forward] * 2 + [backward] * 2
    assert set(step.collectives) == {"all-reduce"}  # of the gradients
