"""Products of sorted rows with the matrix of their group: by the kernels for Hopper in JAX's interpreter, and by stand-ins.

The stand-ins are JAX's own ragged products. They show that experts sort, weight and differentiate as they should, in any dtype.
JAX keeps what it has traced: where other kernels are put in place, the shapes must be others too.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.gpu import ragged_dot_mgpu, transposed_ragged_dot_mgpu

from tests.model.test_experts import CONFIG, by_a_loop
from tests.support.eight_devices import run_on_eight_devices
from tonsai_jax.model.experts import mixture_of_experts
from tonsai_jax.model.grouped import choose_experts_backend, grouped_linear
from tonsai_jax.training.mesh import make_mesh

E, I = 4, 128  # noqa: E741
BALANCES = {"even": (64, 64, 64, 64), "all to one": (0, 256, 0, 0), "uneven": (0, 100, 1, 155)}
HOPPER = types.SimpleNamespace(compute_capability="9.0", core_count=2)


def ragged_dot(x, kernel, *, group_sizes, transpose_rhs=False, **blocks):
    return jax.lax.ragged_dot(x, kernel.swapaxes(1, 2) if transpose_rhs else kernel, group_sizes)


def transposed_ragged_dot(x, dy, *, group_sizes, **blocks):
    contract_the_rows = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    return jax.lax.ragged_dot_general(x, dy, group_sizes, contract_the_rows)


def put_stand_ins(monkeypatch):
    monkeypatch.setattr(ragged_dot_mgpu, "ragged_dot", ragged_dot)
    monkeypatch.setattr(transposed_ragged_dot_mgpu, "transposed_ragged_dot", transposed_ragged_dot)


@pytest.fixture
def stand_ins(monkeypatch):
    put_stand_ins(monkeypatch)


@pytest.fixture
def interpreted(monkeypatch):
    if jax.__version_info__ < (0, 11):
        pytest.skip("JAX before 0.11 cannot interpret the kernel of the gradient")
    from jax._src.pallas.mosaic_gpu.interpret.params import force_gpu_interpret_mode

    described = types.SimpleNamespace(**vars(jax) | {"devices": lambda: [HOPPER]})
    monkeypatch.setattr(transposed_ragged_dot_mgpu, "jax", described)
    with force_gpu_interpret_mode():
        yield


def check_grouped_linear(sizes, O):  # noqa: E741
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.standard_normal((sum(sizes), width)), jnp.bfloat16) for width in (I, O))
    kernel = jnp.asarray(rng.standard_normal((E, I, O)), jnp.float32)
    y, backward = jax.vjp(lambda x, kernel: grouped_linear(x, kernel, jnp.array(sizes, jnp.int32)), x, kernel)
    dx, dkernel = backward(dy)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    x64, dy64, kernel64 = (np.asarray(array.astype(jnp.bfloat16), np.float64) for array in (x, dy, kernel))
    ends = np.cumsum(sizes)
    for group, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        rows, drows = x64[start:end], dy64[start:end]
        expected = rows @ kernel64[group], drows @ kernel64[group].T, rows.T @ drows
        for ours, theirs in zip((y[start:end], dx[start:end], dkernel[group]), expected, strict=True):
            np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("sizes", BALANCES.values(), ids=BALANCES)
def test_each_row_is_multiplied_by_the_matrix_of_its_group_and_so_are_the_gradients(sizes, stand_ins):
    check_grouped_linear(sizes, 256)


@pytest.mark.full
def test_the_kernels_for_hopper_do_so_in_the_interpreter(interpreted):
    check_grouped_linear(BALANCES["uneven"], 128)


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["even", "all to one"])
def test_the_kernels_do_so_at_any_balance(balance, interpreted):
    check_grouped_linear(BALANCES[balance], 128)


def check_experts(dtype, tolerance, F, favored=()):
    """Values and gradients are those of every token through its experts; the router favors the experts that are named."""
    D, B, T = 128, 2, 64
    config = dataclasses.replace(CONFIG, num_experts=E, d_model=D, d_ff=F, dtype=dtype, capacity_factor=0.0)
    rng = np.random.default_rng(0)
    shapes = ((B, T, D), (D, E), (E, D, 2 * F), (E, F, D))
    x, router, up, down = (jnp.asarray(0.3 * rng.standard_normal(shape), jnp.float32) for shape in shapes)
    x, router = x.at[..., 0].set(1.0), router.at[0, list(favored)].add(20.0)
    x = x.astype(dtype).astype(jnp.float32)
    direction = jnp.asarray(rng.standard_normal((B, T, D)), dtype)

    def of_ours(x, router, up, down):
        y, routing = mixture_of_experts(
            x.astype(dtype), router, up, down, config=config, mesh=None, dropless=False, backend="grouped"
        )
        return jnp.sum(y.astype(jnp.float32) * direction), (y, routing)

    def of_loop(*arrays):
        y = by_a_loop(config, *arrays)
        return jnp.sum(y * direction), y

    arrays, argnums = (x, router, up, down), (0, 1, 2, 3)
    gradients, (y, routing) = jax.jit(jax.grad(of_ours, argnums, has_aux=True))(*arrays)
    expected_gradients, expected = jax.jit(jax.grad(of_loop, argnums, has_aux=True))(*arrays)
    for ours, theirs in zip((y, *gradients), (expected, *expected_gradients), strict=True):
        np.testing.assert_allclose(
            ours.astype(jnp.float32), theirs, atol=tolerance * float(jnp.abs(theirs).max()), rtol=0
        )
    assert routing.dropped == 0
    if favored:
        np.testing.assert_allclose(routing.load_E[jnp.array(favored)], 1 / len(favored), atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("favored", [(), (1, 3)], ids=["balanced", "two experts get all"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_experts_that_drop_nothing_without_empty_slots_are_the_loop_over_experts(dtype, tolerance, favored, stand_ins):
    check_experts(dtype, tolerance, 256, favored)


def check_eight_devices():
    """Each device sorts its own tokens; there are no kernels here, only the stand-ins."""
    put_stand_ins(pytest.MonkeyPatch())
    config = dataclasses.replace(CONFIG, num_experts=E, capacity_factor=0.0)
    rng = np.random.default_rng(0)
    shapes = ((8, 16, 16), (16, E), (E, 16, 48), (E, 24, 16))
    arrays = tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)

    def summed(*arrays):
        y, _ = mixture_of_experts(*arrays, config=config, mesh=make_mesh(4, 2), dropless=False, backend="grouped")
        return jnp.sum(y**2)

    gradients = jax.jit(jax.grad(summed, (0, 1, 2, 3)))(*arrays)
    expected = jax.jit(jax.grad(lambda *arrays: jnp.sum(by_a_loop(config, *arrays) ** 2), (0, 1, 2, 3)))(*arrays)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(jnp.abs(theirs).max()), rtol=0)


@pytest.mark.full
def test_so_they_are_where_each_of_eight_devices_sorts_its_own_tokens():
    run_on_eight_devices(check_eight_devices)


@pytest.mark.full
def test_so_they_are_with_the_kernels_for_hopper_in_the_interpreter(interpreted):
    check_experts("bfloat16", 0.02, 128)


def test_the_grouped_backend_is_chosen_only_where_its_kernels_can_run(monkeypatch):
    config = dataclasses.replace(CONFIG, d_model=128, d_ff=256, dtype="bfloat16")
    assert choose_experts_backend(config, "cpu") == (
        "batched",
        "not grouped: it needs an NVIDIA Hopper GPU and this run is on cpu",
    )
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(compute_capability="10.0")])
    assert "9.0, not 10.0" in choose_experts_backend(config, "gpu")[1]
    monkeypatch.setattr(jax, "devices", lambda: [HOPPER])
    assert (
        "model.dtype=bfloat16, not float32"
        in choose_experts_backend(dataclasses.replace(config, dtype="float32"), "gpu")[1]
    )
    assert (
        "model.d_ff that is a multiple of 128, not 72"
        in choose_experts_backend(dataclasses.replace(config, d_ff=72), "gpu")[1]
    )
    backend, reason = choose_experts_backend(config, "gpu")  # the real kernels, on a device that is no GPU
    assert backend == "batched"
    assert reason.startswith("not grouped: the kernels failed on this GPU (")


@pytest.mark.full
def test_the_check_on_the_device_passes_right_kernels_and_finds_wrong_ones(stand_ins, monkeypatch):
    config = dataclasses.replace(CONFIG, d_model=128, d_ff=128, dtype="bfloat16")
    monkeypatch.setattr(jax, "devices", lambda: [HOPPER])
    assert choose_experts_backend(config, "gpu")[0] == "grouped"
    for d_ff, wrong in (
        (
            256,
            lambda x, dy, *, group_sizes, **blocks: transposed_ragged_dot(x, dy, group_sizes=group_sizes.at[0].add(-1)),
        ),
        (384, lambda x, dy, **blocks: transposed_ragged_dot(x, dy, **blocks) * jnp.nan),
    ):
        monkeypatch.setattr(transposed_ragged_dot_mgpu, "transposed_ragged_dot", wrong)
        jax.clear_caches()  # of what was traced with other kernels
        backend, reason = choose_experts_backend(dataclasses.replace(config, d_ff=d_ff), "gpu")
        assert backend == "batched"
        assert reason.startswith("not grouped: the kernels are wrong on this GPU by ")
