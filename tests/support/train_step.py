"""A training step of the tiny model, batches for it, and the comparison of two trees of arrays."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tests.support.tiny_model import CONFIG, config_with
from tonsai_jax.stages import MicroBatch
from tonsai_jax.training.mesh import BATCH_AXES
from tonsai_jax.training.optimizer import learning_rate_schedule, make_optimizer
from tonsai_jax.training.state import model_graph
from tonsai_jax.training.step import LossSettings, make_train_step

END = 0
BIG = config_with(vocab_size=512, d_model=128, d_ff=512)  # large enough for its matrices to be split
B, T = 8, 16
# The gradient of a key's bias is 0 but for rounding: a small epsilon would make whole steps of that noise.
ADAMW = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-4, weight_decay=0.1)
COSINE = learning_rate_schedule("cosine", peak=1e-2, total_steps=10, warmup_steps=3, decay_steps=0, final_ratio=0.1)


def batch_of(seed=0, *, batch_size=B, vocab_size=CONFIG.vocab_size):
    """Windows of random tokens, some of them not full and one empty."""
    rng = np.random.default_rng(seed)
    valid = np.full(batch_size, T, np.int32)
    valid[-3:] = (11, 3, 0)
    tokens = rng.integers(0, vocab_size, (batch_size, T + 1)).astype(np.uint16)
    return {"tokens": tokens, "valid": valid, "stop": np.zeros(batch_size, np.int32)}


def make_step(config=CONFIG, mesh=None, *, optimizer=ADAMW, schedule=COSINE, z_loss=1e-4, **changes):
    settings: dict[str, Any] = {"clip_norm": 1.0, "micro_batch": MicroBatch()} | changes
    return make_train_step(
        model_graph(config, "xla"),
        optimizer,
        schedule,
        mesh or one_device(),
        loss=LossSettings(chunk_tokens=32, z_loss=z_loss),
        end_of_text_id=END,
        dropout_key=jax.random.key(1),
        **settings,
    )


@functools.cache
def one_device():
    return Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), BATCH_AXES)


def assert_same(first, second, **tolerance):
    if not tolerance:
        jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 0} | tolerance)), first, second)
