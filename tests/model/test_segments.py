"""Segments: a conversation in a packed row is computed as if it were alone, its positions from 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.families import config_of
from tests.support.tiny_model import random_params
from tonsai_jax.model.attention import segment_positions
from tonsai_jax.training.state import model_graph

SEGMENTS, LENGTH = 3, 11


def test_positions_count_from_0_in_each_segment() -> None:
    segments = jnp.array([[1, 1, 2, 3, 3, 3], [0, 0, 0, 0, 0, 1]])
    assert segment_positions(segments).tolist() == [[0, 1, 0, 0, 1, 2], [0, 1, 2, 3, 4, 0]]


# Learned positions, RoPE, windows in some layers, experts.
@pytest.mark.parametrize("variant", ["gpt2", "llama", "gemma3", "mixtral, top-2"])
def test_a_segment_is_computed_as_if_it_were_alone(variant: str) -> None:
    config = config_of(variant)
    params = random_params(config)
    model = nnx.merge(model_graph(config, "xla"), params)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, SEGMENTS * LENGTH))
    segments = np.repeat(np.arange(SEGMENTS), LENGTH)[None].astype(np.int32)
    packed, _ = jax.jit(lambda tokens, segments: model(tokens, segments_BxT=segments))(tokens, segments)
    alone, _ = jax.jit(lambda tokens: model(tokens))(tokens.reshape(SEGMENTS, LENGTH))
    np.testing.assert_allclose(packed.reshape(alone.shape), alone, atol=2e-5)
