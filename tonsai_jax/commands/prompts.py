"""Let a model continue a suite of prompts and check its texts: script, Khmer spelling, repetition, length, toxicity."""

import shlex
from pathlib import Path

from tonsai_jax.commands.parser import CommandParser, open_model, sampling_of
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.sampling import Sampling

EXAMPLES = """examples:
  tonsai prompts --workdir runs/gpt2 --show
  tonsai prompts --model hf:ORG/NAME --json prompts.json
  tonsai prompts --workdir runs/chat --chat --suite my_prompts.jsonl --toxic-words words.txt

Of a run, with this package's prompts and the default flags, the texts are also kept in its workdir: its report shows them.

A line of a suite is {"id": "...", "kind": "...", "language": "km", "prompt": "..."}; language is that of a good continuation.
A toxicity classifier is a Python function of a module in this folder, from a text to a number from 0 (harmless) to 1.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    parser.add_model()
    add("--suite", type=Path, metavar="FILE", help="prompts, JSONL (default: those of this package)")
    add("--chat", action="store_true", help="a prompt is a user's message (default: as the run does with its samples)")
    add("--max-new-tokens", type=int, default=48, metavar="N", help="most tokens per continuation (default: 48)")
    parser.add_sampling()
    judges = parser.add_mutually_exclusive_group()
    judges.add_argument(
        "--toxic-words", type=Path, metavar="FILE", help="words that no continuation should have, one a line"
    )
    judges.add_argument("--toxicity", metavar="MODULE:FUNCTION", help="a toxicity classifier")
    add("--show", action="store_true", help="print the texts too")
    parser.add_json()
    args = parser.parse_args()
    if args.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens={args.max_new_tokens} must be at least 1")
    sampling = sampling_of(args)

    from tonsai_jax.evaluation.prompt_suite import toxicity
    from tonsai_jax.evaluation.prompt_suite.prompts import SUITE, read_suite
    from tonsai_jax.reporting.tables import as_text
    from tonsai_jax.runtime.libraries import quiet_libraries

    suite = read_suite(args.suite or SUITE)
    judge = toxicity.of_words(args.toxic_words) if args.toxic_words else None
    if args.toxicity is not None:
        judge = toxicity.of_function("--toxicity", args.toxicity)
    quiet_libraries()
    from tonsai_jax.evaluation.prompt_suite.generation import MAX_NEW_TOKENS, run_suite
    from tonsai_jax.inference.generate import Generator
    from tonsai_jax.inference.load import Run

    model = open_model(args)
    run = model if isinstance(model, Run) else None
    as_in_a_run = args.suite is None and (sampling, args.seed, args.max_new_tokens) == (Sampling(), 0, MAX_NEW_TOKENS)
    chat = run is not None and run.config.sample.chat
    results = run_suite(
        Generator(model.model_config, model.params, model.tokenizer),
        suite,
        chat=args.chat or chat,
        max_new_tokens=args.max_new_tokens,
        sampling=sampling,
        seed=args.seed,
        toxicity=judge,
    )
    if not results.results:
        raise UserError(
            f"{model.name}: no prompt fits with its new tokens into the model's context of "
            f"{model.model_config.context_length} tokens; lower --max-new-tokens, or give shorter prompts with --suite"
        )
    if args.show:
        print(results.texts(), end="\n\n")
    print(as_text(results.table(f"{model.name}{f', step {run.step:,}' if run else ''}: means from 0 to 1")))
    print(f"\n{results.explanation()}")
    if results.left_out:
        print(f"\nleft out, because they are too long for the model's context: {', '.join(results.left_out)}")
    if run is not None and as_in_a_run and args.chat in (False, chat):
        path = results.write(run.workdir, run.step)
        print(f"\nwritten to {path}; `tonsai report --workdir {shlex.quote(args.workdir)}` shows it")
    if args.json:
        means = {language: results.means(language) for language in results.languages}
        prompts = [each.to_json() for each in results.results]
        step = {"step": run.step} if run else {}
        write_json(
            args.json, {"model": model.name, **step, "means": means, "left_out": results.left_out, "prompts": prompts}
        )
