"""LoRA in the model: a new adapter changes nothing, merged equals applied, and values that cannot work are refused."""

import dataclasses
import functools
import shlex
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.families import config_of
from tests.support.tiny_model import CONFIG, config_with, random_params
from tonsai_jax.errors import UserError
from tonsai_jax.model.config import LORA_TARGETS, Lora, ModelConfig
from tonsai_jax.model.lora import merge_adapters, split_adapters, stored_base
from tonsai_jax.training.state import init_params, model_graph

LORA = Lora(rank=4, alpha=16.0, dropout=0.0, targets=LORA_TARGETS)
TOKENS = np.random.default_rng(0).integers(0, 300, (3, 17))


@functools.cache
def compiled(config: ModelConfig, lora: Lora | None) -> Callable[..., jax.Array]:
    graph = model_graph(config, "xla", lora=lora)

    def logits(params: Any, key: jax.Array | None) -> jax.Array:
        model = nnx.merge(graph, params)
        return model.logits(model(TOKENS, dropout_key=key)[0])

    return jax.jit(logits)


def logits(config: ModelConfig, params: Any, lora: Lora | None = None, key: jax.Array | None = None) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(compiled(config, lora)(params, key))


@functools.cache
def drawn(config: ModelConfig, lora: Lora | None = None) -> dict[str, Any]:
    return jax.jit(lambda: init_params(config, 0, lora))()


def test_a_new_adapter_changes_nothing() -> None:
    params = drawn(CONFIG, LORA)
    adapters, base = split_adapters(params)
    assert all(np.any(layer["adapter"]["lora_a"]) for layer in adapters["blocks"].values())
    jax.tree.map(np.testing.assert_array_equal, base, drawn(CONFIG))
    np.testing.assert_array_equal(logits(CONFIG, params, LORA), logits(CONFIG, base))


def test_a_is_drawn_as_peft_draws_it() -> None:
    """Uniform within 1 / sqrt(inputs), each layer for itself."""
    a = drawn(CONFIG, dataclasses.replace(LORA, rank=64))["blocks"]["mlp_down"]["adapter"]["lora_a"]
    assert a.shape == (CONFIG.num_layers, CONFIG.d_ff, 64)
    assert float(jnp.abs(a).max()) == pytest.approx(CONFIG.d_ff**-0.5, rel=0.01)
    assert float(a.std()) == pytest.approx((3 * CONFIG.d_ff) ** -0.5, rel=0.05)
    assert not np.array_equal(a[0], a[1])


@pytest.mark.parametrize(
    "variant",
    [
        "gpt2",
        *(pytest.param(v, marks=pytest.mark.full) for v in ("llama, GQA, tied", "qwen3", "gemma3", "mixtral, top-2")),
    ],
)
def test_merged_equals_applied(variant: str) -> None:
    config = config_of(variant)
    lora = dataclasses.replace(LORA, targets=LORA_TARGETS[:2] if config.num_experts else LORA_TARGETS)
    params = random_params(config, lora=lora)
    merged = merge_adapters(params, lora)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, random_params(config))
    applied = logits(config, params, lora)
    np.testing.assert_allclose(logits(config, merged), applied, atol=2e-5 * np.abs(applied).max())
    assert np.abs(applied - logits(config, split_adapters(params)[1])).max() > 0.1


def test_only_targets_get_adapters() -> None:
    adapters, _ = split_adapters(drawn(CONFIG, dataclasses.replace(LORA, targets=("qkv",))))
    assert jax.tree.map(jnp.shape, adapters) == {
        "blocks": {"qkv": {"adapter": {"lora_a": (2, 32, 4), "lora_b": (2, 4, 96)}}}
    }


@pytest.mark.parametrize("variant", ["gpt2", "llama, one kv head, own head size", "mixtral, top-2"])
def test_the_count_of_trained_parameters_is_that_of_the_arrays(variant: str) -> None:
    config = config_of(variant)
    lora = dataclasses.replace(LORA, targets=LORA_TARGETS[:2] if config.num_experts else LORA_TARGETS)
    adapters, _ = split_adapters(jax.eval_shape(lambda: init_params(config, 0, lora)))
    assert lora.num_parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(adapters))


def test_dropout_of_adapters_changes_with_the_key_and_only_where_there_is_a_key() -> None:
    lora = dataclasses.replace(LORA, dropout=0.5)
    params = random_params(CONFIG, lora=lora)
    without = logits(CONFIG, params, lora)
    np.testing.assert_array_equal(without, logits(CONFIG, params, LORA, jax.random.key(0)))
    first, again, second = (logits(CONFIG, params, lora, jax.random.key(key)) for key in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0.01
    assert np.abs(first - without).max() > 0.01


@pytest.mark.full
def test_adapters_do_not_change_what_the_model_itself_drops() -> None:
    config, lora, key = (
        config_with(dropout=0.3, attention_dropout=0.3),
        dataclasses.replace(LORA, dropout=0.3),
        jax.random.key(3),
    )
    params = drawn(config, lora)
    expected = logits(config, split_adapters(params)[1], None, key)
    np.testing.assert_allclose(logits(config, params, lora, key), expected, atol=1e-6)


@pytest.mark.parametrize("variant", ["llama, GQA, tied", "mixtral, top-2"])
def test_a_base_stored_in_bfloat16_computes_the_same(variant: str) -> None:
    """It takes half the memory; what is computed in float32 (norms, the router) is stored in float32."""
    config = dataclasses.replace(config_of(variant), dtype="bfloat16")
    base = random_params(config)
    stored = stored_base(base, config.dtype)
    assert stored["blocks"]["qkv"]["kernel"].dtype == stored["token_embedding"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(logits(config, stored), logits(config, base))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": -1}, "lora.rank=-1 must be at least 1, or 0 to train all"),
        ({"alpha": 0.0}, "lora.alpha=0.0 must be above 0"),
        ({"dropout": 1.0}, r"lora.dropout=1.0 must lie in \[0, 1\)"),
        ({"targets": ("qvk",)}, "no layer is called 'qvk'; did you mean 'qkv'.*known are: qkv, attention_out, mlp_up"),
        ({"targets": ("router",)}, "no layer is called 'router'.*Experts and routers get no adapters"),
        ({"targets": ()}, "must name different ones of qkv"),
        ({"targets": ("qkv", "qkv")}, "must name different ones of qkv"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(LORA, **values)


def test_targets_that_a_model_with_experts_lacks_are_refused() -> None:
    with pytest.raises(UserError, match=r"has no mlp_up and mlp_down.*add '--config.lora.targets=.*'$") as refused:
        LORA.check_model(config_of("mixtral, top-2"))
    assert shlex.split(str(refused.value))[-1] == '--config.lora.targets=("qkv", "attention_out")'
