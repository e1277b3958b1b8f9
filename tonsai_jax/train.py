"""Trains a model: config -> mesh -> state -> batches -> steps.

    python -m tonsai_jax.train --config configs/quickstart.py
    python -m tonsai_jax.train --config configs/gpt2_500m.py --workdir runs/gpt2 --config.data.dir=data/tokens
    python -m tonsai_jax.train --config configs/gpt2_500m.py --workdir runs/gpt2 --steps_today 1500

Any key of the config can be set as --config.section.key=value. The same command again goes on from the last checkpoint;
SIGTERM and Ctrl-C save first, then end with exit code 0.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from ml_collections import ConfigDict

from tonsai_jax.between_steps import BetweenSteps
from tonsai_jax.cli import parse_flags
from tonsai_jax.completion import complete_run, describe_complete_run
from tonsai_jax.config import model_config, optimizer_settings, stages_of, to_json, validate
from tonsai_jax.data.loader import Mixture
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.errors import UserError, run_command
from tonsai_jax.huggingface.names import family_of
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.planning.out_of_memory import explain_out_of_memory
from tonsai_jax.runtime.hardware import check_dtype, total_peak_flops
from tonsai_jax.runtime.libraries import quiet_libraries
from tonsai_jax.runtime.memory import host_memory_bytes, keep_freed_memory, return_freed_memory
from tonsai_jax.runtime.processes import start_processes
from tonsai_jax.runtime.profile import StepProfile
from tonsai_jax.runtime.signals import StopRequest
from tonsai_jax.runtime.xla import set_environment, set_optimization_level, use_compile_cache
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.checkpoint import Checkpoints, KeepPolicy
from tonsai_jax.training.mesh import accumulation_steps, make_mesh, micro_batch_at, put_batch
from tonsai_jax.training.metrics import MetricsWriter
from tonsai_jax.training.optimizer import learning_rate_schedule, make_optimizer
from tonsai_jax.training.progress import Progress
from tonsai_jax.training.run import changes_since, open_workdir, progress_json
from tonsai_jax.training.state import abstract_state, init_state, model_graph
from tonsai_jax.training.step import LossSettings, make_eval_step, make_train_step


def train(config: ConfigDict, workdir: Path, steps_today: int | None = None) -> None:
    """Trains until the run is complete, `steps_today` steps are done, or a signal asks to end; then saves.

    Raises `UserError` for anything the user can put right; what was saved before stays whole.
    """
    validate(config)
    stop_request = StopRequest()
    stages = stages_of(config)
    total_steps = sum(stage.steps for stage in stages)
    is_first = jax.process_index() == 0

    def say(line: str) -> None:
        if is_first:
            print(line, flush=True)

    # Data: token rows and the tokenizer that made them.
    if not config.data.dir:
        raise UserError("data.dir is not set; add --config.data.dir=FOLDER, token rows of scripts/tokenize_dataset.py")
    if config.data.sample_corpus:
        if is_first:
            from tonsai_jax.samples.quickstart import (
                build_sample_rows,  # loads all that cleans text: only where it is needed
            )

            build_sample_rows(Path(config.data.dir))
        sync_global_devices("sample corpus")  # the other hosts read what the first one wrote
    manifest = read_manifest(config.data.dir)
    tokenizer = Tokenizer.from_folder(manifest.directory / "tokenizer")

    # Devices and the shape of the model.
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.expert, num_experts=config.model.num_experts)
    for stage in stages:
        held = micro_batch_at(config.micro_batch_size, config.seq_len, stage.seq_len)
        accumulation_steps(mesh, stage.global_batch_size, held)  # or the error, before any work
    shape = model_config(config, tokenizer.vocab_size)
    if config.export:
        family_of(shape)  # or the error, now and not when all is done
    device = jax.devices()[0]
    check_dtype(shape.dtype, device.device_kind, getattr(device, "compute_capability", None))
    kernel, why_kernel = choose_attention_backend(shape, jax.default_backend(), [stage.seq_len for stage in stages])
    optimizer = make_optimizer(**optimizer_settings(config))
    abstract = abstract_state(shape, optimizer, mesh)  # or the error of a parameter that is not there
    set_optimization_level(config.runtime.optimization_level, jax.default_backend(), mesh.size)
    if no_cache := use_compile_cache(config.runtime.compile_cache, jax.default_backend()):
        say(no_cache)

    # Where the run stands: at its last checkpoint, or at the beginning.
    keep = KeepPolicy(config.checkpoint.keep_last, config.checkpoint.keep_every, config.checkpoint.keep_best)
    checkpoints = Checkpoints(workdir, keep)
    start_step = checkpoints.latest_step() or 0
    if start_step >= total_steps and describe_complete_run(workdir, start_step):
        return
    saved = checkpoints.progress(start_step) if start_step else None
    for change in changes_since(saved, workdir, config, shape, manifest) if saved else ():
        say(f"config changed since step {start_step}: {change}")
    mixture = Mixture(
        manifest,
        seed=config.seed,
        stages=stages,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        state=saved["data"] if saved else None,
    )
    mixture.check_max_epochs(config.data.max_epochs)
    open_workdir(workdir, config, manifest)  # not before: a config that is refused changes nothing there
    end_step = total_steps if steps_today is None else min(total_steps, start_step + steps_today)
    end_step = max(end_step, start_step)  # config.steps may have been lowered since

    # State and steps.
    graph = model_graph(shape, kernel, mesh)
    schedule = learning_rate_schedule(
        config.optimizer.schedule,
        peak=config.optimizer.learning_rate,
        total_steps=total_steps,
        warmup_steps=config.optimizer.warmup_steps,
        decay_steps=config.optimizer.decay_steps,
        final_ratio=config.optimizer.final_ratio,
    )
    if start_step:
        state = checkpoints.restore_state(start_step, abstract)
    else:
        state = init_state(shape, optimizer, mesh, config.seed)
    loss = LossSettings(**config.loss)
    train_step = make_train_step(
        graph,
        optimizer,
        schedule,
        mesh,
        loss=loss,
        end_of_text_id=manifest.end_of_text_id,
        dropout_key=jax.random.key(config.seed + 1),
        clip_norm=config.optimizer.clip_norm,
        micro_batch_size=config.micro_batch_size,
        at_seq_len=config.seq_len,
    )
    eval_step = make_eval_step(
        graph,
        mesh,
        loss=loss,
        end_of_text_id=manifest.end_of_text_id,
        token_bytes=jnp.asarray(tokenizer.token_bytes()),
    )

    active = f" ({shape.num_active_parameters / 1e6:,.1f}M active)" if shape.num_experts else ""
    say(f"model: {shape.num_parameters / 1e6:,.1f}M parameters{active}, {shape.num_layers} layers, {shape.dtype}")
    say(f"attention: {kernel} ({why_kernel})")
    say(f"devices: {mesh.size} x {device.device_kind}, mesh {dict(mesh.shape)}")
    for name, epochs in mixture.epochs().items():
        say(f"data: {name}, read {epochs:.2f} times over the whole run")
    say(
        f"steps: {start_step} of {total_steps} done, {end_step - start_step} to do; the first takes longer, it compiles"
    )

    writer = MetricsWriter(
        workdir,
        start_step=start_step,
        active=is_first,
        wandb_project=config.wandb.project,
        wandb_name=config.wandb.name,
        config=to_json(config),
    )
    progress = Progress(
        writer,
        say,
        stages,
        start_step=start_step,
        end_step=end_step,
        flops_per_token=shape.flops_per_token,
        peak_flops=total_peak_flops(),
        log_every=config.log_every,
        max_skipped_steps=config.optimizer.max_skipped_steps,
    )

    profile = StepProfile(
        workdir / "profile",
        first_step=start_step + config.profile.start,
        steps=config.profile.steps if is_first else 0,  # the other hosts do the same
        paused=progress.paused,
        say=say,
    )
    between = BetweenSteps(config, workdir, stages, shape, manifest, tokenizer, mesh, eval_step, writer, say)

    for step, batch in enumerate(mixture.batches(start_step), start_step):
        asked_to_stop = np.full(len(batch["valid"]), stop_request.name is not None, np.int32)
        profile.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, put_batch(batch | {"stop": asked_to_stop}, mesh))
        if step == start_step:
            return_freed_memory()  # the compiler's
        stopping = progress.add(step, metrics)  # looks at the step before while the devices work on this one
        profile.after(step)
        done = step + 1
        is_last = stopping or done == end_step

        if is_last or done % config.checkpoint.every == 0:
            with progress.paused():
                checkpoints.save(state, progress_json(done, mixture, config, shape, manifest))
                say(f"step {done}: saving in the background, host memory {host_memory_bytes() / 2**30:.1f} GiB")
        if config.eval.every and done % config.eval.every == 0 and done < total_steps and not stopping:
            with progress.paused():
                evaluation = between.evaluate(done, state.params)
                if evaluation:
                    checkpoints.record_score(done, evaluation.bits_per_byte)
        if config.sample.every and done % config.sample.every == 0 and not stopping:
            with progress.paused():
                between.sample(done, state.params)
        if is_last:
            break

    progress.look()
    profile.close()
    checkpoints.close()
    step = int(state.step)
    if step < total_steps:
        why = (
            f"{stop_request.name or 'another host'} asked to stop"
            if stopping
            else f"{steps_today} steps were for today"
        )
        say(f"saved at step {step} of {total_steps}: {why}; the same command goes on from here")
    else:
        evaluation = between.evaluate(step, state.params) if config.eval.every else None
        if evaluation:
            checkpoints.record_score(step, evaluation.bits_per_byte)
        if jax.process_count() == 1:
            del state
            complete_run(workdir, evaluation)
    writer.close()


def main() -> None:
    quiet_libraries()
    config, workdir, steps_today = parse_flags(sys.argv, __doc__ or "")
    keep_freed_memory()
    set_environment(config.runtime.memory_fraction)
    start_processes()
    with explain_out_of_memory(config):
        train(config, workdir, steps_today)


if __name__ == "__main__":
    run_command(main)
