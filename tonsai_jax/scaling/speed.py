"""How many tokens per second a machine trains: measured on this CPU, estimated for a GPU."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from ml_collections import ConfigDict

from tonsai_jax.config import model_config, stages_of
from tonsai_jax.errors import UserError
from tonsai_jax.planning.estimate import estimate
from tonsai_jax.runtime.hardware import Gpu
from tonsai_jax.saved_config import copy_of
from tonsai_jax.training.setup import check_run, make_steps
from tonsai_jax.training.state import init_state

MEASURED_WIDTHS = (64, 256)
MEASURED_SECONDS = 3.0  # of steps, at each width
ROOFLINE_SHARE = 0.7  # of the roofline of `tonsai estimate`, an upper bound, that a GPU is planned with; assumed


@dataclass(frozen=True)
class Speed:
    """The speed of a model on a machine.

    Attributes:
      tokens_per_second: of all its devices together.
      micro_batch_size: sequences that a GPU processes at once; 0 on a CPU, which takes the whole batch.
    """

    tokens_per_second: float
    micro_batch_size: int = 0


# The speed of the run of a config; None where its model does not fit.
SpeedOf = Callable[[ConfigDict], Speed | None]


def cpu_speed(flops: Callable[[int], float], vocab_size: int) -> SpeedOf:
    """The speed on a CPU, which computes `flops(width)` model FLOPs per second for a model of this width."""

    def speed(config: ConfigDict) -> Speed:
        model = model_config(config, vocab_size)
        return Speed(flops(model.d_model) / model.flops_per_token(config.seq_len))

    return speed


def measured_flops(configs: Sequence[ConfigDict], vocab_size: int) -> Callable[[int], float]:
    """Measures the training steps of some configs on this machine, and returns the model FLOPs per second by width.

    Between the measured widths it interpolates on the logarithm of the width; beyond them it takes the nearest. The FLOPs are
    those of the model, so the time of the optimizer lowers them, as it does in a run.
    """
    measured = {config.model.d_model: _flops_of(config, vocab_size) for config in configs}
    widths = sorted(measured)
    values = [measured[width] for width in widths]
    return lambda width: float(np.interp(np.log(width), np.log(widths), values))


def _flops_of(config: ConfigDict, vocab_size: int) -> float:
    """Model FLOPs per second of training steps with the config's model, batch and optimizer, on random tokens."""
    setup = check_run(config, stages_of(config), vocab_size)
    step, _ = make_steps(config, setup, end_of_text_id=0, token_bytes=np.ones(vocab_size, np.int32))
    shape = (config.global_batch_size, config.seq_len + 1)
    tokens = np.random.default_rng(0).integers(1, vocab_size, shape).astype(np.uint32)
    batch = {
        "tokens": jax.numpy.asarray(tokens),
        "valid": jax.numpy.full(shape[0], config.seq_len, np.int32),
        "stop": jax.numpy.zeros(shape[0], np.int32),
    }
    state = init_state(setup.model_config, setup.optimizer, setup.mesh, config.seed)
    state, metrics = step(state, batch)  # compiles
    jax.block_until_ready(metrics)
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < MEASURED_SECONDS:
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        steps += 1
    seconds = (time.monotonic() - began) / steps
    return setup.flops_per_token(config.seq_len) * config.seq_len * config.global_batch_size / seconds


def gpu_speed(gpu: Gpu, num_gpus: int, vocab_size: int) -> SpeedOf:
    """The speed on GPUs: `ROOFLINE_SHARE` of the roofline of `tonsai estimate`, with the largest micro-batch that fits.

    Each GPU holds a whole copy of the model. Raises `UserError` for a number of GPUs that cannot work.
    """

    def speed(config: ConfigDict) -> Speed | None:
        config = copy_of(config)
        config.model.vocab_size, config.data.dir, config.micro_batch_size = vocab_size, "", 0
        if num_gpus < 1 or config.global_batch_size % num_gpus:
            raise UserError(
                f"--num-gpus {num_gpus}: must divide the {config.global_batch_size} sequences of a step; use a power of two"
            )
        [stage] = estimate(config, gpu, num_gpus, compiles=False, say=lambda _: None)["stages"]
        if not stage["micro_batch_size"]:
            return None
        return Speed(ROOFLINE_SHARE * stage["tokens_per_second"], stage["micro_batch_size"])

    return speed
