"""The state of a run on the devices: parameters, optimizer moments, step. Each device makes its own part of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.model.lora import add_adapters, join_adapters, split_adapters, stored_base
from tonsai_jax.model.transformer import Transformer
from tonsai_jax.training.loss_scale import first_scale, placed_scale
from tonsai_jax.training.mesh import shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state between two steps.

    Attributes:
      step: int32 scalar, the steps done, skipped ones included.
      params: nested dict of float32 arrays, the parameters that are trained.
      opt_state: the state of the Optax optimizer.
      frozen: nested dict, the parameters that are not trained: the base of LoRA, see `stored_base`; else empty. They are in
        no checkpoint.
      loss_scale: of float16, see `training.loss_scale`; else empty. Checkpoints keep it in their metadata.
      teachers: the parameters of each model that a distilled run learns from, stored as `frozen`; in no checkpoint.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    frozen: Any = dataclasses.field(default_factory=dict)
    loss_scale: Any = dataclasses.field(default_factory=dict)
    teachers: tuple[Any, ...] = ()

    @property
    def model_params(self) -> dict[str, Any]:
        """All parameters of the model, trained and frozen."""
        return join_adapters(self.params, self.frozen)


def model_graph(
    model_config: ModelConfig,
    attention_backend: str,
    mesh: Mesh | None = None,
    lora: Lora | None = None,
    experts_backend: str = "batched",
) -> nnx.GraphDef:
    """The model without its parameters: `nnx.merge(graph, params)` is a `Transformer`. Allocates no arrays.

    Args:
      attention_backend, mesh, experts_backend: see `Transformer`.
      lora: the adapters that it has.
    """
    abstract = nnx.eval_shape(lambda: _model(model_config, attention_backend, mesh, lora, 0, experts_backend))
    return nnx.split(abstract, nnx.Param)[0]


def init_params(model_config: ModelConfig, seed: int, lora: Lora | None = None) -> dict[str, Any]:
    """Initial parameters, a nested dict of float32 arrays; the same for a seed on any mesh."""
    return nnx.to_pure_dict(nnx.state(_model(model_config, "xla", None, lora, seed), nnx.Param))


def abstract_state(
    model_config: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
    lora: Lora | None = None,
) -> TrainState:
    """The state as shapes, dtypes and shardings, without arrays; the devices of `mesh` need not exist.

    Raises `UserError` for a parameter in `optimizer.rate_of` that the model does not have.
    """
    shapes = jax.eval_shape(lambda: _init(model_config, optimizer, 0, lora))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh),
    )


def init_state(
    model_config: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    lora: Lora | None = None,
) -> TrainState:
    """The state before the first step, all of it drawn from `seed`; each device makes only the part that it keeps."""
    placement = _placement(abstract_state(model_config, optimizer, mesh, lora))
    return jax.jit(lambda: _init(model_config, optimizer, seed, lora), out_shardings=placement)()


def state_of(
    read_params: Callable[[Any], Any],
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    new_adapters: Callable[[], Any] | None = None,
) -> TrainState:
    """The state before the first step of a run that continues from another model.

    Args:
      read_params: reads the parameters of that model; it is given a tree of their shapes, dtypes and shardings.
      abstract: from `abstract_state`.
      new_adapters: draws the adapters of LoRA, see `init_params`; without it all parameters of the model are trained.
    """
    placement = _placement(abstract)
    if new_adapters is None:
        params, frozen = read_params(abstract.params), {}
    else:
        frozen = read_params(abstract.frozen)
        params = jax.jit(lambda: split_adapters(new_adapters())[0], out_shardings=placement.params)()
    opt_state = jax.jit(optimizer.init, out_shardings=placement.opt_state)(params)
    loss_scale = placed_scale(abstract.loss_scale)
    return TrainState(jax.device_put(jnp.int32(0), placement.step), params, opt_state, frozen, loss_scale)


def _placement(abstract: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _init(
    model_config: ModelConfig, optimizer: optax.GradientTransformation, seed: int, lora: Lora | None
) -> TrainState:
    params, frozen = init_params(model_config, seed, lora), {}
    if lora is not None:
        params, base = split_adapters(params)
        frozen = stored_base(base, model_config.dtype)
    loss_scale = first_scale(model_config.dtype)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), frozen, loss_scale)


def _model(
    model_config: ModelConfig,
    attention_backend: str,
    mesh: Mesh | None,
    lora: Lora | None,
    seed: int,
    experts_backend: str = "batched",
) -> Transformer:
    rngs = nnx.Rngs(seed)
    model = Transformer(model_config, attention_backend, mesh, experts_backend, rngs=rngs)
    if lora is not None:
        add_adapters(model, lora, rngs)
    return model
