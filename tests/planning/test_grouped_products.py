"""The kernels of grouped products have no names that say so; they are found by their scope, and their FLOPs by their shapes."""

import pytest

from tonsai_jax.model.grouped import SCOPE
from tonsai_jax.planning.program import read_program
from tonsai_jax.planning.traffic import PRODUCTS, read_kernels

# A forward product of 64 rows and its two gradients, 4 groups of 16 x 32, as XLA writes them for a Hopper.
PROGRAM = """HloModule jit_step, is_scheduled=true

ENTRY %main (sizes: s32[4], x: bf16[64,16], kernel: bf16[4,16,32], dy: bf16[64,32]) -> bf16[64,32] {
  %sizes = s32[4]{0} parameter(0)
  %x = bf16[64,16]{1,0} parameter(1)
  %kernel = bf16[4,16,32]{2,1,0} parameter(2)
  %dy = bf16[64,32]{1,0} parameter(3)
  ROOT %map.1 = bf16[64,32]{1,0} custom-call(%sizes, %x, %kernel), CALL, metadata={op_name="jit(step)/jvp(experts)/SCOPE/map"}
  %map.2 = bf16[64,16]{1,0} custom-call(%sizes, %dy, %kernel), CALL, metadata={op_name="jit(step)/transpose(jvp())/SCOPE/map"}
  %map.3 = bf16[4,16,32] custom-call(%sizes, %sizes, %x, %dy), CALL, metadata={op_name="jit(step)/transpose(jvp())/SCOPE/map"}
}
"""


@pytest.mark.parametrize("number", range(3))
def test_each_multiplies_every_row_with_one_matrix(number):
    text = PROGRAM.replace("CALL", 'custom_call_target="mosaic_gpu_v2"').replace("SCOPE", SCOPE)
    kernel = read_kernels(read_program(text))[number]
    assert kernel.kind == PRODUCTS
    assert kernel.flops == 2 * 64 * 16 * 32
    sizes = 2 if number == 2 else 1
    assert kernel.num_bytes == 2 * (64 * 16 + 4 * 16 * 32 + 64 * 32) + 4 * 4 * sizes
