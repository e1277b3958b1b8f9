"""Trains a model: config -> mesh -> state -> batches -> steps.

    python -m tonsai_jax.train --config configs/quickstart.py
    python -m tonsai_jax.train --config configs/gpt2_500m.py --workdir runs/gpt2
    python -m tonsai_jax.train --config configs/gpt2_500m.py --workdir runs/gpt2 --steps_today 1500

Any key of the config can be set as --config.section.key=value. The same command again continues from the last checkpoint;
SIGTERM, SIGHUP, SIGUSR1, Ctrl-C and the end of --max_hours save first, then end with exit code 0.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from ml_collections import ConfigDict

from tonsai_jax.cli import parse_flags
from tonsai_jax.config import micro_batch
from tonsai_jax.errors import run_command
from tonsai_jax.finish import complete_run, describe_complete_run, forget_completion, report_of_failure, report_run
from tonsai_jax.hooks import Hooks
from tonsai_jax.hosts.processes import hosts_of_devices, start_processes
from tonsai_jax.hosts.watchdog import DOWNLOADING, Watchdog
from tonsai_jax.interrupts import end_at_signals
from tonsai_jax.opening import describe, open_run
from tonsai_jax.planning.advice import explain_out_of_memory, warnings_before
from tonsai_jax.runtime.hardware import total_peak_flops
from tonsai_jax.runtime.libraries import quiet_libraries
from tonsai_jax.runtime.lock import workdir_lock
from tonsai_jax.runtime.memory import host_memory_bytes, keep_freed_memory, return_freed_memory
from tonsai_jax.runtime.output import lasting_output
from tonsai_jax.runtime.profile import StepProfile
from tonsai_jax.runtime.signals import StopRequest
from tonsai_jax.runtime.xla import set_environment, set_optimization_level, use_compile_cache
from tonsai_jax.saved_config import to_json
from tonsai_jax.stages import stage_at
from tonsai_jax.training.layer_norms import metric_names
from tonsai_jax.training.logger import SAVE_MARK, STOP_MARK, StepLogger
from tonsai_jax.training.loss_scale import saved_scale
from tonsai_jax.training.mesh import put_batch
from tonsai_jax.training.metrics import MetricsWriter
from tonsai_jax.training.run import changes_training, open_workdir, resume_metadata
from tonsai_jax.training.setup import make_steps

if TYPE_CHECKING:
    from tonsai_jax.training.terminal import TerminalView


def train(
    config: ConfigDict,
    workdir: Path,
    stop_request: StopRequest,
    watchdog: Watchdog,
    steps_today: int | None = None,
    view: "TerminalView | None" = None,
) -> None:
    """Trains until the run is complete, `steps_today` steps are done, or a signal asks to stop; then saves.

    Raises `UserError` for anything that the user can correct; what was saved before stays whole.
    """
    # Everything that can refuse the run comes first: until then nothing is written to the workdir.
    run = open_run(config, workdir, watchdog, say)
    start_step, last_step, checkpoints, order = run.start_step, run.last_step, run.checkpoints, run.order
    if not run.is_longer and describe_complete_run(
        workdir, start_step, say, has_changes=any(map(changes_training, run.changes))
    ):
        if not (workdir / "report.html").is_file():  # killed before it was written
            report_run(workdir, say)
        return
    if run.reference and start_step:
        run.reference.read()
    order.check_max_epochs(config.data.max_epochs)
    if change := order.change_at_resume():
        say(f"data: batches from step {start_step} on: {change}")
    damaged = run.damaged_rows()
    loader = run.loader(order, damaged)
    end_step = last_step if steps_today is None else min(last_step, start_step + steps_today)
    end_step = max(end_step, start_step)  # config.steps may have been lowered since

    stop_request.saves_first()
    epochs = order.epochs()
    describe(run.setup, run.manifest, epochs, start_step, end_step, say)
    for line in warnings_before(
        config,
        run.setup,
        tokenizer_vocab_size=run.tokenizer.vocab_size,
        epochs=epochs,
        is_new=start_step == 0 and run.pretrained is None,
        hosts=hosts_of_devices(),
    ):
        say(line)

    # From here on the run writes and computes.
    run.find_scores()
    checkpoints.drop_scores_after(start_step)
    checkpoints.drop_sane_after(start_step)
    run.roll_backs.drop_later()
    open_workdir(workdir, config, run.manifest, start_step)
    if start_step < last_step:
        forget_completion(workdir)
    set_optimization_level(config.runtime.optimization_level, jax.default_backend(), run.setup.mesh.size)
    if no_cache := use_compile_cache(config.runtime.compile_cache, jax.default_backend()):
        say(no_cache)
    with watchdog.doing("restoring"):
        state, base = run.state(say), run.base()
    train_step, eval_step = make_steps(
        config,
        run.setup,
        end_of_text_id=run.manifest.end_of_text_id,
        token_bytes=run.tokenizer.token_bytes(),
        prefix_bytes=len(run.tokenizer.prefix),
    )
    eval_step = watchdog.counted(eval_step)
    writer = MetricsWriter(
        workdir,
        start_step=start_step,
        active=jax.process_index() == 0,
        wandb_project=config.wandb.project,
        wandb_name=config.wandb.name,
        config=to_json(config),
        view=view,
    )
    watch = run.watch(order, start_step, run.saved, say)
    logger = StepLogger(
        writer,
        say,
        run.stages,
        start_step=start_step,
        end_step=end_step,
        flops_per_token=run.setup.flops_per_token,
        peak_flops=total_peak_flops(),
        log_every=config.log_every,
        max_skipped_steps=config.optimizer.max_skipped_steps,
        epochs=order.epochs,
        damaged_rows=lambda: damaged.count,
        last_progress=writer.last_progress,
        watch=watch,
        step_times=watchdog.times,
        layer_norms_every=config.layer_norms_every,
        norm_names=metric_names(state.params),
    )
    profile = StepProfile(
        workdir / "profile",
        first_step=start_step + config.profile.start,
        steps=config.profile.steps if jax.process_index() == 0 else 0,  # the other hosts do the same work
        paused=logger.paused,
        say=say,
    )
    if run.reference and not start_step:
        first, mesh = run.stages[0], run.setup.mesh
        share = micro_batch(config).accumulation_steps(mesh.size, first.global_batch_size, first.seq_len)
        with watchdog.doing("evaluating"):
            run.reference.make(eval_step, state.model_params, mesh, first.global_batch_size // share)
    hooks = Hooks(
        config,
        workdir,
        run.stages,
        run.setup.model_config,
        run.manifest,
        run.tokenizer,
        run.setup.mesh,
        eval_step,
        writer,
        say,
        run.reference,
        run.metric,
    )
    if view is not None:
        view.start(start_step, end_step, logger.flops_at(end_step))
    if run.pretrained is not None and not start_step and config.eval.every:
        with watchdog.doing("evaluating"):
            hooks.evaluate(0, state.model_params)  # the end of the run compares with it
        with watchdog.doing("sampling"):
            hooks.write_texts(0, state.model_params, samples=False, suite=True)
    if start_step:
        with watchdog.doing("evaluating"):
            hooks.make_up(start_step, state.model_params, checkpoints.record_score)

    step, saved_at, stopping = start_step, start_step, False
    batches = damaged.watch(loader.batches(step), step, end_step)
    while (step < end_step or watch.must_go_back) and not stopping:
        if watch.must_go_back:
            from tonsai_jax.roll_back import roll_back  # imported here: most runs never go back

            del state, batches  # the memory is needed for those of the checkpoint
            with watchdog.doing("restoring"):
                step, order, watch = roll_back(run, order, watch, say)
                state, damaged = run.restore(step), run.damaged_rows()
            batches = damaged.watch(run.loader(order, damaged).batches(step), step, end_step)
            writer.go_back(step)
            logger.go_back(step, watch, order.epochs)
            saved_at = step
            continue
        batch = next(batches)
        watchdog.step_begins(step, stage_at(run.stages, step))
        stops = stop_request.name is not None or damaged.stops
        mark = STOP_MARK if stops else SAVE_MARK * checkpoints.is_due()
        marks = {"stop": np.full(len(batch["valid"]), mark, np.int32)}
        marks |= watch.limits(step, len(batch["valid"]))
        profile.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, put_batch(batch | marks, run.setup.mesh))
        if step == start_step:
            return_freed_memory()  # the compiler's
        # The step above was only dispatched. While the devices work on it, the host reads the metrics of the step before,
        # so the devices never wait for the host; a request to stop is seen one step late for the same reason.
        logger.add(step, metrics)
        checkpoints.check()
        stopping = logger.stop_requested
        watchdog.step_ends(step)
        profile.after(step)
        step += 1
        if watch.must_go_back and not stopping:
            continue

        is_regular = stopping or step == end_step or step % config.checkpoint.every == 0
        if is_regular or logger.save_requested_in >= saved_at:
            with logger.paused(), watchdog.doing("saving"):
                metadata = resume_metadata(step, order, config, run.setup.model_config, run.manifest, base)
                metadata["spikes"] = watch.state()
                if run.teachers:
                    metadata["teachers"] = run.teachers.records
                if state.loss_scale:
                    metadata["loss_scale"] = saved_scale(state.loss_scale)
                checkpoints.save(state, metadata, is_temporary=not is_regular)
                watch.saved(step)
                saved_at = step
                say(f"step {step}: saving in the background, host memory {host_memory_bytes() / 2**30:.1f} GiB")
        evaluates = bool(config.eval.every) and step % config.eval.every == 0 and step < last_step and not stopping
        if evaluates:
            with logger.paused(), watchdog.doing("evaluating"):
                score = hooks.score(step, hooks.evaluate(step, state.model_params))
                if score is not None:
                    checkpoints.record_score(step, score)
        samples = bool(config.sample.every) and step % config.sample.every == 0 and not stopping
        if samples or evaluates:
            with logger.paused(), watchdog.doing("sampling"):
                hooks.write_texts(step, state.model_params, samples=samples, suite=evaluates)

    watchdog.report("saving")
    logger.read()
    profile.close()
    checkpoints.wait()
    stop_request.all_is_saved()
    watch.end(step, complete=step >= last_step)
    checkpoints.close()
    watchdog.report("finishing")
    if step < last_step:
        if view is not None:
            view.stop()
        asked = f"{stop_request.name or 'another host'} asked to stop"
        why = asked if stopping else f"--steps_today={steps_today} is done"
        damaged.raise_error(saved_step=step)
        say(f"saved at step {step} of {last_step}: {why}; run the same command again to continue")
        report_run(workdir, say)
    else:
        evaluation = hooks.evaluate(step, state.model_params) if config.eval.every else None
        if (score := hooks.score(step, evaluation)) is not None:
            checkpoints.record_score(step, score)
        if config.eval.every:
            hooks.write_texts(step, state.model_params, samples=False, suite=True)
        if view is not None:
            view.stop()
        del state  # its memory is needed for what follows
        complete_run(workdir, config, evaluation, say)
        report_run(workdir, say)
    writer.close()


def say(line: str) -> None:
    """Prints a line, on the first host only."""
    if jax.process_index() == 0:
        print(line, flush=True)


def _view(config: ConfigDict) -> "AbstractContextManager[TerminalView | None]":
    if not sys.stdout.isatty():
        return nullcontext()
    from tonsai_jax.training.terminal import open_view  # imported here: only a terminal needs it

    return open_view(config.terminal_view) or nullcontext()


@contextmanager
def _copies_elsewhere(config: ConfigDict, workdir: Path, watchdog: Watchdog) -> Iterator[None]:
    with ExitStack() as stack:
        if config.checkpoint.mirror or config.checkpoint.hub_repo:
            from tonsai_jax.checkpoints.elsewhere import copies_elsewhere  # imported here: most runs go nowhere else

            with watchdog.doing(DOWNLOADING):  # it may bring the run down
                stack.enter_context(copies_elsewhere(config, workdir, say))
        yield


def _check_program(config: ConfigDict, workdir: Path, watchdog: Watchdog, steps_today: int | None) -> None:
    if watchdog.peers is not None:
        from tonsai_jax.hosts.agreement import check_program  # imported here: most runs have one process

        check_program(watchdog.peers, config, {"steps_today": steps_today}, workdir)


def main() -> None:
    end_at_signals()
    quiet_libraries()
    config, workdir, limits = parse_flags(sys.argv, __doc__ or "")
    keep_freed_memory()
    set_environment(config.runtime.memory_fraction)
    start_processes(config.hosts.connect_seconds)
    lock = workdir_lock(workdir, say) if jax.process_index() == 0 else nullcontext()
    with (
        lasting_output(),
        Watchdog(config.hosts, workdir) as watchdog,
        StopRequest(say, limits.max_hours) as stop_request,
        lock,
    ):
        # First of all that processes do together: ones that differ here would wait for each other in different places.
        _check_program(config, workdir, watchdog, limits.steps_today)
        with (
            _copies_elsewhere(config, workdir, watchdog),
            report_of_failure(workdir, say),
            watchdog.tells_failure(),
            explain_out_of_memory(config),
            _view(config) as view,
        ):
            train(config, workdir, stop_request, watchdog, limits.steps_today, view)


if __name__ == "__main__":
    run_command(main)
