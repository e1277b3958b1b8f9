"""What a run does between steps, after the checkpoint is safe: evaluate and write samples. Neither ever ends a run."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.evaluation.bits_per_byte import Evaluation, evaluate
from tonsai_jax.files import atomic_write
from tonsai_jax.inference.generate import generate_texts
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.stages import Stage
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.mesh import accumulation_steps, micro_batch_at
from tonsai_jax.training.metrics import MetricsWriter


@dataclasses.dataclass(frozen=True)
class BetweenSteps:
    """What evaluation and samples need of a run."""

    config: ConfigDict
    workdir: Path
    stages: Sequence[Stage]
    shape: ModelConfig
    manifest: RowsManifest
    tokenizer: Tokenizer
    mesh: Mesh
    eval_step: Callable[..., Any]
    writer: MetricsWriter
    say: Callable[[str], None]

    def evaluate(self, step: int, params: Any) -> Evaluation | None:
        """Bits per byte after `step` steps, said and written; None where it failed or there is no validation text."""
        stage = self.stage_before(step)
        held = micro_batch_at(self.config.micro_batch_size, self.config.seq_len, stage.seq_len)
        parts = accumulation_steps(self.mesh, stage.global_batch_size, held)
        try:
            evaluation = evaluate(
                self.eval_step,
                params,
                self.manifest,
                self.mesh,
                seq_len=stage.seq_len,
                batch_size=stage.global_batch_size // parts,  # no device holds more at a time than in training
                max_windows=self.config.eval.max_batches * stage.global_batch_size,
            )
        except Exception as error:
            self.say(f"step {step}: the evaluation failed, training goes on ({type(error).__name__}: {error})")
            return None
        if not evaluation.sources:
            self.say("no validation text to evaluate on; scripts/tokenize_dataset.py --val-ratio sets some aside")
            return None
        self.say(evaluation.table())
        self.writer.write(step, evaluation.scalars())
        return evaluation

    def sample(self, step: int, params: Any) -> None:
        """Writes continuations of `sample.prompts` to samples/step-N.txt and says the first line of each."""
        if jax.process_count() > 1:
            return  # parameters are spread over hosts; scripts/generate.py reads the checkpoint instead
        sampling = self.config.sample
        try:
            texts = generate_texts(
                self.shape,
                params,
                self.tokenizer,
                sampling.prompts,
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=self.config.seed,
            )
            written = "\n\n".join(prompt + text for prompt, text in zip(sampling.prompts, texts, strict=True))
            with atomic_write(self.workdir / "samples" / f"step-{step:06d}.txt") as partial:
                partial.write_text(written + "\n", encoding="utf-8")
        except Exception as error:
            self.say(f"step {step}: no samples, training goes on ({type(error).__name__}: {error})")
            return
        for prompt, text in zip(sampling.prompts, texts, strict=True):
            self.say(f"  {(prompt + text).splitlines()[0]}")
        self.writer.write_text(step, "samples", written)

    def stage_before(self, step: int) -> Stage:
        """The stage that the last of the first `step` steps belongs to."""
        for stage in self.stages:
            if step <= stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]
