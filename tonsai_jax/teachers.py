"""The teachers of a distilled run (`config.distill`): opened, compared with the run, and read onto its devices."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from tonsai_jax.checkpoints.store import CheckpointStep
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.download import HUB
from tonsai_jax.huggingface.pretrained import Pretrained, open_pretrained
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.lora import stored_base
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.mesh import shardings
from tonsai_jax.training.setup import Setup
from tonsai_jax.training.state import TrainState, init_params


@dataclasses.dataclass(frozen=True)
class Teachers:
    """The teachers of a run.

    Attributes:
      models: without their weights.
      records: what each was when the run began, by its name in the config: `Pretrained.record`, which checkpoints keep.
    """

    models: tuple[Pretrained, ...]
    records: Mapping[str, Mapping[str, Any]]

    def added_to(self, setup: Setup) -> Setup:
        """The run with its teachers, computed as it computes its own model, and their parameters among its state.

        Raises `UserError` for a teacher that has another vocabulary size, a shorter context than the run's sequences, or experts.
        """
        teachers = tuple(_computed_as(setup, model) for model in self.models)
        wanted = tuple(_wanted(teacher, setup) for teacher in teachers)
        state = dataclasses.replace(setup.abstract_state, teachers=wanted)
        return dataclasses.replace(setup, teachers=teachers, abstract_state=state)

    def placed(self, state: TrainState, abstract: TrainState) -> TrainState:
        """The state with the teachers' parameters, placed as `abstract` says."""
        read = (model.params(wanted) for model, wanted in zip(self.models, abstract.teachers, strict=True))
        return dataclasses.replace(state, teachers=tuple(read))


def open_teachers(
    config: ConfigDict, workdir: Path, tokenizer: Tokenizer, saved: Mapping[str, Any] | None, say: Callable[[str], None]
) -> Teachers:
    """Opens the teachers of a run; one that resumes opens the checkpoints that it began with.

    Args:
      workdir: of the run that learns from them.
      tokenizer: of the token rows.
      saved: the resume metadata of the run's checkpoint, if it has one.

    Raises `UserError` for a teacher that is the run itself, is gone, has another tokenizer, or is no longer what it was.
    """
    known = {_place(where): record for where, record in (saved or {}).get("teachers", {}).items()}
    models, records = [], {}
    for where in config.distill.teachers:
        if _place(where) == _place(str(workdir)):
            raise UserError(f"distill.teachers={where}: is the run itself; its teachers are other runs")
        step: CheckpointStep | None = "best" if config.distill.step == "best" else None
        before = known.get(_place(where))
        if before is not None:
            step = before["step"]
        model = open_pretrained(where, "distill.teachers", step)
        if not_checked := model.check_tokenizer(tokenizer):
            say(not_checked)
        record = model.record()
        if before is not None and record["identity"] != before["identity"]:
            raise UserError(
                f"distill.teachers={where}: its weights are others now than when this run began; put the earlier ones back, or "
                "give another --workdir"
            )
        at_step = "" if model.step is None else f", step {model.step}"
        say(f"teacher: {where}{at_step}, {model.model_config.num_parameters / 1e6:,.1f}M parameters")
        models.append(model)
        records[where] = record
    return Teachers(tuple(models), records)


def _place(where: str) -> str:
    """One spelling for a folder that can be written in several ways."""
    return where if where.startswith(HUB) else str(Path(where).resolve())


def _computed_as(setup: Setup, teacher: Pretrained) -> ModelConfig:
    """What the teacher is, with the run's ways to compute; it reads what the student reads, and drops nothing."""
    name, model, student = f"distill.teachers={teacher.where}", teacher.model_config, setup.model_config
    longest = max(stage.seq_len for stage in setup.stages)
    if model.num_experts:
        raise UserError(f"{name}: is a mixture of experts; only dense models can be teachers")
    if model.vocab_size != student.vocab_size:
        raise UserError(
            f"{name}: has model.vocab_size={model.vocab_size}, and this run has {student.vocab_size}; add "
            f"--config.model.vocab_size={model.vocab_size}, or give teachers of this size"
        )
    if model.context_length < longest:
        raise UserError(
            f"{name}: has a context of {model.context_length} tokens, shorter than seq_len={longest}; add "
            f"--config.seq_len={model.context_length}, or give teachers with a longer one"
        )
    return dataclasses.replace(
        model,
        dtype=student.dtype,
        attention="auto",
        document_mask=student.document_mask,
        scan_layers=student.scan_layers,
        remat="none",
        dropout=0.0,
        attention_dropout=0.0,
    )


def _wanted(teacher: ModelConfig, setup: Setup) -> Any:
    """The parameters of a teacher as shapes, dtypes and shardings."""
    shapes = jax.eval_shape(lambda: stored_base(init_params(teacher, 0), teacher.dtype))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, setup.mesh),
    )
