"""The bytes and FLOPs of a step are those of its program, and a step that does more has more of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from tests.support.tiny_model import config_with
from tests.support.train_step import ADAMW, batch_of, make_step, one_device
from tonsai_jax.model import block
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.planning.program import read_program
from tonsai_jax.planning.traffic import PRODUCTS, Traffic, read_kernels, traffic_by_kind
from tonsai_jax.training.state import abstract_state

PROGRAM = """
HloModule step, is_scheduled=true

%product (a: bf16[16,8], b: bf16[8,4]) -> f32[16,4] {
  %a = bf16[16,8]{1,0} parameter(0)
  %b = bf16[8,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[16,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%cut (stack: f32[24,8,4], number: s32[]) -> bf16[8,4] {
  %stack = f32[24,8,4]{2,1,0} parameter(0)
  %number = s32[] parameter(1)
  %zero = s32[] constant(0)
  %layer = f32[1,8,4]{2,1,0} dynamic-slice(%stack, %number, %zero, %zero), dynamic_slice_sizes={1,8,4}
  %flat = f32[8,4]{1,0} bitcast(%layer)
  ROOT %cast = bf16[8,4]{1,0} convert(%flat)
}

%store (all: f32[24,16,4], new: f32[16,4], number: s32[]) -> f32[24,16,4] {
  %all = f32[24,16,4]{2,1,0} parameter(0)
  %new = f32[16,4]{1,0} parameter(1)
  %number = s32[] parameter(2)
  %zero = s32[] constant(0)
  %one = f32[1,16,4]{2,1,0} bitcast(%new)
  ROOT %stored = f32[24,16,4]{2,1,0} dynamic-update-slice(%all, %one, %number, %zero, %zero)
}

%activate (x: f32[16,4]) -> f32[16,4] {
  %x = f32[16,4]{1,0} parameter(0)
  ROOT %tanh = f32[16,4]{1,0} tanh(%x), metadata={op_name="jit(train_step)/transpose(jvp())/layer/checkpoint/rematted_computation/activation/tanh"}
}

%body (carry: (s32[], f32[24,8,4], f32[24,16,4], bf16[16,8])) -> (s32[], f32[24,8,4], f32[24,16,4], bf16[16,8]) {
  %carry = (s32[], f32[24,8,4]{2,1,0}, f32[24,16,4]{2,1,0}, bf16[16,8]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%carry), index=0
  %stack = f32[24,8,4]{2,1,0} get-tuple-element(%carry), index=1
  %all = f32[24,16,4]{2,1,0} get-tuple-element(%carry), index=2
  %x = bf16[16,8]{1,0} get-tuple-element(%carry), index=3
  %kernel = bf16[8,4]{1,0} fusion(%stack, %number), kind=kLoop, calls=%cut, metadata={op_name="jit(train_step)/jvp()/slice"}
  %y = f32[16,4]{1,0} fusion(%x, %kernel), kind=kCustom, calls=%product, metadata={op_name="jit(train_step)/jvp()/linear/dot"}
  %active = f32[16,4]{1,0} fusion(%y), kind=kLoop, calls=%activate, metadata={op_name="jit(train_step)/transpose(jvp())/layer/checkpoint/rematted_computation/activation/tanh"}
  %kept = f32[24,16,4]{2,1,0} fusion(%all, %active, %number), kind=kLoop, calls=%store
  ROOT %next = (s32[], f32[24,8,4]{2,1,0}, f32[24,16,4]{2,1,0}, bf16[16,8]{1,0}) tuple(%number, %stack, %kept, %x)
}

ENTRY %main (p: (s32[], f32[24,8,4], f32[24,16,4], bf16[16,8])) -> f32[] {
  %p = (s32[], f32[24,8,4]{2,1,0}, f32[24,16,4]{2,1,0}, bf16[16,8]{1,0}) parameter(0)
  %loop = (s32[], f32[24,8,4]{2,1,0}, f32[24,16,4]{2,1,0}, bf16[16,8]{1,0}) while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"24"}}
  %q = bf16[2,8,4,16]{3,2,1,0} constant(0)
  %attention = (bf16[2,8,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax"
  %norm = f32[] constant(0)
  %all-reduce-start = ((f32[]), f32[]) all-reduce-start(%norm), to_apply=%sum
  %sum_of_all = f32[] all-reduce-done(%all-reduce-start)
  ROOT %rate = f32[] multiply(%sum_of_all, %norm), metadata={op_name="jit(train_step)/mul"}
}
"""  # noqa: E501


def test_a_kernel_moves_what_it_reads_and_writes_as_often_as_it_runs() -> None:
    found = traffic_by_kind(read_kernels(read_program(PROGRAM)))
    product, activation = 2 * (16 * 8 + 8 * 4) + 4 * 16 * 4, 2 * 4 * 16 * 4
    slice_and_cast, update = 4 + (4 + 2) * 8 * 4, 4 + 2 * 4 * 16 * 4
    assert found == {
        "products": Traffic(24, 24 * product, 0, 24 * 2 * 16 * 8 * 4),
        "fused attention": Traffic(1, 4 * 2 * 2 * 8 * 4 * 16, 0, 0),
        "activation": Traffic(24, 24 * activation, 24 * activation, 0),
        "optimizer": Traffic(1, 3 * 4, 0, 0),
        "copies and casts": Traffic(48, 24 * (slice_and_cast + update), 0, 0),
    }


def step_of(config: ModelConfig) -> dict[str, Traffic]:
    """The kernels of a training step, compiled for a CPU."""
    step = make_step(config)
    state = abstract_state(config, ADAMW, one_device())
    return traffic_by_kind(read_kernels(read_program(step.lower(state, batch_of()).compile().as_text())))


LAYER = config_with(num_layers=1, scan_layers=False, remat="none", dtype="bfloat16")


@pytest.mark.full
def test_a_forward_pass_that_runs_twice_raises_the_flops_and_is_seen_as_recomputed() -> None:
    once, twice = step_of(LAYER), step_of(replace(LAYER, remat="full"))
    assert sum(each.recomputed_bytes for each in once.values()) == 0
    assert sum(each.recomputed_bytes for each in twice.values()) > 0
    assert twice[PRODUCTS].flops > 1.05 * once[PRODUCTS].flops


@pytest.mark.full
def test_an_activation_that_is_kept_in_float32_raises_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    lean = step_of(LAYER)["activation"].num_bytes

    @jax.named_scope("activation")
    def in_float32(x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x.astype(jnp.float32)).astype(x.dtype)

    monkeypatch.setattr(block, "gelu", in_float32)
    assert step_of(LAYER)["activation"].num_bytes > 1.5 * lean
