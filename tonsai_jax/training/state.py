"""The state of a run on the devices: parameters, optimizer moments, step. Each device makes its own part of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.transformer import Transformer
from tonsai_jax.training.mesh import shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state between two steps.

    Attributes:
      step: int32 scalar, the steps done, skipped ones included.
      params: nested dict of float32 arrays.
      opt_state: the state of the Optax optimizer.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def model_graph(model_config: ModelConfig, attention_backend: str, mesh: Mesh | None = None) -> nnx.GraphDef:
    """The model without its parameters: `nnx.merge(graph, params)` is a `Transformer`. Allocates no arrays.

    Args:
      attention_backend, mesh: see `Transformer`.
    """
    abstract = nnx.eval_shape(lambda: Transformer(model_config, attention_backend, mesh, rngs=nnx.Rngs(0)))
    return nnx.split(abstract, nnx.Param)[0]


def init_params(model_config: ModelConfig, seed: int) -> dict[str, Any]:
    """Initial parameters, a nested dict of float32 arrays; the same for a seed on any mesh."""
    return nnx.to_pure_dict(nnx.state(Transformer(model_config, rngs=nnx.Rngs(seed)), nnx.Param))


def abstract_state(
    model_config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh | AbstractMesh
) -> TrainState:
    """The state as shapes, dtypes and shardings, without arrays; the devices of `mesh` need not exist.

    Raises `UserError` for a parameter in `optimizer.rate_of` that the model does not have.
    """
    shapes = jax.eval_shape(lambda: _init(model_config, optimizer, 0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh),
    )


def init_state(model_config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int) -> TrainState:
    """The state before the first step; each device makes only the part that it keeps."""
    placement = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model_config, optimizer, mesh))
    return jax.jit(lambda: _init(model_config, optimizer, seed), out_shardings=placement)()


def state_of(
    read_params: Callable[[Any], Any], optimizer: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """The state before the first step of a run that continues from another model.

    Args:
      read_params: reads the parameters; it is given a tree of their shardings.
      abstract: from `abstract_state`.
    """
    placement = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    params = read_params(placement.params)
    opt_state = jax.jit(optimizer.init, out_shardings=placement.opt_state)(params)
    return TrainState(step=jax.device_put(jnp.int32(0), placement.step), params=params, opt_state=opt_state)


def _init(model_config: ModelConfig, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    params = init_params(model_config, seed)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))
