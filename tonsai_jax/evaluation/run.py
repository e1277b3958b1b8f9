"""Scores a checkpoint of a run, or of several runs as one model, outside training."""

from pathlib import Path

import jax

from tonsai_jax.config import stages_of
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.bits_per_byte import conversations_for_others
from tonsai_jax.evaluation.documents.breakdown import Breakdown
from tonsai_jax.evaluation.documents.held_out import HeldOut
from tonsai_jax.inference.load import Run
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.training.ensemble import make_ensemble_score_step
from tonsai_jax.training.mesh import one_device_mesh
from tonsai_jax.training.state import model_graph


def evaluate_run(
    run: Run, manifest: RowsManifest, *others: Run, seq_len: int | None, batch_size: int, max_tokens: int
) -> Breakdown:
    """Scores a checkpoint of a run on held-out rows, on one device.

    Args:
      run: the opened checkpoint.
      others: more runs with the same tokenizer; then the mean of all is scored, see `training.ensemble`.
      manifest: any token rows that were made with the run's tokenizer. Of the run's own, the sources that its evaluations in
        training leave out are left out here too, so that the same `max_tokens` chooses the same windows.
      seq_len: tokens in a window; None means the longest sequence length of the run's stages.
      batch_size: windows in a batch.
      max_tokens: of all scored windows together, see `held_out_windows`; 0 means all.

    Raises:
      UserError: the rows were made with another tokenizer or have no validation text; seq_len does not divide row_tokens
        or is longer than the model's context.
    """
    seq_len = seq_len or max(stage.seq_len for stage in stages_of(run.config))
    configs = [each.model_config for each in (run, *others)]
    context = min(config.context_length for config in configs)
    if seq_len > context:
        raise UserError(
            f"seq_len {seq_len} is longer than the model's context of {context} tokens; choose {context} or less"
        )
    if manifest.tokenizer_hash != run.tokenizer.hash:
        raise UserError(
            f"{manifest.directory}: these rows were made with another tokenizer than the run's; give others with "
            f"--data-dir, or make them again with `tonsai tokenize --tokenizer-dir {run.workdir / 'tokenizer'}` (rows of "
            f"conversations: `tonsai prepare-sft --tokenizer-dir {run.workdir / 'tokenizer'}`)"
        )
    mesh = one_device_mesh()
    backends = [choose_attention_backend(config, jax.default_backend(), [seq_len])[0] for config in configs]
    score_step = make_ensemble_score_step(
        [model_graph(config, backend) for config, backend in zip(configs, backends, strict=True)],
        vocab_size=run.model_config.vocab_size,
        chunk_tokens=run.config.loss.chunk_tokens,
        end_of_text_id=manifest.end_of_text_id,
    )
    held_out = HeldOut(manifest, run.tokenizer.token_bytes(), len(run.tokenizer.prefix), seq_len)
    found = Breakdown("source")
    scores = held_out.score(
        score_step,
        [each.params for each in (run, *others)],
        mesh,
        batch_size=batch_size,
        max_tokens=max_tokens,
        leave_out=_left_out(run, manifest),
    )
    for name, documents in scores.items():
        found.add(manifest.sources[name].language, name, documents)
    if all(source.kind == "pairs" for source in manifest.sources.values()):
        raise UserError(
            f"{manifest.directory}: holds pairs of answers; bits per byte are measured on text or conversations, give such rows "
            "with --data-dir. Margin and accuracy of the pairs are in the run's metrics.jsonl"
        )
    if not found.parts:
        raise UserError(
            f"{manifest.directory}: there are no validation rows; `tonsai tokenize --val-ratio 0.01`, or "
            "`tonsai prepare-sft --val-ratio 0.02` for conversations, sets some aside"
        )
    return found


def _left_out(run: Run, manifest: RowsManifest) -> set[str]:
    """The sources that the run's own evaluations leave out; none of other rows, and of a run that learned from preferences."""
    data_dir = run.config.data.dir
    is_own = bool(data_dir) and Path(data_dir).resolve() == manifest.directory.resolve()
    if not is_own or run.config.loss.objective != "next_token":
        return set()
    return conversations_for_others(manifest, stages_of(run.config))
