"""Gated activations and their written-out gradients, against automatic differentiation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tonsai_jax.model.activations import geglu, gelu, relu2, swiglu

PLAIN_UNGATED = {gelu: jax.nn.gelu, relu2: lambda x: jnp.maximum(x, 0) ** 2}
PLAIN = {swiglu: jax.nn.silu, geglu: jax.nn.gelu}


@pytest.mark.parametrize("activation", PLAIN_UNGATED)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 2**-8)])
def test_the_activation_and_its_gradient_are_rounded_once(activation, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, direction = (jnp.asarray(3 * rng.standard_normal((2, 3, 64)), dtype) for _ in range(2))
    y, backward = jax.vjp(activation, x)
    with jax.enable_x64(True):
        expected, expected_backward = jax.vjp(PLAIN_UNGATED[activation], jnp.asarray(np.asarray(x, np.float64)))
        (expected_gradient,) = expected_backward(jnp.asarray(np.asarray(direction, np.float64)))
    for found, exact in ((y, expected), (backward(direction)[0], expected_gradient)):
        assert found.dtype == x.dtype
        np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=tolerance, atol=tolerance / 100)


@pytest.mark.parametrize("gated", PLAIN)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 2**-8)])
def test_the_gate_is_the_first_half_and_values_and_gradient_are_rounded_once(gated, dtype, tolerance):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(3 * rng.standard_normal((2, 3, 64)), dtype)
    direction = jnp.asarray(rng.standard_normal((2, 3, 32)), dtype)

    def plain(hidden):
        gate, values = jnp.split(hidden, 2, axis=-1)
        return PLAIN[gated](gate) * values

    y, backward = jax.vjp(gated, hidden)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(hidden, np.float64))
        expected, expected_backward = jax.vjp(plain, wide)
        (expected_gradient,) = expected_backward(jnp.asarray(np.asarray(direction, np.float64)))
    (gradient,) = backward(direction)
    assert y.dtype == gradient.dtype == hidden.dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=tolerance, atol=tolerance / 100)
    np.testing.assert_allclose(
        np.asarray(gradient, np.float64), expected_gradient, rtol=tolerance, atol=tolerance / 100
    )
