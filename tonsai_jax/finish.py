"""What a run does after its last step: it continues its prompts, exports the model, writes the report, says what comes next."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.hooks import continuations
from tonsai_jax.hosts.first_process import on_first_process
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.planning.advice import usable_bytes
from tonsai_jax.reporting.complete_file import COMPLETE_FILE, read_complete
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.sampling import Sampling

if TYPE_CHECKING:
    from tonsai_jax.evaluation.bits_per_byte import Evaluation
    from tonsai_jax.evaluation.preferences import PairEvaluation


def complete_run(
    workdir: Path,
    config: ConfigDict,
    evaluation: "Evaluation | PairEvaluation | None",
    say: Callable[[str], None],
) -> None:
    """Ends a run after its last step: continues the prompts, exports where the config asks for it, prints what comes next.

    Writes `workdir/complete.json` last. The first process does it from the newest checkpoint, on one of its devices, which then
    holds all parameters in float32 and what `Decoder` adds; the others wait. Where these do not fit, it prints the commands
    that do the same elsewhere, and writes a `complete.json` without texts.

    Args:
      evaluation: of the last step, if there was one.

    Raises `UserError` where the export cannot be written, on every process.
    """
    on_first_process(lambda: _complete(workdir, config, evaluation, say))


def forget_completion(workdir: Path) -> None:
    """Removes `workdir/complete.json` of a run that is trained further: launchers start a run again that has none."""
    if jax.process_index() == 0:
        (workdir / COMPLETE_FILE).unlink(missing_ok=True)


def _complete(
    workdir: Path,
    config: ConfigDict,
    evaluation: "Evaluation | PairEvaluation | None",
    say: Callable[[str], None],
) -> None:
    # Imported here, as what follows: only the end of a run needs it.
    from tonsai_jax.checkpoints.saved import open_checkpoint
    from tonsai_jax.reporting.metrics_file import metrics_rows

    checkpoint = open_checkpoint(workdir)
    needed, usable = _bytes_at_end(checkpoint.model_config), usable_bytes()
    if fits := needed <= usable:
        samples = _sample_and_export(workdir, say)
    else:
        samples = []
        say(
            f"no continuations{' and no export' if config.export else ''}: the whole model takes {needed / 2**30:.1f} GiB, and a "
            f"device here has {usable / 2**30:.1f}; JAX_PLATFORMS=cpu before the commands below takes the memory of the host"
        )
    # Written by a run that continues from another model, before its first step.
    before = [row for row in metrics_rows(workdir / "metrics.jsonl") if row["step"] == 0]
    record = {
        "step": checkpoint.step,
        "before": before[0] if before else {},
        "scores": evaluation.scalars() if evaluation else {},
        "samples": [{"prompt": prompt, "continuation": text} for prompt, text in samples],
        "chat": _chat_flags(config) if config.sample.chat else "",
        "prompt_suite": config.eval.prompt_suite,
        "exported": config.export and fits,
    }
    write_json(workdir / COMPLETE_FILE, record)
    describe_complete_run(workdir, checkpoint.step, say)


def _bytes_at_end(model: ModelConfig) -> int:
    """The bytes of all parameters on one device, in float32 and once more as `Decoder` needs them."""
    return model.num_parameters * (4 + jnp.dtype(model.dtype).itemsize)


def _sample_and_export(workdir: Path, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Continues the prompts of the config and exports where it asks for that; returns the continuations."""
    from tonsai_jax.inference.generate import Generator
    from tonsai_jax.inference.load import load_run

    run = load_run(workdir)
    try:
        samples = continuations(run.config, Generator(run.model_config, run.params, run.tokenizer))
    except UserError as error:  # a prompt longer than the context is no reason to lose the export
        say(f"no continuations: {error}")
        samples = []
    if run.config.export:
        from tonsai_jax.huggingface.card_details import details_of_run
        from tonsai_jax.huggingface.export import export

        details = details_of_run(run.workdir, run.config, run.step, run.saved)
        export(run.model_config, run.params, run.tokenizer, workdir / "export", details=details)
    return samples


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
    record = read_complete(workdir)
    if record is None or record["step"] != step:
        return False
    from tonsai_jax.reporting.metrics_file import language_scores  # imported here: only the end of a run needs them
    from tonsai_jax.reporting.samples import sample_text

    say(f"\nThe run in {workdir} is complete: {count_of(step, 'step')}.")
    if has_changes:
        say("  It was trained before the changes above; to train with them, give another --workdir.")
    before = language_scores(record["before"])
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
    if record.get("prompt_suite"):
        say(f"  tonsai prompts --workdir {folder} --show")
    say("  measure it further, compare it: README.md, “How good is it?”")
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
