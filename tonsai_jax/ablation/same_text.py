"""As much text for a variant as for another one: their tokenizers make a different number of tokens of the same text."""

from collections.abc import Mapping, Sequence

from tonsai_jax.ablation.plan import PlannedRun, check_begun
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.stages import SourceSize, Stage, tokens_by_source


def with_same_text(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Sets length and weights of the runs with `same_text_as`, now that the token rows exist.

    Raises `UserError` where rows are missing, and for a run that was trained with other values.
    """
    of = {(run.variant, run.seed): run for run in runs}
    found = []
    for run in runs:
        if run.same_text_as:
            other = of[run.same_text_as, run.seed]
            sizes = [read_manifest(each.config.data.dir).train_sizes() for each in (other, run)]
            tokens = same_text(other.stages, *sizes)
            flags = {"steps": 0, "epochs": 0.0, "epochs_of": "", "tokens": sum(tokens.values()), "data.weights": tokens}
            run = run.with_flags(*(f"--config.{key}={value}" for key, value in flags.items()))
            check_begun(run)
        found.append(run)
    return found


def same_text(
    stages: Sequence[Stage], sizes: Mapping[str, SourceSize], own_sizes: Mapping[str, SourceSize]
) -> dict[str, float]:
    """The tokens to read of each source, to read it as many times as another run does.

    Args:
      stages: of the other run.
      sizes: the sources in the token rows of the other run.
      own_sizes: the same sources in other token rows.
    """
    return {
        name: tokens / sizes[name].tokens * own_sizes[name].tokens
        for name, tokens in tokens_by_source(stages, sizes).items()
    }
