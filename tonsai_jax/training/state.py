"""The state of a run on the devices: parameters, optimizer moments, step; made in place, never whole on one host."""

import dataclasses
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
    """What a step turns into the next state.

    Attributes:
      step: int32 scalar, steps done, skipped ones included.
      params: nested dict of float32 arrays.
      opt_state: Optax's.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def model_graph(config: ModelConfig, kernel: str, mesh: Mesh | None = None) -> nnx.GraphDef:
    """The model without its numbers: `nnx.merge(graph, params)` is the model. Allocates nothing. See `Transformer`."""
    abstract = nnx.eval_shape(lambda: Transformer(config, kernel, mesh, rngs=nnx.Rngs(0)))
    return nnx.split(abstract, nnx.Param)[0]


def init_params(config: ModelConfig, seed: int) -> dict[str, Any]:
    """Fresh parameters, a nested dict of float32 arrays: a pure function of the seed on any mesh."""
    return nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(seed)), nnx.Param))


def abstract_state(
    config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh | AbstractMesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state, with no memory behind them, on devices that need not be there."""
    shapes = jax.eval_shape(lambda: _init(config, optimizer, 0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh),
    )


def init_state(config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int) -> TrainState:
    """A fresh state; every device makes only the part that it keeps."""
    placement = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh))
    return jax.jit(lambda: _init(config, optimizer, seed), out_shardings=placement)()


def _init(config: ModelConfig, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    params = init_params(config, seed)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))
