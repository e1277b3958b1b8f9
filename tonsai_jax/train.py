"""Trains a model: config -> mesh -> state -> batches -> steps.

    python -m tonsai_jax.train --config configs/quickstart.py
    python -m tonsai_jax.train --config configs/gpt2_500m.py --workdir runs/gpt2
    python -m tonsai_jax.train --config configs/gpt2_500m.py --workdir runs/gpt2 --steps_today 1500

Any key of the config can be set as --config.section.key=value. The same command again continues from the last checkpoint;
SIGTERM and Ctrl-C save first, then end with exit code 0.
"""

import dataclasses
import os
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from ml_collections import ConfigDict

from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.cli import parse_flags
from tonsai_jax.config import micro_batch, stages_of, to_json, validate
from tonsai_jax.data.loader import Loader
from tonsai_jax.data.order import DataOrder
from tonsai_jax.errors import UserError, run_command
from tonsai_jax.finish import complete_run, describe_complete_run, report_of_failure, report_run
from tonsai_jax.hooks import Hooks
from tonsai_jax.hosts.processes import start_processes
from tonsai_jax.hosts.watchdog import Watchdog
from tonsai_jax.opening import describe, open_init_from, open_reference, open_training_rows
from tonsai_jax.planning.advice import explain_out_of_memory, warnings_before
from tonsai_jax.runtime.hardware import total_peak_flops
from tonsai_jax.runtime.libraries import quiet_libraries
from tonsai_jax.runtime.lock import workdir_lock
from tonsai_jax.runtime.memory import host_memory_bytes, keep_freed_memory, return_freed_memory
from tonsai_jax.runtime.profile import StepProfile
from tonsai_jax.runtime.signals import StopRequest
from tonsai_jax.runtime.xla import set_environment, set_optimization_level, use_compile_cache
from tonsai_jax.stages import stage_at, total_steps
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.logger import StepLogger
from tonsai_jax.training.mesh import put_batch
from tonsai_jax.training.metrics import MetricsWriter
from tonsai_jax.training.run import (
    changes_length,
    changes_since,
    changes_training,
    check_kinds,
    open_workdir,
    resume_metadata,
)
from tonsai_jax.training.setup import check_run, make_steps
from tonsai_jax.training.state import init_params, init_state, state_of

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
    if watchdog.peers is not None:
        from tonsai_jax.hosts.agreement import check_inputs, check_program  # imported here: most runs have one process

        check_program(watchdog.peers, config, {"steps_today": steps_today}, workdir)
    keep = KeepPolicy(config.checkpoint.keep_last, config.checkpoint.keep_every, config.checkpoint.keep_best)
    checkpoints = Checkpoints(workdir, keep)
    start_step = checkpoints.latest_step() or 0
    saved = checkpoints.resume_metadata(start_step) if start_step else None
    if saved is not None and "grpo" in saved:
        raise UserError(
            f"{workdir}: this is a run of `tonsai grpo`, and only that command resumes it; to train its model further, give "
            f"another --workdir and {shlex.quote(f'--config.init_from={workdir}')}"
        )
    pretrained = open_init_from(config, workdir, saved, say)
    validate(config)
    manifest = open_training_rows(config)
    if watchdog.peers is not None:
        check_inputs(watchdog.peers, manifest, start_step)
    tokenizer = Tokenizer.from_folder(manifest.directory / "tokenizer")
    stages = stages_of(config, manifest.train_sizes())
    reference = open_reference(config, workdir, manifest, check_kinds(config, stages, manifest))
    if pretrained is not None and not saved and (not_checked := pretrained.check_tokenizer(tokenizer)):
        say(not_checked)
    # A model whose size is given needs no row for special tokens that nothing uses.
    vocab_size = tokenizer.required_rows if config.model.vocab_size else tokenizer.vocab_size
    setup = check_run(config, stages, vocab_size)
    from tonsai_jax.evaluation.best import best_metric, scores_so_far  # imported here: the loop does not need it

    metric = best_metric(config, manifest, stages)
    if config.export:
        from tonsai_jax.huggingface.names import family_of

        family_of(setup.model_config)  # raises for a model that no Hugging Face family describes
    last_step = total_steps(stages)
    changes = changes_since(saved, workdir, config, setup.model_config, manifest) if saved else []
    for change in changes:
        say(f"changed since step {start_step}: {change}")
    order = DataOrder(manifest, seed=config.seed, stages=stages, state=saved["data"] if saved else None)
    # A complete run goes on only where its length was changed: in epochs, other changes too give it another number of steps.
    is_longer = start_step < last_step and any(map(changes_length, changes))
    if not is_longer and describe_complete_run(
        workdir, start_step, say, has_changes=any(map(changes_training, changes))
    ):
        return
    if reference and start_step:
        reference.read()
    order.check_max_epochs(config.data.max_epochs)
    if change := order.change_at_resume():
        say(f"data: batches from step {start_step} on: {change}")
    base = None
    if pretrained is not None and setup.lora:
        base = saved["base"] if saved else pretrained.record()
    loader = Loader(
        order,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        document_mask=config.model.document_mask,
        attach=reference.of_window if reference else None,
    )
    end_step = last_step if steps_today is None else min(last_step, start_step + steps_today)
    end_step = max(end_step, start_step)  # config.steps may have been lowered since

    stop_request.saves_first()
    epochs = order.epochs()
    writes_texts = config.sample.every > 0 or (config.eval.every > 0 and config.eval.prompt_suite)
    describe(setup, manifest, epochs, start_step, end_step, say, writes_texts=writes_texts)
    for line in warnings_before(
        config,
        setup,
        tokenizer_vocab_size=tokenizer.vocab_size,
        epochs=epochs,
        is_new=start_step == 0 and pretrained is None,
    ):
        say(line)

    # From here on the run writes and computes.
    if any(change.startswith("checkpoint.best_metric:") for change in changes):
        checkpoints.replace_scores(scores_so_far(workdir, metric))
    checkpoints.drop_scores_after(start_step)
    open_workdir(workdir, config, manifest, start_step)
    set_optimization_level(config.runtime.optimization_level, jax.default_backend(), setup.mesh.size)
    if no_cache := use_compile_cache(config.runtime.compile_cache, jax.default_backend()):
        say(no_cache)
    # Where the weights come from, in this order:
    #   1. the newest checkpoint of this run;
    #   2. config.init_from: a model of the Hub, a folder in its format, or the newest checkpoint of another run;
    #   3. scratch: drawn from config.seed.
    # With LoRA the base always comes from 2, and its adapters from 1 or 3.
    if start_step:
        say(f"weights: the checkpoint of this run at step {start_step}")
        state = checkpoints.restore_state(start_step, setup.abstract_state)
        if pretrained is not None:
            state = dataclasses.replace(state, frozen=pretrained.params(setup.abstract_state.frozen))
    elif pretrained is not None:
        say(f"weights: {config.init_from} ({pretrained.dtype} in {pretrained.folder})")
        new_adapters = partial(init_params, setup.model_config, config.seed, setup.lora) if setup.lora else None
        state = state_of(pretrained.params, setup.optimizer, setup.abstract_state, new_adapters)
    else:
        say(f"weights: new, drawn from seed {config.seed}")
        state = init_state(setup.model_config, setup.optimizer, setup.mesh, config.seed)
    train_step, eval_step = make_steps(
        config,
        setup,
        end_of_text_id=manifest.end_of_text_id,
        token_bytes=tokenizer.token_bytes(),
        prefix_bytes=len(tokenizer.prefix),
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
    logger = StepLogger(
        writer,
        say,
        stages,
        start_step=start_step,
        end_step=end_step,
        flops_per_token=setup.flops_per_token,
        peak_flops=total_peak_flops(),
        log_every=config.log_every,
        max_skipped_steps=config.optimizer.max_skipped_steps,
        epochs=order.epochs,
        last_progress=writer.last_progress,
        step_times=watchdog.times,
    )
    profile = StepProfile(
        workdir / "profile",
        first_step=start_step + config.profile.start,
        steps=config.profile.steps if jax.process_index() == 0 else 0,  # the other hosts do the same work
        paused=logger.paused,
        say=say,
    )
    if reference and not start_step:
        share = micro_batch(config).accumulation_steps(setup.mesh.size, stages[0].global_batch_size, stages[0].seq_len)
        reference.make(eval_step, state.model_params, setup.mesh, stages[0].global_batch_size // share)
    hooks = Hooks(
        config,
        workdir,
        stages,
        setup.model_config,
        manifest,
        tokenizer,
        setup.mesh,
        eval_step,
        writer,
        say,
        reference,
        metric,
    )
    if view is not None:
        view.start(start_step, end_step, logger.flops_at(end_step))
    if pretrained is not None and not start_step and config.eval.every:
        hooks.evaluate(0, state.model_params)  # the end of the run compares with it
        hooks.write_texts(0, state.model_params, samples=False, suite=True)

    for step, batch in enumerate(loader.batches(start_step), start_step):
        watchdog.step_begins(step, stage_at(stages, step))
        stop_marks = np.full(len(batch["valid"]), stop_request.name is not None, np.int32)
        profile.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, put_batch(batch | {"stop": stop_marks}, setup.mesh))
        if step == start_step:
            return_freed_memory()  # the compiler's
        # The step above was only dispatched. While the devices work on it, the host reads the metrics of the step before,
        # so the devices never wait for the host; a request to stop is seen one step late for the same reason.
        logger.add(step, metrics)
        stopping = logger.stop_requested
        watchdog.step_ends(step)
        profile.after(step)
        done = step + 1
        is_last = stopping or done == end_step

        if is_last or done % config.checkpoint.every == 0:
            with logger.paused(), watchdog.doing("saving"):
                checkpoints.save(state, resume_metadata(done, order, config, setup.model_config, manifest, base))
                say(f"step {done}: saving in the background, host memory {host_memory_bytes() / 2**30:.1f} GiB")
        evaluates = bool(config.eval.every) and done % config.eval.every == 0 and done < last_step and not stopping
        if evaluates:
            with logger.paused(), watchdog.doing("evaluating"):
                score = hooks.score(done, hooks.evaluate(done, state.model_params))
                if score is not None:
                    checkpoints.record_score(done, score)
        samples = bool(config.sample.every) and done % config.sample.every == 0 and not stopping
        if samples or evaluates:
            with logger.paused(), watchdog.doing("sampling"):
                hooks.write_texts(done, state.model_params, samples=samples, suite=evaluates)
        if is_last:
            break

    watchdog.report("saving")
    logger.read()
    profile.close()
    checkpoints.close()
    stop_request.all_is_saved()
    step = int(state.step)
    watchdog.report("finishing")
    if step < last_step:
        if view is not None:
            view.stop()
        asked = f"{stop_request.name or 'another host'} asked to stop"
        why = asked if stopping else f"--steps_today={steps_today} is done"
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
    """Prints a line, on the first host only. Where nobody reads any more (`| head`, or Ctrl-C also ended `| tee`) it goes on."""
    if jax.process_index() == 0:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _view(config: ConfigDict) -> "AbstractContextManager[TerminalView | None]":
    if not sys.stdout.isatty():
        return nullcontext()
    from tonsai_jax.training.terminal import open_view  # imported here: only a terminal needs it

    return open_view(config.terminal_view) or nullcontext()


def main() -> None:
    quiet_libraries()
    config, workdir, steps_today = parse_flags(sys.argv, __doc__ or "")
    keep_freed_memory()
    set_environment(config.runtime.memory_fraction)
    start_processes(config.hosts.connect_seconds)
    lock = workdir_lock(workdir, say) if jax.process_index() == 0 else nullcontext()
    with (
        Watchdog(config.hosts, workdir) as watchdog,
        StopRequest(say) as stop_request,
        lock,
        explain_out_of_memory(config),
        report_of_failure(workdir, say),
        _view(config) as view,
    ):
        train(config, workdir, stop_request, watchdog, steps_today, view)


if __name__ == "__main__":
    run_command(main)
