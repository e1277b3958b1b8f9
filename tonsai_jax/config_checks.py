"""The checks of a config that need neither data nor devices: all are made before a run touches either."""

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tonsai_jax.choices import MU_DTYPES, OBJECTIVES, OPTIMIZATION_LEVELS, OPTIMIZERS, SCHEDULES, SPIKE_ACTIONS
from tonsai_jax.config import lora_settings, model_config, sampling, stages_of
from tonsai_jax.errors import UserError, unknown_name
from tonsai_jax.stages import total_steps


def validate(config: ConfigDict) -> None:
    """Raises `UserError` for a value that cannot work, before any data is read or device touched.

    Where the length is in epochs, call `check_schedule` when the number of steps is known.
    """
    stages = stages_of(config)
    model = model_config(config, tokenizer_vocab_size=max(1, config.model.vocab_size))
    optimizer = config.optimizer

    def require(holds: bool, key: str, rule: str) -> None:
        if not holds:
            value: Any = config
            for part in key.split("."):
                value = value[part]
            raise UserError(f"{key}={value!r} {rule}")

    if (lora := lora_settings(config)) is not None:
        lora.check_model(model)
        rule = "needs the model that it adapts: add --config.init_from=hf:ORG/NAME, or the folder of a model or a run"
        require(bool(config.init_from), "lora.rank", rule)
        rule = "is for whole matrices, and LoRA trains parts of them; choose adamw, lion or adafactor"
        require(optimizer.name != "muon", "optimizer.name", rule)
    loggable = not config.wandb.project or importlib.util.find_spec("wandb") is not None
    require(loggable, "wandb.project", "needs Weights & Biases: uv sync --inexact --extra wandb, or leave it empty")
    longest = max(stage.seq_len for stage in stages)
    context = config.model.context_length
    longer = "" if config.init_from else f", or --config.model.context_length={longest}"
    rule = f"is shorter than seq_len={longest}; add --config.seq_len={context}{longer}"
    require(context >= longest, "model.context_length", rule)
    at_least = {
        "micro_batch_size": 0, "loss.chunk_tokens": 1, "log_every": 1, "checkpoint.every": 1,
        "checkpoint.every_minutes": 0, "checkpoint.keep_last": 1, "checkpoint.keep_every": 0, "checkpoint.keep_best": 0,
        "checkpoint.hub_every": 1,
        "eval.every": 0,
        "eval.tokens": 0, "sample.every": 0, "sample.max_new_tokens": 1,
        "loss.z_loss": 0, "loss.load_balance": 0, "loss.router_z": 0, "data.max_epochs": 0, "data.max_damaged_rows": 0,
        "optimizer.warmup_steps": 0, "optimizer.decay_steps": 0,
        "optimizer.weight_decay": 0, "optimizer.embedding_rate": 0, "optimizer.clip_norm": 0, "optimizer.max_skipped_steps": 1,
        "optimizer.frozen_steps": 0, "mesh.fsdp": 1, "mesh.expert": 1,
        "seed": 0, "profile.steps": 0, "profile.start": 0, "layer_norms_every": 0,
        "spikes.window": 5, "spikes.deviations": 1, "spikes.loss_rise": 0, "spikes.grad_factor": 1, "spikes.calm_steps": 1,
        "spikes.max_in_a_row": 1, "spikes.recover_steps": 1, "spikes.max_roll_backs": 1,
    }  # fmt: skip
    for key, least in at_least.items():
        section, _, name = key.rpartition(".")
        value = config[section][name] if section else config[name]
        require(value >= least, key, f"must be at least {least}")
    with_tokenizer = not config.data.sample_questions or bool(config.init_from)
    require(with_tokenizer, "data.sample_questions", "needs a model; add --config.init_from=runs/quickstart")
    measured = config.eval.every > 0 or not config.checkpoint.best_metric
    require(measured, "checkpoint.best_metric", "needs evaluations; set eval.every above 0")
    repo = config.checkpoint.hub_repo
    require(not repo or repo.count("/") == 1, "checkpoint.hub_repo", "must be USER/NAME, for instance sokha/khmer-gpt2")
    data = config.mesh.data
    require(data == -1 or data >= 1, "mesh.data", "must be -1 (what the others leave) or at least 1")
    require(0 < config.runtime.memory_fraction <= 1, "runtime.memory_fraction", "must lie in (0, 1]")
    require(0 < config.loss.beta < math.inf, "loss.beta", "must be above 0")
    teachers = config.distill.teachers
    is_tuple = isinstance(teachers, tuple) and all(isinstance(teacher, str) and teacher for teacher in teachers)
    require(is_tuple, "distill.teachers", 'must be a tuple of workdirs, such as ("runs/seed0", "runs/seed1")')
    rule = f"is for a run that learns the next token, not for loss.objective={config.loss.objective}; leave it empty"
    require(not teachers or config.loss.objective == "next_token", "distill.teachers", rule)
    require(0 <= config.distill.weight <= 1, "distill.weight", "must lie in [0, 1]")
    for key in ("hang_seconds", "start_seconds", "pause_seconds", "shared_seconds"):
        require(config.hosts[key] >= 0, f"hosts.{key}", "must be at least 0")
    require(config.hosts.hang_factor >= 1, "hosts.hang_factor", "must be at least 1")
    rule = "must be at least 2: each process reports once a second"
    require(config.hosts.peer_seconds >= 2, "hosts.peer_seconds", rule)
    require(config.hosts.connect_seconds > 0, "hosts.connect_seconds", "must be above 0")
    for key in ("learning_rate", "epsilon"):
        require(optimizer[key] > 0, f"optimizer.{key}", "must be above 0")
    for key in ("beta1", "beta2", "momentum"):
        require(0 <= optimizer[key] < 1, f"optimizer.{key}", "must lie in [0, 1)")
    require(0 <= optimizer.final_ratio <= 1, "optimizer.final_ratio", "must lie in [0, 1]")
    sampling(config)
    for section, key, known in (
        ("loss", "objective", OBJECTIVES),
        ("distill", "step", ("newest", "best")),
        ("optimizer", "name", OPTIMIZERS),
        ("optimizer", "schedule", SCHEDULES),
        ("optimizer", "mu_dtype", MU_DTYPES),
        ("runtime", "optimization_level", OPTIMIZATION_LEVELS),
        ("spikes", "action", SPIKE_ACTIONS),
    ):
        if config[section][key] not in known:
            raise unknown_name(f"{section}.{key}", config[section][key], known)
    _check_rate_of(optimizer.rate_of)
    if all(stage.steps for stage in stages):
        check_schedule(config, total_steps(stages))
    if optimizer.schedule == "wsd":
        require(optimizer.decay_steps > 0, "optimizer.decay_steps", "must be above 0 for optimizer.schedule=wsd")
    else:
        unused = f"is for optimizer.schedule=wsd; {optimizer.schedule} falls until the run ends"
        require(optimizer.decay_steps == 0, "optimizer.decay_steps", unused)


def check_schedule(config: ConfigDict, steps: int) -> None:
    """Raises `UserError` where warm-up and decay take more than the run's `steps`."""
    warmup, decay = config.optimizer.warmup_steps, config.optimizer.decay_steps
    if warmup + decay <= steps:
        return
    are = f"optimizer.warmup_steps={warmup} is"
    fewer = f"--config.optimizer.warmup_steps={steps // 10}"
    if decay:
        are = f"optimizer.warmup_steps={warmup} and optimizer.decay_steps={decay} are together"
        fewer += f" --config.optimizer.decay_steps={max(1, steps // 5)}"
    raise UserError(
        f"{are} more than the steps of the run, {steps}; add for instance {fewer}, or train at least {warmup + decay} steps"
    )


def _check_rate_of(rate_of: Any) -> None:
    if rate_of is None:
        return
    if not isinstance(rate_of, Mapping):
        raise UserError(f"optimizer.rate_of={rate_of!r} must be a dict such as {{'token_embedding': 0.5}}")
    for name, factor in rate_of.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < float("inf"):
            raise UserError(f"optimizer.rate_of: factor of {name!r} is {factor!r}; factors are numbers of at least 0")
