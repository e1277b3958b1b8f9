"""The keys of a model are declared once: the config, saved runs and the check of a checkpoint follow from that."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.support.tiny_model import CONFIG, config_with
from tonsai_jax.config import default_config, model_config
from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig, choices_of, keys_that_change_arrays
from tonsai_jax.model.presets import preset
from tonsai_jax.model.transformer import Transformer
from tonsai_jax.training.state import init_params

ROPE: dict[str, Any] = {"position": "rope"}
MIXTURE = {"num_experts": 4, "mlp": "swiglu", "bias": False}
# For every key another value than CONFIG's, and what else must be set on both sides.
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "vocab_size": (1000, {}),
    "context_length": (32, {}),
    "num_layers": (3, {}),
    "num_heads": (4, {}),
    "d_model": (64, {}),
    "d_ff": (64, {}),
    "norm": ("rmsnorm", {}),
    "norm_epsilon": (1e-6, {}),
    "sandwich_norms": (True, {}),
    "scale_embedding": (True, {}),
    "position": ("rope", {}),
    "rope_theta": (500.0, ROPE),
    "rope_scaling": ("yarn", ROPE),
    "rope_factor": (2.0, ROPE | {"rope_scaling": "linear"}),
    "rope_original_context": (16, ROPE | {"rope_scaling": "linear"}),
    "mlp": ("swiglu", {}),
    "num_kv_heads": (1, {}),
    "head_size": (8, {}),
    "query_scalar": (9, {}),
    "sliding_window": (8, {}),
    "global_every": (2, {"sliding_window": 8}),
    "local_rope_theta": (500.0, ROPE | {"sliding_window": 8}),
    "qk_norm": (True, {}),
    "bias": (False, {}),
    "tie_embeddings": (False, {}),
    "num_experts": (4, {"mlp": "swiglu"}),
    "experts_per_token": (1, MIXTURE),
    "router_temperature": (2.0, MIXTURE),
    "capacity_factor": (0.0, MIXTURE),
    "dropout": (0.5, {}),
    "attention_dropout": (0.5, {}),
    "dtype": ("bfloat16", {}),
    "attention": ("auto", {}),
    "document_mask": (True, {}),
    "scan_layers": (False, {}),
    "remat": ("full", {}),
}


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda: init_params(config, 0)))
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def forward(config: ModelConfig, attention_backend: str = "xla") -> None:
    """Traces the model without computing anything."""

    def hidden(tokens_BxT: jax.Array) -> jax.Array:
        return Transformer(config, attention_backend, rngs=nnx.Rngs(0))(tokens_BxT)[0]

    jax.eval_shape(hidden, jax.ShapeDtypeStruct((1, 8), jnp.int32))


def test_the_keys_of_the_config_are_the_fields_of_the_model() -> None:
    assert set(default_config().model) == {field.name for field in dataclasses.fields(ModelConfig)}


def test_the_default_model_is_a_qwen3_of_the_usual_shape() -> None:
    model = model_config(default_config(), 32_000)
    assert {key: getattr(model, key) for key in preset("qwen3")} == preset("qwen3") | {"rope_theta": 1e4}
    assert (model.head_dim, model.kv_heads) == (128, 6)


def test_every_key_says_what_it_means() -> None:
    for field in dataclasses.fields(ModelConfig):
        assert len(field.metadata["meaning"]) > 10, f"model.{field.name} has no meaning"
        assert len(field.metadata["meaning"]) <= 110, f"model.{field.name}: one line"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ModelConfig)])
def test_a_key_says_whether_the_arrays_of_a_checkpoint_depend_on_it(name: str) -> None:
    value, others = CHANGES[name]
    before = config_with(**others)
    after = dataclasses.replace(before, **{name: value})
    assert after != before
    # The same kernels are cut into another number of heads: the shapes stay, their meaning does not.
    other_arrays = name == "num_heads" or shapes_of(before) != shapes_of(after)
    assert keys_that_change_arrays(before, after) == ([name] if other_arrays else [])


@pytest.mark.parametrize(
    "change", [{"num_kv_heads": CONFIG.num_heads}, {"head_size": CONFIG.head_dim}], ids=["num_kv_heads", "head_size"]
)
def test_a_value_and_the_zero_that_stands_for_it_are_the_same_model(change: dict[str, int]) -> None:
    assert keys_that_change_arrays(CONFIG, config_with(**change)) == []


def test_the_context_may_change_where_it_has_no_array() -> None:
    rope = config_with(**ROPE)
    assert keys_that_change_arrays(rope, dataclasses.replace(rope, context_length=1024)) == []


def test_every_key_that_differs_is_named() -> None:
    other = dataclasses.replace(CONFIG, d_model=64, num_layers=3, dropout=0.1)
    assert keys_that_change_arrays(CONFIG, other) == ["num_layers", "d_model"]


# Saved with a checkpoint


def test_a_saved_model_reads_back_as_it_was() -> None:
    assert ModelConfig.from_saved(dataclasses.asdict(CONFIG)) == CONFIG


def test_a_key_that_is_newer_than_the_checkpoint_has_its_default() -> None:
    saved = dataclasses.asdict(dataclasses.replace(CONFIG, qk_norm=True))
    del saved["qk_norm"], saved["remat"]
    assert ModelConfig.from_saved(saved) == CONFIG


def test_a_key_that_no_longer_exists_is_an_error() -> None:
    saved = dataclasses.asdict(CONFIG) | {"rotary": True}
    with pytest.raises(
        UserError, match=r"saved with model\.rotary=True, a key that this version does not have; use the"
    ):
        ModelConfig.from_saved(saved)


# Names


@pytest.mark.parametrize("name", ["norm", "position", "rope_scaling", "mlp", "dtype", "attention", "remat"])
def test_a_name_that_is_not_known_is_refused(name: str) -> None:
    assert getattr(CONFIG, name) in choices_of(name)
    with pytest.raises(UserError, match=rf"model\.{name}='other' is not known; known are: {choices_of(name)[0]}, "):
        config_with(**{name: "other"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm", "group"), ("position", "alibi"), ("rope_scaling", "ntk"), ("mlp", "relu"), ("remat", "half")],
)
def test_a_choice_that_the_model_does_not_implement_is_an_error_and_not_another_model(name: str, value: str) -> None:
    config = config_with(**(ROPE if name == "rope_scaling" else {}))
    object.__setattr__(config, name, value)  # past the check of the config, as a choice without code would be
    with pytest.raises(UserError, match=rf"model\.{name}='{value}' is not known"):
        forward(config)


def test_an_attention_backend_that_is_not_known_is_refused() -> None:
    with pytest.raises(UserError, match="attention backend='flash' is not known"):
        forward(CONFIG, "flash")
