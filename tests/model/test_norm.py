"""Each norm and its gradient are those of Flax, more exact in bfloat16, and made of few kernels on a GPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from tests.support.eight_devices import run_on_eight_devices
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.norm import Norm
from tonsai_jax.planning.described_gpu import described_mesh, why_not_compiled
from tonsai_jax.runtime.hardware import gpu_named

EPSILON = 1e-5
NORMS = ("layernorm", "rmsnorm", "zero_centered_rmsnorm")
every_norm = pytest.mark.parametrize("name", NORMS)


def ours(name, x, params, dtype):
    config = ModelConfig(norm=name, norm_epsilon=EPSILON, dtype=dtype, vocab_size=8, context_length=8)
    graph, state = nnx.split(Norm(config, x.shape[-1], nnx.Rngs(0)))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(x)


def of_flax(name, x, params, dtype):
    norm_class = nnx.LayerNorm if name == "layernorm" else nnx.RMSNorm
    norm = norm_class(x.shape[-1], epsilon=EPSILON, dtype=dtype, use_fast_variance=False, rngs=nnx.Rngs(0))
    graph, state = nnx.split(norm)
    one = 1 if name == "zero_centered_rmsnorm" else 0
    nnx.replace_by_pure_dict(state, params | {"scale": params["scale"] + one})
    return nnx.merge(graph, state)(x)


def example(name, shape=(3, 7, 96), dtype="float32"):
    """x, the parameters and dy. The mean of x is not 0, and its rows and columns differ in size."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape))
    x = x * rng.uniform(0.5, 3.0, (*shape[:-1], 1)) * rng.uniform(0.5, 3.0, shape[-1]) + 0.7
    scale, bias = rng.standard_normal((2, shape[-1]))
    params = {"scale": scale if name == "zero_centered_rmsnorm" else 1 + 0.1 * scale}
    if name == "layernorm":
        params["bias"] = bias
    return jnp.asarray(x, dtype), jax.tree.map(jnp.float32, params), jnp.asarray(dy, dtype)


def value_and_gradients(norm, name, x, params, dy):
    """The output, and the gradients of x and of the parameters."""
    y, backward = jax.vjp(lambda x, params: norm(name, x, params, str(x.dtype)), x, params)
    return y, *backward(dy.astype(y.dtype))


@every_norm
@pytest.mark.parametrize("shape", [(3, 7, 96), (2, 5, 3, 16)], ids=["rows", "rows of heads"])
def test_values_and_gradients_are_those_of_flax(name, shape):
    found, expected = (value_and_gradients(norm, name, *example(name, shape)) for norm in (ours, of_flax))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=5e-6), found, expected)


@every_norm
def test_a_row_of_equal_elements_has_the_gradients_of_flax(name):
    x, params, dy = example(name)
    found, expected = (value_and_gradients(norm, name, x.at[0, 0].set(2.0), params, dy) for norm in (ours, of_flax))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-4), found, expected)


@pytest.mark.full
@every_norm
def test_in_bfloat16_nothing_is_less_exact_than_with_flax(name):
    x, params, dy = example(name, (8, 64, 128), "bfloat16")
    exact = value_and_gradients(of_flax, name, x.astype(jnp.float32), params, dy)

    def errors(norm):
        found = value_and_gradients(norm, name, x, params, dy)
        return jax.tree.map(lambda a, b: float(jnp.sqrt(jnp.mean((a.astype(jnp.float32) - b) ** 2))), found, exact)

    worse = jax.tree.map(lambda error, of_flax: error > 1.01 * of_flax, errors(ours), errors(of_flax))
    assert not any(jax.tree.leaves(worse)), (errors(ours), errors(of_flax))


@every_norm
def test_the_backward_pass_keeps_no_array_but_x(name):
    x, params, _ = example(name, dtype="bfloat16")
    kept = jax.tree.leaves(jax.vjp(lambda x: ours(name, x, params, "bfloat16"), x)[1])
    assert [array.dtype for array in kept if array.size >= x.size] == [jnp.bfloat16]


def test_the_norm_of_a_frozen_base_may_have_parameters_in_bfloat16():
    x, params, _ = example("layernorm")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    np.testing.assert_array_equal(ours("layernorm", x, params, "float32"), ours("layernorm", x, rounded, "float32"))


def check_eight_devices():
    x, params, dy = example("layernorm", (16, 8, 96))
    expected = value_and_gradients(ours, "layernorm", x, params, dy)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    run = jax.jit(functools.partial(value_and_gradients, ours, "layernorm"))
    compiled = run.lower(jax.device_put(x, split), params, jax.device_put(dy, split)).compile()
    found = compiled(jax.device_put(x, split), params, jax.device_put(dy, split))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=5e-6), found, expected)
    text = compiled.as_text() or ""
    assert not re.search("all-gather|all-to-all|collective-permute", text)  # rows stay where they are


@pytest.mark.full
def test_each_of_eight_devices_works_on_its_own_rows():
    run_on_eight_devices(check_eight_devices)


@pytest.mark.full
@pytest.mark.skipif(why_not_compiled(gpu_named("h200")) is not None, reason="needs JAX's CUDA plugin")
@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_on_a_gpu_the_gradient_writes_no_float32_array_of_all_tokens(name):
    """And one kernel makes the gradients of x, scale and bias, with that of the residual branch added."""
    B, T, D = 4, 2048, 1536

    def gradients(x, weight_DxD, params, dy):
        def layer(x, weight_DxD, params):
            return x + ours(name, x, params, "bfloat16") @ weight_DxD

        return jax.vjp(layer, x, weight_DxD, params)[1](dy)

    x, params, dy = example(name, (B, T, D), "bfloat16")
    arrays = jax.eval_shape(lambda: (x, jnp.ones((D, D), jnp.bfloat16), params, dy))
    device = NamedSharding(described_mesh(gpu_named("h200"), {"data": 1}), PartitionSpec())
    text = jax.jit(gradients, in_shardings=device).lower(*arrays).compile().as_text() or ""
    outputs = re.findall(r"= (.*?) fusion\(", text[text.index("\nENTRY ") :])
    assert not [each for each in outputs if re.search(rf"f32\[({B},{T}|{B * T}),{D}\]", each)]
    assert [each for each in outputs if f"bf16[{B},{T},{D}]" in each and re.search(rf"f32\[(\d+,)?{D}\]", each)]
