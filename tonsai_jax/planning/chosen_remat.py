"""`model.remat="auto"` of a run: the fastest rematerialization that fits in the memory of its devices."""

import dataclasses

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from ml_collections import ConfigDict

from tonsai_jax.planning.advice import GIB, usable_bytes
from tonsai_jax.runtime.memory import SMALL_PARAMETERS
from tonsai_jax.training.setup import Setup


def with_remat(config: ConfigDict, setup: Setup) -> tuple[Setup, str]:
    """The run with "auto" replaced, and a line that says by what and why; "" where the config says what to do.

    Small models and runs on a CPU keep all of a layer. All processes of a run choose the same: that of the smallest device.
    """
    if setup.model_config.remat != "auto":
        return setup, ""
    if jax.default_backend() == "cpu" or setup.model_config.num_parameters < SMALL_PARAMETERS:
        return _replaced(setup, "none"), ""
    from tonsai_jax.planning.memory import local_bytes  # imported here: a run on a CPU never needs them
    from tonsai_jax.planning.step_plan import plan_steps

    mebibytes = np.int32(usable_bytes() // 2**20)
    usable = int(np.min(process_allgather(mebibytes))) * 2**20 - local_bytes(setup.abstract_state.teachers)
    plans = plan_steps(
        config,
        vocab_size=setup.model_config.vocab_size,
        num_devices=setup.mesh.size,
        backend=jax.default_backend(),
        usable_bytes=usable,
        attention_backend=setup.attention_backend,
    )
    remat, needs = plans[0].model_config.remat, max(plan.peak_bytes() for plan in plans)
    return _replaced(setup, remat), f"remat: {remat} (the step needs about {needs / GIB:.1f} of {usable / GIB:.1f} GiB)"


def _replaced(setup: Setup, remat: str) -> Setup:
    return dataclasses.replace(setup, model_config=dataclasses.replace(setup.model_config, remat=remat))
