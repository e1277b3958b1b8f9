"""A run goes back to its last sane checkpoint, and jumps over the rows that it has read since."""

import time
from collections.abc import Callable

from tonsai_jax.data.order import DataOrder
from tonsai_jax.errors import UserError
from tonsai_jax.opening import Opened
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.training.spike_watch import SpikeWatch


def roll_back(
    run: Opened, order: DataOrder, watch: SpikeWatch, say: Callable[[str], None]
) -> tuple[int, DataOrder, SpikeWatch]:
    """Goes back from a spike without recovery: deletes the later checkpoints and records the jump.

    Nothing is deleted before the checkpoint to go back to is found whole. All processes of a run call it together.

    The steps are taken again, with the rows after those of the last bad step. So the run keeps its number of steps.

    Args:
      order, watch: of the steps that are given up.

    Returns:
      The step of the last sane checkpoint, and the order and the watch from there on.

    Raises `UserError` where no checkpoint is sane and whole, or after `spikes.max_roll_backs`.
    """
    detector = watch.detector
    assert detector.next_step is not None
    first, end = detector.episode[0][0], detector.next_step
    bad = f"step {end}: no recovery from the spike of step {first + 1}"
    run.checkpoints.wait()
    done, most = len(run.roll_backs), watch.settings.max_roll_backs
    if done >= most:
        raise UserError(
            f"{bad}, and the run already went back {count_of(done, 'time')} (spikes.max_roll_backs={most}); lower "
            f"optimizer.learning_rate, check the rows in {run.workdir / 'roll_backs.jsonl'}, or raise spikes.max_roll_backs"
        )
    step = run.checkpoints.whole_sane_step(say)
    if step is None:
        raise UserError(
            f"{bad}, and no whole checkpoint was followed by sane steps yet, to go back to; lower optimizer.learning_rate, check "
            f"the rows in {run.workdir / 'spikes.jsonl'}, or save more often with checkpoint.every, and give another --workdir"
        )
    saved = run.checkpoints.resume_metadata(step)
    data = run.roll_backs.data_at(step) or saved["data"]
    at_step = DataOrder(run.manifest, seed=run.config.seed, stages=run.stages, state=data)
    data = at_step.state_after_jump(step, order.positions(end))
    run.checkpoints.delete_after(step)
    details = {
        "time": round(time.time(), 3),
        "from_step": end,
        "bad_steps": [
            {
                "step": bad_step + 1,
                "loss": str(loss),
                "grad_norm": str(grad_norm),
                "rows": [window[:3] for window in watch.rows(bad_step)],
            }
            for bad_step, loss, grad_norm in detector.episode
        ],
    }
    run.roll_backs.add(step, data, details)
    say(
        f"{bad}: back to the last sane checkpoint, that of step {step}, and on from there with the rows after those of step "
        f"{end} ({done + 1} of {most} times; roll_backs.jsonl)"
    )
    order = DataOrder(run.manifest, seed=run.config.seed, stages=run.stages, state=data)
    return step, order, run.watch(order, step, saved, say)
