"""What a run opens before it trains: its checkpoint, the model that it begins with, its rows; and what it says about them."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.experimental.multihost_utils import sync_global_devices
from ml_collections import ConfigDict

from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.roll_backs import RollBacks
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.config import set_model, stages_of
from tonsai_jax.config_checks import validate
from tonsai_jax.data.damage import DamagedRows
from tonsai_jax.data.loader import Loader
from tonsai_jax.data.manifest import RowsManifest, read_manifest
from tonsai_jax.data.order import DataOrder
from tonsai_jax.data.verify import check_shards, check_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.hosts.watchdog import DOWNLOADING, Watchdog
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.planning.chosen_remat import with_remat
from tonsai_jax.reporting.numbers import count_of, format_count
from tonsai_jax.stages import Stage, tokens_between, total_steps
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.loss_scale import placed_scale
from tonsai_jax.training.run import changes_length, changes_since, check_kinds, keep_earlier_defaults
from tonsai_jax.training.setup import Setup, check_run
from tonsai_jax.training.spike_watch import SpikeWatch
from tonsai_jax.training.spikes import SpikeSettings
from tonsai_jax.training.state import TrainState, init_params, init_state, state_of

if TYPE_CHECKING:
    from tonsai_jax.huggingface.pretrained import Pretrained
    from tonsai_jax.teachers import Teachers
    from tonsai_jax.training.reference import Reference


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run that can begin or go on: everything that can refuse it was checked, and nothing is written yet.

    Attributes:
      start_step, saved: the checkpoint that it goes on from and its resume metadata; 0 and None for a run that begins.
      pretrained: the model of `config.init_from`, where this process needs it.
      reference: of preferences, still empty.
      teachers: of a distilled run.
      metric: by which checkpoints are compared, see `evaluation.best`.
      changes: since the checkpoint, see `training.run.changes_since`.
    """

    config: ConfigDict
    workdir: Path
    checkpoints: Checkpoints
    start_step: int
    saved: Mapping[str, Any] | None
    pretrained: "Pretrained | None"
    manifest: RowsManifest
    tokenizer: Tokenizer
    stages: Sequence[Stage]
    setup: Setup
    reference: "Reference | None"
    teachers: "Teachers | None"
    metric: str
    changes: Sequence[str]
    order: DataOrder
    roll_backs: RollBacks

    @property
    def last_step(self) -> int:
        """Steps of the whole run."""
        return total_steps(self.stages)

    @property
    def is_longer(self) -> bool:
        """Whether its length was changed since the checkpoint: only then a complete run goes on. In epochs, other changes too
        give it another number of steps."""
        return self.start_step < self.last_step and any(map(changes_length, self.changes))

    def loader(self, order: DataOrder, damaged: DamagedRows) -> Loader:
        """The batches of this process in `order`. Raises `UserError` where the processes do not divide a batch."""
        return Loader(
            order,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            document_mask=self.config.model.document_mask,
            attach=self.reference.of_window if self.reference else None,
            damaged=damaged,
        )

    def damaged_rows(self) -> DamagedRows:
        """What skips the damaged rows of this process, and says so on every host."""
        return DamagedRows(self.config.data.max_damaged_rows, partial(print, file=sys.stderr, flush=True))

    def watch(
        self, order: DataOrder, step: int, saved: Mapping[str, Any] | None, say: Callable[[str], None]
    ) -> SpikeWatch:
        """Watches the steps from `step` on for spikes; `saved` is the resume metadata of the checkpoint there."""
        return SpikeWatch(
            SpikeSettings(**self.config.spikes),
            self.workdir,
            order,
            (saved or {}).get("spikes"),
            saved_step=step,
            say=say,
            mark_sane=self.checkpoints.mark_sane,
            sane_step=self.checkpoints.sane_step,
        )

    def find_scores(self) -> None:
        """Takes the scores of the checkpoints from the metrics of the run again, where they are of another metric or lost."""
        from tonsai_jax.evaluation.best import scores_so_far  # imported here: the loop does not need it

        is_other_metric = any(change.startswith("checkpoint.best_metric:") for change in self.changes)
        # scores.json was damaged, or nothing was evaluated.
        is_lost = self.start_step > 0 and not self.checkpoints.has_scores
        if is_other_metric or is_lost:
            found = scores_so_far(self.workdir, self.metric)
            if is_other_metric or found:
                self.checkpoints.replace_scores(found)

    def base(self) -> Mapping[str, Any] | None:
        """Of LoRA, the model that the adapters belong to, as its checkpoints keep it."""
        if self.pretrained is None or not self.setup.lora:
            return None
        return self.saved["base"] if self.saved else self.pretrained.record()

    def state(self, say: Callable[[str], None]) -> TrainState:
        """The state that the run goes on from. Where the weights come from, in this order:

        1. the newest checkpoint of this run;
        2. config.init_from: a model of the Hub, a folder in its format, or the newest checkpoint of another run;
        3. scratch: drawn from config.seed.
        With LoRA the base always comes from 2, and its adapters from 1 or 3.
        """
        setup, pretrained = self.setup, self.pretrained
        if self.start_step:
            say(f"weights: the checkpoint of this run at step {self.start_step}")
            return self.restore(self.start_step)
        if pretrained is not None:
            say(f"weights: {self.config.init_from} ({pretrained.dtype} in {pretrained.folder})")
            seed = self.config.seed
            new_adapters = partial(init_params, setup.model_config, seed, setup.lora) if setup.lora else None
            return self._taught(state_of(pretrained.params, setup.optimizer, setup.abstract_state, new_adapters))
        say(f"weights: new, drawn from seed {self.config.seed}")
        return self._taught(init_state(setup.model_config, setup.optimizer, setup.mesh, self.config.seed))

    def restore(self, step: int) -> TrainState:
        """The state in the checkpoint of `step`."""
        abstract = self.setup.abstract_state
        state = self.checkpoints.restore_state(step, abstract)
        if abstract.loss_scale:
            scale = self.checkpoints.resume_metadata(step).get("loss_scale")  # none after steps in another dtype
            state = dataclasses.replace(state, loss_scale=placed_scale(abstract.loss_scale, scale))
        if self.pretrained is not None:
            state = dataclasses.replace(state, frozen=self.pretrained.params(abstract.frozen))
        return self._taught(state)

    def _taught(self, state: TrainState) -> TrainState:
        """The state with the parameters of the teachers, if there are some."""
        return self.teachers.placed(state, self.setup.abstract_state) if self.teachers else state


def open_run(config: ConfigDict, workdir: Path, watchdog: Watchdog, say: Callable[[str], None]) -> Opened:
    """Opens a run; raises `UserError` for everything that can refuse it, also where its peers open something else."""
    checkpoints = Checkpoints(workdir, KeepPolicy.of(config), every_minutes=config.checkpoint.every_minutes)
    start_step = checkpoints.resume_step(say) or 0
    saved = checkpoints.resume_metadata(start_step) if start_step else None
    if saved is not None and "grpo" in saved:
        raise UserError(
            f"{workdir}: this is a run of `tonsai grpo`, and only that command resumes it; to train its model further, give "
            f"another --workdir and {shlex.quote(f'--config.init_from={workdir}')}"
        )
    if saved is not None and (kept := keep_earlier_defaults(saved["config"], config)):
        say(f"config: this run began with defaults of an earlier version, and keeps them: {', '.join(kept)}")
    with watchdog.doing(DOWNLOADING):  # where init_from is of the Hub
        pretrained = open_init_from(config, workdir, saved, say)
    validate(config)
    manifest = open_training_rows(config)
    roll_backs = RollBacks(workdir, start_step)
    data = (roll_backs.data_at(start_step) or saved["data"]) if saved else None
    if watchdog.peers is not None:
        from tonsai_jax.hosts.agreement import check_inputs  # imported here: most runs have one process

        history = {"data state (roll_backs.jsonl)": data, **checkpoints.marks()}
        check_inputs(watchdog.peers, manifest, start_step, history)
    tokenizer = Tokenizer.from_folder(manifest.directory / "tokenizer")
    check_tokenizer(manifest, tokenizer)
    stages = stages_of(config, manifest.train_sizes())
    reference = open_reference(config, workdir, manifest, check_kinds(config, stages, manifest))
    if pretrained is not None and not saved and (not_checked := pretrained.check_tokenizer(tokenizer)):
        say(not_checked)
    # A model whose size is given needs no row for special tokens that nothing uses.
    vocab_size = tokenizer.required_rows if config.model.vocab_size else tokenizer.vocab_size
    has_packed_rows = any(manifest.sources[name].is_packed for name in manifest.read_by(stages))
    setup, teachers = check_run(config, stages, vocab_size, has_packed_rows=has_packed_rows), None
    if config.distill.teachers:
        from tonsai_jax.teachers import open_teachers  # imported here: most runs have no teachers

        teachers = open_teachers(config, workdir, tokenizer, saved, say)
        setup = teachers.added_to(setup)
    setup, remat = with_remat(config, setup)
    if remat:
        say(remat)
    from tonsai_jax.evaluation.best import best_metric  # imported here: the loop does not need it

    metric = best_metric(config, manifest, stages)
    if config.export or config.checkpoint.hub_repo:
        from tonsai_jax.huggingface.names import family_of

        family_of(setup.model_config)  # raises for a model that no Hugging Face family describes
    changes = changes_since(saved, workdir, config, setup.model_config, manifest) if saved else []
    for change in changes:
        say(f"changed since step {start_step}: {change}")
    order = DataOrder(manifest, seed=config.seed, stages=stages, state=data)
    return Opened(
        config,
        workdir,
        checkpoints,
        start_step,
        saved,
        pretrained,
        manifest,
        tokenizer,
        stages,
        setup,
        reference,
        teachers,
        metric,
        changes,
        order,
        roll_backs,
    )


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
    if model.num_experts:
        say(f"experts that drop nothing: {setup.experts_backend} ({setup.experts_reason})")
    say(f"devices: {setup.mesh.size} x {jax.devices()[0].device_kind}, mesh {dict(setup.mesh.shape)}")
    tokens = tokens_between(setup.stages, 0, last_step)
    mixture = sum(size.tokens for name, size in manifest.train_sizes().items() if epochs[name])
    epochs_of_all = tokens / max(1, mixture)
    say(
        f"length: {count_of(last_step, 'step')}, {format_count(tokens)} tokens, {epochs_of_all:.2f} epochs of the mixture"
    )
    for name, count in epochs.items():
        say(f"data: {name}, {count:.2f} epochs")
    to_do = end_step - start_step
    say(f"steps: {start_step} of {last_step} done, {to_do} to do; the first one compiles and takes longer")
