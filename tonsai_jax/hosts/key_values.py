"""The way to the key-value store that JAX keeps in process 0, for what must reach other processes without a collective."""

from typing import Any

from jax._src import distributed  # JAX has no public way to it; Orbax uses this one too


def key_value_store() -> Any:
    """The client of the store; None where this process is not connected to others."""
    return distributed.global_state.client
