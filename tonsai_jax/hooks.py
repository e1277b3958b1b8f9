"""What a run does besides training steps: evaluation and samples between them, samples and the export at the end.

Evaluation and samples never stop a run: the checkpoint is saved before them, and a failure prints one line.
"""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tonsai_jax.config import lora_settings, micro_batch, sampling
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.bits_per_byte import Evaluation, conversations_for_others, evaluate
from tonsai_jax.files import read_json, write_json, write_json_lines
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.lora import merge_adapters
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.sampling import Sampling
from tonsai_jax.stages import Stage, stage_at
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.metrics import MetricsWriter

if TYPE_CHECKING:
    from tonsai_jax.evaluation.preferences import PairEvaluation
    from tonsai_jax.inference.generate import Generator
    from tonsai_jax.training.reference import Reference

COMPLETE_FILE = "complete.json"


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
                evaluation = evaluate(
                    self.eval_step,
                    params,
                    self.manifest,
                    self.mesh,
                    seq_len=stage.seq_len,
                    batch_size=batch_size,
                    max_tokens=self.config.eval.tokens,
                    leave_out=conversations_for_others(self.manifest, self.stages),
                )
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

        Writes samples/step-N.jsonl, prompt_suite/step-N.jsonl and the means of the suite's checks. On several hosts it does
        nothing: parameters are spread over them; `tonsai generate` and `tonsai prompts` read a checkpoint instead.

        Args:
          params: those of adapters are merged into the others.
          samples: whether `sample.prompts` are continued.
          suite: whether the prompt suite is, unless `eval.prompt_suite` is False.
        """
        suite = suite and self.config.eval.prompt_suite
        if jax.process_count() > 1 or not (samples or suite):
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

        texts = _continuations(self.config, generator)
        records = [{"prompt": prompt, "continuation": text} for prompt, text in texts]
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
            records = (each.to_json() for each in results.results)
            write_json_lines(self.workdir / "prompt_suite" / f"step-{step:06d}.jsonl", records)
            self.writer.write(step, results.scalars())


def complete_run(
    workdir: Path,
    config: ConfigDict,
    evaluation: "Evaluation | PairEvaluation | None",
    say: Callable[[str], None],
) -> None:
    """Ends a run after its last step: continues the prompts, exports where the config asks for it, prints what comes next.

    Writes `workdir/complete.json` last. On several hosts the parameters of a run are not on one of them, so there it only
    prints the commands that do the rest on one host.

    Args:
      evaluation: of the last step, if there was one.
    """
    if jax.process_count() > 1:
        say(
            f"The run in {workdir} is complete. Its parameters are spread over hosts, so nothing was sampled or exported"
            f"{', in spite of config.export' if config.export else ''}; on one host run:"
        )
        folder = shlex.quote(str(workdir))
        say(f"  tonsai export --workdir {folder} --output-dir {folder}/export")
        say(f"  tonsai generate --workdir {folder} --prompt 'Once upon a time'")
        return
    # Imported here, as what follows: only the end of a run needs it.
    from tonsai_jax.inference.generate import Generator
    from tonsai_jax.inference.load import load_run

    run = load_run(workdir)
    try:
        continuations = _continuations(run.config, Generator(run.model_config, run.params, run.tokenizer))
    except UserError as error:  # a prompt longer than the context is no reason to lose the export
        say(f"no continuations: {error}")
        continuations = []
    if run.config.export:
        from tonsai_jax.huggingface.card_details import details_of_run
        from tonsai_jax.huggingface.export import export

        details = details_of_run(run.workdir, run.config, run.step, run.saved)
        export(run.model_config, run.params, run.tokenizer, workdir / "export", details=details)
    from tonsai_jax.reporting.metrics_file import metrics_rows

    # Written by a run that continues from another model, before its first step.
    before = [row for row in metrics_rows(workdir / "metrics.jsonl") if row["step"] == 0]
    record = {
        "step": run.step,
        "before": before[0] if before else {},
        "scores": evaluation.scalars() if evaluation else {},
        "samples": [{"prompt": prompt, "continuation": text} for prompt, text in continuations],
        "chat": _chat_flags(run.config) if run.config.sample.chat else "",
        "exported": run.config.export,
    }
    write_json(workdir / COMPLETE_FILE, record)
    describe_complete_run(workdir, run.step, say)


def report_run(workdir: Path, say: Callable[[str], None]) -> None:
    """Writes `workdir/report.html` from what the run has written so far, on the first host; a failure prints one line."""
    if jax.process_index() != 0:
        return
    from tonsai_jax.report.write import write_report  # imported here: only the end of a process needs it

    try:
        write_report(workdir / "report.html", [workdir])
    except Exception as error:
        say(f"no report: {error}" if isinstance(error, UserError) else f"no report ({type(error).__name__}: {error})")


@contextmanager
def report_of_failure(workdir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Writes the report also where the block raises an error, if the run has written metrics in it."""
    metrics = workdir / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.is_file() else None
    try:
        yield
    except Exception:
        if metrics.is_file() and metrics.stat().st_mtime_ns != before:
            report_run(workdir, say)
        raise


def describe_complete_run(workdir: Path, step: int, say: Callable[[str], None], *, has_changes: bool = False) -> bool:
    """Prints the results of a complete run and what to do next; returns False where it is not complete at `step`.

    Args:
      has_changes: whether the model would learn something else with the config and the data that were given now.
    """
    file = workdir / COMPLETE_FILE
    if not file.is_file() or (record := read_json(file))["step"] != step:
        return False
    from tonsai_jax.reporting.metrics_file import language_scores  # imported here: only the end of a run needs them
    from tonsai_jax.reporting.samples import sample_text

    say(f"\nThe run in {workdir} is complete: {count_of(step, 'step')}.")
    if has_changes:
        say("  It was trained before the changes above; to train with them, give another --workdir.")
    before = language_scores(record.get("before", {}))
    for language, score in language_scores(record["scores"]).items():
        was = before.get(language)
        change = f" ({was:.4f} before the first step, {score / was - 1:+.1%})" if was else ""
        say(f"  {language}: {score:.4f} bits per byte on held-out text{change}")
    if "eval/margin" in record["scores"]:
        score = record["scores"]
        say(
            f"  held-out pairs: the chosen answer is preferred in {score['eval/accuracy']:.1%}, with a mean margin of "
            f"{score['eval/margin']:.4f} (0 before the first step)"
        )
    for sample in record["samples"]:
        say(f"  {sample_text(sample['prompt'], sample['continuation'])}")
    say(f"  report of the run: {workdir / 'report.html'}; or: tensorboard --logdir {workdir / 'tensorboard'}")
    say("What next:")
    folder, name = shlex.quote(str(workdir)), shlex.quote(workdir.name)
    prompt = record["samples"][0]["prompt"] if record["samples"] else "Once upon a time"
    if chat_flags := record.get("chat"):
        say(f"  tonsai chat --workdir {folder} {chat_flags}")
    else:
        say(f"  tonsai generate --workdir {folder} --prompt {shlex.quote(prompt)}")
    if "eval/margin" not in record["scores"]:
        say(f"  tonsai evaluate --workdir {folder}")
    if record["exported"]:
        say(f'  AutoModelForCausalLM.from_pretrained("{workdir / "export"}") with transformers')
    else:
        say(f"  tonsai export --workdir {folder} --output-dir export/{name}")
    say("  train on your own text: tonsai data --help, and README.md, “Your own text”")
    say("  train longer: raise the run's length (config.steps, tokens or epochs) and run the same command again")
    return True


def _chat_flags(config: ConfigDict) -> str:
    """The flags with which `tonsai chat` answers as the samples of the run do; of most, only those that are not the default."""
    words = []
    for field in dataclasses.fields(Sampling):
        value = config.sample[field.name]
        if field.name == "temperature" or value != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            for each in value if field.name == "stop" else (f"{value:g}",):
                words += [flag, each]
    return shlex.join([*words, "--max-new-tokens", str(config.sample.max_new_tokens)])


def _continuations(config: ConfigDict, generator: "Generator") -> list[tuple[str, str]]:
    """Every prompt of `config.sample` with its continuation or its answer; raises `UserError` for a prompt that is too long."""
    settings = {"max_new_tokens": config.sample.max_new_tokens, "sampling": sampling(config), "seed": config.seed}
    prompts = list(config.sample.prompts)
    if config.sample.chat:
        from tonsai_jax.chat.conversation import Message  # imported here: most runs do not chat
        from tonsai_jax.inference.chat import Chat

        chat = Chat(generator)
        return [(prompt, "".join(chat.reply([Message("user", prompt)], **settings))) for prompt in prompts]
    return list(zip(prompts, generator.texts(prompts, **settings), strict=True))
