"""What a run does between training steps: evaluation, samples, the prompt suite.

Evaluation and samples never stop a run: the checkpoint is saved before them, and a failure prints one line.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tonsai_jax.config import lora_settings, micro_batch, sampling
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.files import write_json_lines
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.lora import merge_adapters
from tonsai_jax.stages import Stage, stage_at, total_steps
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.metrics import MetricsWriter

if TYPE_CHECKING:
    from tonsai_jax.evaluation.bits_per_byte import Evaluation
    from tonsai_jax.evaluation.preferences import PairEvaluation
    from tonsai_jax.inference.generate import Generator
    from tonsai_jax.training.reference import Reference


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What evaluation and samples need of a run; `say` prints a line on the first host."""

    config: ConfigDict
    workdir: Path
    stages: Sequence[Stage]
    model_config: ModelConfig
    manifest: RowsManifest
    tokenizer: Tokenizer
    mesh: Mesh
    eval_step: Callable[..., Any]
    writer: MetricsWriter
    say: Callable[[str], None]
    reference: "Reference | None" = None  # of preferences
    best_metric: str = "eval/bits_per_byte"

    def evaluate(self, step: int, params: Any) -> "Evaluation | PairEvaluation | None":
        """Prints and writes the scores after `step` steps; None where it failed or there is no validation text.

        The scores are bits per byte, or margin and accuracy on held-out pairs in a run with preferences.
        """
        stage = stage_at(self.stages, max(0, step - 1))
        accumulation = micro_batch(self.config).accumulation_steps(
            self.mesh.size, stage.global_batch_size, stage.seq_len
        )
        batch_size = stage.global_batch_size // accumulation  # as many sequences at once as in training
        try:
            evaluation: Evaluation | PairEvaluation
            if self.reference is not None:
                evaluation = self._evaluate_pairs(self.reference, params, batch_size)
            else:
                evaluation = self._evaluate_text(params, stage.seq_len, batch_size)
        except Exception as error:
            self.say(f"step {step}: the evaluation failed, training continues ({type(error).__name__}: {error})")
            return None
        if not evaluation.sources:
            self.say(
                "no validation text to evaluate on; `tonsai tokenize --val-ratio`, or `tonsai prepare-sft --val-ratio` for "
                "conversations, sets some aside"
            )
            return None
        self.say(evaluation.table())
        self.writer.write(step, evaluation.scalars())
        return evaluation

    def score(self, step: int, evaluation: "Evaluation | PairEvaluation | None") -> float | None:
        """The score by which the checkpoint of `step` is compared with others, lower is better; None where it has none."""
        if evaluation is None:
            return None
        from tonsai_jax.evaluation.best import score_of  # imported here, as what follows: a run starts without it

        metrics = evaluation.scalars()
        if self.best_metric not in metrics:
            names = ", ".join(name.removeprefix("eval/") for name in metrics)
            self.say(
                f"step {step}: its checkpoint has no score, {self.best_metric} was not measured; there are: {names}"
            )
        return score_of(metrics, self.best_metric)

    def make_up(self, step: int, params: Any, record_score: Callable[[int, float], None]) -> None:
        """Does what a process that was killed after the checkpoint of `step` did not come to: evaluation, score, texts.

        Afterwards the run has written at `step` what a run that was never killed writes there.

        Args:
          record_score: takes the step and its score.
        """
        evaluates = bool(self.config.eval.every) and step % self.config.eval.every == 0
        evaluates = evaluates and step < total_steps(self.stages)  # after the last step, the end of the run does it
        samples = bool(self.config.sample.every) and step % self.config.sample.every == 0
        has_evaluation, has_suite, has_samples, known_score = self._found(step)
        if evaluates:
            score = known_score if has_evaluation else self.score(step, self.evaluate(step, params))
            if score is not None and not math.isnan(score):
                record_score(step, score)
        self.write_texts(step, params, samples=samples and not has_samples, suite=evaluates and not has_suite)

    def _found(self, step: int) -> tuple[float, float, float, float]:
        """Whether evaluation, suite and samples of `step` are there, and its score (NaN: none), as the first host sees it."""
        from tonsai_jax.evaluation.best import score_of  # imported here, as above

        measured = self.writer.at_start
        suite = {name for name in measured if name.startswith("eval/prompts/")}
        score = score_of(measured, self.best_metric)
        found = (
            any(name.startswith("eval/") for name in measured.keys() - suite),
            bool(suite),
            (self.workdir / "samples" / f"step-{step:06d}.jsonl").is_file(),
            math.nan if score is None else score,
        )
        # As bytes: JAX would round the score to float32.
        shared = broadcast_one_to_all(np.array(found, np.float64).view(np.uint8))
        evaluation, suite_there, samples, score_there = np.asarray(shared, np.uint8).view(np.float64)
        return float(evaluation), float(suite_there), float(samples), float(score_there)

    def _evaluate_text(self, params: Any, seq_len: int, batch_size: int) -> "Evaluation":
        from tonsai_jax.evaluation.bits_per_byte import conversations_for_others, evaluate  # a run starts without it

        return evaluate(
            self.eval_step,
            params,
            self.manifest,
            self.mesh,
            seq_len=seq_len,
            batch_size=batch_size,
            max_tokens=self.config.eval.tokens,
            leave_out=conversations_for_others(self.manifest, self.stages),
        )

    def _evaluate_pairs(self, reference: "Reference", params: Any, batch_size: int) -> "PairEvaluation":
        from tonsai_jax.evaluation.preferences import evaluate_pairs  # imported here: most runs learn the next token
        from tonsai_jax.training.objectives import Preference

        objective = Preference(self.config.loss.objective, self.config.loss.beta)
        return evaluate_pairs(
            self.eval_step,
            params,
            reference,
            objective,
            self.mesh,
            batch_size=batch_size,
            max_tokens=self.config.eval.tokens,
        )

    def write_texts(self, step: int, params: Any, *, samples: bool, suite: bool) -> None:
        """Continues `sample.prompts` and the prompt suite, whichever is asked for, and prints what came of it.

        Writes samples/step-N.jsonl, prompt_suite/step-N.jsonl and the means of the suite's checks. All processes call it: each
        generates every text, with the parameters where they are, and the first one writes. Next to the parameters a device
        holds what `Decoder` adds, split as the parameters are.

        Args:
          params: those of adapters are merged into the others.
          samples: whether `sample.prompts` are continued.
          suite: whether the prompt suite is, unless `eval.prompt_suite` is False.
        """
        suite = suite and self.config.eval.prompt_suite
        if not (samples or suite):
            return
        generator = None
        for what, write in [("prompt suite", self._prompt_suite)] * suite + [("samples", self._sample)] * samples:
            try:
                generator = generator or self._generator(params)
                write(step, generator)
            except Exception as error:
                self.say(f"step {step}: no {what}, training continues ({type(error).__name__}: {error})")

    def _generator(self, params: Any) -> "Generator":
        from tonsai_jax.inference.generate import Generator  # imported here: some runs write texts only at their end

        if (lora := lora_settings(self.config)) is not None:
            params = merge_adapters(params, lora)
        return Generator(self.model_config, params, self.tokenizer)

    def _sample(self, step: int, generator: "Generator") -> None:
        from tonsai_jax.reporting.samples import sample_text  # imported here, as above

        texts = continuations(self.config, generator)
        records = [{"prompt": prompt, "continuation": text} for prompt, text in texts]
        if jax.process_index() == 0:
            write_json_lines(self.workdir / "samples" / f"step-{step:06d}.jsonl", records)
        for prompt, text in texts:
            self.say(f"  {sample_text(prompt, text.strip().partition(chr(10))[0])}")
        self.writer.write_samples(step, texts)

    def _prompt_suite(self, step: int, generator: "Generator") -> None:
        from tonsai_jax.evaluation.prompt_suite.generation import run_suite  # imported here, as above
        from tonsai_jax.evaluation.prompt_suite.prompts import read_suite

        results = run_suite(generator, read_suite(), chat=self.config.sample.chat)
        self.say(f"  {results.line()}")
        if results.results:
            if jax.process_index() == 0:
                results.write(self.workdir, step)
            self.writer.write(step, results.scalars())


def continuations(config: ConfigDict, generator: "Generator") -> list[tuple[str, str]]:
    """Every prompt of `config.sample` with its continuation or its answer; raises `UserError` for a prompt that is too long."""
    settings = {"max_new_tokens": config.sample.max_new_tokens, "sampling": sampling(config), "seed": config.seed}
    prompts = list(config.sample.prompts)
    if config.sample.chat:
        from tonsai_jax.chat.conversation import Message  # imported here: most runs do not chat
        from tonsai_jax.inference.chat import Chat

        chat = Chat(generator)
        return [(prompt, "".join(chat.reply([Message("user", prompt)], **settings))) for prompt in prompts]
    return list(zip(prompts, generator.texts(prompts, **settings), strict=True))
