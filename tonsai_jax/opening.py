"""What a run opens before it trains: the model that it begins with, its rows, its reference; and what it says about them."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.experimental.multihost_utils import sync_global_devices
from ml_collections import ConfigDict

from tonsai_jax.config import set_model
from tonsai_jax.data.manifest import RowsManifest, read_manifest
from tonsai_jax.data.verify import check_shards
from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.reporting.numbers import count_of, format_count
from tonsai_jax.stages import tokens_between, total_steps
from tonsai_jax.training.setup import Setup

if TYPE_CHECKING:
    from tonsai_jax.huggingface.pretrained import Pretrained
    from tonsai_jax.training.reference import Reference


def open_init_from(
    config: ConfigDict, workdir: Path, saved: Mapping[str, Any] | None, say: Callable[[str], None]
) -> "Pretrained | None":
    """Opens the model of `config.init_from`; `config.model` becomes that model.

    A run that has a checkpoint does not need it, except for LoRA, where the checkpoint holds only the adapters.

    Args:
      saved: the resume metadata of the run's checkpoint, if it has one.
    """
    if saved is not None:
        origin = saved["config"].get("init_from", "")
        if config.init_from not in ("", origin):
            say(
                f"init_from={config.init_from}: not used, this run has a checkpoint; to begin with it, give another --workdir"
            )
        config.init_from = origin  # known from the checkpoint, where it is not given again
        if origin:
            set_model(config, ModelConfig.from_saved(saved["model"]))
        if "base" not in saved:
            return None
        from tonsai_jax.huggingface.pretrained import open_base

        return open_base(saved["base"], workdir)
    if not config.init_from:
        return None
    from tonsai_jax.huggingface.pretrained import open_pretrained  # imported here: most runs start from scratch

    pretrained = open_pretrained(config.init_from)
    if replaced := set_model(config, pretrained.model_config):
        say(f"model: that of {config.init_from}; not used from the config: {', '.join(replaced)}")
    return pretrained


def open_training_rows(config: ConfigDict) -> RowsManifest:
    """The token rows of `config.data.dir`, checked as `check_shards` does; makes those of the quickstarts first.

    Raises `UserError` as `read_manifest` and `check_shards` do.
    """
    if not config.data.dir:
        raise UserError("data.dir is not set; add --config.data.dir=FOLDER, token rows of `tonsai tokenize`")
    if config.data.sample_corpus or config.data.sample_questions:
        if jax.process_index() == 0:
            # Imported here, since it loads everything that prepares text.
            from tonsai_jax.samples.quickstart import build_question_rows, build_sample_rows

            if config.data.sample_corpus:
                build_sample_rows(Path(config.data.dir))
            else:
                build_question_rows(Path(config.data.dir), Path(config.init_from, "tokenizer"))
        sync_global_devices("sample corpus")  # the other hosts read what the first one wrote
    manifest = read_manifest(config.data.dir)
    check_shards(manifest, config.data.max_damaged_rows)
    return manifest


def open_reference(
    config: ConfigDict, workdir: Path, manifest: RowsManifest, sources: Iterable[str]
) -> "Reference | None":
    """What preferences are measured against, still empty; None for a run that learns the next token."""
    if config.loss.objective == "next_token":
        return None
    if not config.init_from:
        raise UserError(
            f"loss.objective={config.loss.objective} teaches a model that already answers; add --config.init_from=WORKDIR of a "
            "run, or a chat model of the Hub, hf:ORG/NAME"
        )
    from tonsai_jax.training.reference import Reference  # imported here: most runs learn the next token

    return Reference(workdir, manifest, sources)


def describe(
    setup: Setup,
    manifest: RowsManifest,
    epochs: Mapping[str, float],
    start_step: int,
    end_step: int,
    say: Callable[[str], None],
    *,
    writes_texts: bool,
) -> None:
    """Prints what is about to run."""
    model, last_step = setup.model_config, total_steps(setup.stages)
    active = f" ({model.num_active_parameters / 1e6:,.1f}M active)" if model.num_experts else ""
    say(f"model: {model.num_parameters / 1e6:,.1f}M parameters{active}, {model.num_layers} layers, {model.dtype}")
    if setup.lora is not None:
        trained = setup.lora.num_parameters(model)
        say(
            f"LoRA: {format_count(trained)} of {format_count(trained + model.num_parameters)} parameters are trained, "
            f"rank {setup.lora.rank} at {', '.join(setup.lora.targets)}"
        )
    say(f"attention: {setup.attention_backend} ({setup.attention_reason})")
    say(f"devices: {setup.mesh.size} x {jax.devices()[0].device_kind}, mesh {dict(setup.mesh.shape)}")
    tokens = tokens_between(setup.stages, 0, last_step)
    mixture = sum(size.tokens for name, size in manifest.train_sizes().items() if epochs[name])
    epochs_of_all = tokens / max(1, mixture)
    say(
        f"length: {count_of(last_step, 'step')}, {format_count(tokens)} tokens, {epochs_of_all:.2f} epochs of the mixture"
    )
    for name, count in epochs.items():
        say(f"data: {name}, {count:.2f} epochs")
    if writes_texts and jax.process_count() > 1:
        say(
            "samples, prompt suite: none, the parameters are spread over hosts; `tonsai generate` and `tonsai prompts` read a "
            "checkpoint"
        )
    to_do = end_step - start_step
    say(f"steps: {start_step} of {last_step} done, {to_do} to do; the first one compiles and takes longer")
