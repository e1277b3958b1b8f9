"""Products of each row with the matrix of its group, by the kernels that JAX has for Hopper GPUs.

Rows are sorted by group, and a group has as many rows as it has: nothing is padded. The kernels are written for one kind of GPU
and multiply bfloat16, so they are chosen once, checked on the GPU, and otherwise experts use batched products.

Names: A rows, I columns of a row, O columns of the result, E groups.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tonsai_jax.model.config import ModelConfig

SCOPE = "grouped_product"  # the named scope of the kernels
# What a block of threads multiplies at once. A sum of 128 x 128 in float32 fills half of its registers, and four pairs of tiles
# on their way fill more than half of its shared memory.
_ROWS, _COLUMNS, _DEPTH = 128, 128, 64
_TILES: dict[str, Any] = {"block_n": _COLUMNS, "block_k": _DEPTH, "max_concurrent_steps": 4, "grid_block_n": 8}
_TOLERANCE = 0.02  # of the largest value: some roundings to bfloat16


def choose_experts_backend(config: ModelConfig, backend: str, expert_devices: int = 1) -> tuple[str, str]:
    """How experts compute where nothing may be dropped, "batched" or "grouped", and the reason to print.

    Args:
      backend: of JAX: "cpu", "gpu" or "tpu".
      expert_devices: over which the experts of a layer are spread (`mesh.expert`).
    """
    obstacle = _obstacle(config, backend) if expert_devices == 1 else "experts are spread over devices (mesh.expert)"
    return (
        ("batched", f"not grouped: {obstacle}") if obstacle else ("grouped", "kernels for Hopper, checked on this GPU")
    )


def _obstacle(config: ModelConfig, backend: str) -> str | None:
    if backend != "gpu":
        return f"it needs an NVIDIA Hopper GPU and this run is on {backend}"
    capability = jax.devices()[0].compute_capability
    if capability != "9.0":
        return f"it needs an NVIDIA Hopper GPU (compute capability 9.0, not {capability})"
    if config.dtype != "bfloat16":
        return f"it needs model.dtype=bfloat16, not {config.dtype}"
    for name in ("d_model", "d_ff"):
        if getattr(config, name) % _COLUMNS:
            return f"it needs a model.{name} that is a multiple of {_COLUMNS}, not {getattr(config, name)}"
    try:
        shapes = (config.d_model, 2 * config.d_ff), (config.d_ff, config.d_model)
        worst = max(largest_error(config.num_experts, *shape) for shape in shapes)
    except Exception as error:  # of JAX, of the kernels' compiler or of CUDA: all mean the same here
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return f"the kernels failed on this GPU ({first_line[:120]})"
    if worst > _TOLERANCE:
        return f"the kernels are wrong on this GPU by {worst:.2g} of the largest value; more than {_TOLERANCE} is no rounding"
    return None


def largest_error(E: int, I: int, O: int, rows: int = 1000) -> float:  # noqa: E741
    """The largest difference between the kernels and plain products, as a share of the largest value; infinite with a NaN.

    Both gradients are compared too. The groups are uneven, and one is empty.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    x_AxI = jax.random.normal(keys[0], (rows, I), jnp.bfloat16)
    kernel_ExIxO = jax.random.normal(keys[1], (E, I, O), jnp.float32)
    dy_AxO = jax.random.normal(keys[2], (rows, O), jnp.bfloat16)
    group_A = jax.random.randint(keys[3], (rows,), 0, E)
    group_A = jnp.sort(jnp.where(group_A == E // 2, 0, group_A))
    sizes_E = jnp.bincount(group_A, length=E).astype(jnp.int32)

    def plain(x_AxI: jax.Array, kernel_ExIxO: jax.Array, _: jax.Array) -> jax.Array:
        rows_of = [jnp.where((group_A == group)[:, None], x_AxI, 0) for group in range(E)]
        kernels = kernel_ExIxO.astype(x_AxI.dtype)
        return jnp.sum(jnp.stack([x_AxI @ kernel for x_AxI, kernel in zip(rows_of, kernels, strict=True)]), axis=0)

    def all_three(product: Any) -> tuple[jax.Array, ...]:
        y_AxO, backward = jax.vjp(jax.jit(product), x_AxI, kernel_ExIxO, sizes_E)
        return y_AxO, *backward(dy_AxO)[:2]

    def error(ours: jax.Array, theirs: jax.Array) -> float:
        difference = jnp.abs(ours.astype(jnp.float32) - theirs.astype(jnp.float32))
        # A maximum may leave a NaN out.
        difference = jnp.where(jnp.isnan(difference), jnp.inf, difference)
        return float(jnp.max(difference) / jnp.max(jnp.abs(theirs)))

    return max(error(*both) for both in zip(all_three(grouped_linear), all_three(plain), strict=True))


@jax.custom_vjp
@jax.named_scope(SCOPE)
def grouped_linear(x_AxI: jax.Array, kernel_ExIxO: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Each row times the matrix of its group, [A, O] bfloat16, by the kernels for Hopper.

    The gradient of the float32 kernel is summed in float32 and rounded to bfloat16 once, as the kernels can write nothing else.

    Args:
      x_AxI: bfloat16, the rows of the first group first; I and O are multiples of 128.
      kernel_ExIxO: float32.
      sizes_E: int32, rows of each group; they add up to A.
    """
    from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot  # imported here: only Hopper GPUs have it

    kernel = kernel_ExIxO.astype(x_AxI.dtype)
    return ragged_dot(x_AxI, kernel, group_sizes=sizes_E, block_m=_ROWS, **_TILES)


def _forward(x: Any, kernel: Any, sizes: Any) -> tuple[jax.Array, Any]:
    """Each argument has a `value`, and whether its gradient is asked for (`perturbed`)."""
    y_AxO = grouped_linear(x.value, kernel.value, sizes.value)
    return y_AxO, (x.value if kernel.perturbed else None, kernel.value, sizes.value)


@jax.named_scope(SCOPE)
def _backward(residuals: Any, dy_AxO: jax.Array) -> tuple[jax.Array, jax.Array | None, None]:
    from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot
    from jax.experimental.pallas.ops.gpu.transposed_ragged_dot_mgpu import transposed_ragged_dot

    x_AxI, kernel_ExIxO, sizes_E = residuals
    kernel = kernel_ExIxO.astype(dy_AxO.dtype)
    dx_AxI = ragged_dot(dy_AxO, kernel, group_sizes=sizes_E, transpose_rhs=True, block_m=_ROWS, **_TILES)
    if x_AxI is None:
        return dx_AxI, None, None
    dkernel_ExIxO = transposed_ragged_dot(x_AxI, dy_AxO, group_sizes=sizes_E, block_m=_COLUMNS, **_TILES)
    return dx_AxI, dkernel_ExIxO.astype(jnp.float32), None


grouped_linear.defvjp(_forward, _backward, symbolic_zeros=True)
