"""Continue text with a trained model. The text for one prompt appears as it is generated; several prompts share a batch."""

import argparse
import sys
import time
from pathlib import Path

from tonsai_jax.commands.parser import CommandParser, sampling_of
from tonsai_jax.errors import UserError
from tonsai_jax.files import file_to_write, write_json
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.samples import ARROW, ENDED, sample_text
from tonsai_jax.runtime.libraries import quiet_libraries

EXAMPLES = """examples:
  tonsai generate --workdir runs/gpt2 --prompt "ប្រទេសកម្ពុជា"
  tonsai generate --workdir runs/gpt2 --prompt "Once upon a time" --num-samples 4 --temperature 1.0
  tonsai generate --workdir runs/gpt2 --prompt "Question: who are you?" --repetition-penalty 1.1 --stop "Question:"
  tonsai generate --workdir runs/gpt2 --prompts-file prompts.txt --temperature 0 --json samples.json
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    parser.add_checkpoint()
    add("--prompt", action="append", default=[], metavar="TEXT", help="text to continue; can be given several times")
    add("--prompts-file", type=Path, metavar="FILE", help="UTF-8 file with one prompt per line")
    add("--num-samples", type=int, default=1, metavar="N", help="continuations of each prompt (default: 1)")
    add("--max-new-tokens", type=int, default=128, metavar="N", help="most tokens per continuation (default: 128)")
    parser.add_sampling()
    add("--json", type=file_to_write, metavar="FILE", help="also write prompts, continuations and speed to this file")
    args = parser.parse_args()
    prompts = [prompt for prompt in _prompts(args) for _ in range(args.num_samples)]
    if not prompts or args.max_new_tokens < 1:
        raise UserError("nothing to generate: give --prompt or --prompts-file, and counts of at least 1")

    sampling = sampling_of(args)
    quiet_libraries()
    from tonsai_jax.inference.generate import Generator
    from tonsai_jax.inference.load import load_run

    run = load_run(args.workdir, args.step)
    texts, counts, started = [""] * len(prompts), [0] * len(prompts), 0.0
    if len(prompts) == 1:
        print(prompts[0], end=ARROW, flush=True)
    generator = Generator(run.model_config, run.params, run.tokenizer)
    for number, piece, new_tokens in generator.stream(
        prompts, max_new_tokens=args.max_new_tokens, sampling=sampling, seed=args.seed
    ):
        started = started or time.monotonic()  # at the first token, so that compiling is not counted
        texts[number] += piece
        counts[number] += new_tokens
        if len(prompts) == 1:
            print(piece, end="", flush=True)
    if len(prompts) == 1:
        print("" if texts[0] else ENDED)
    else:
        print("\n\n".join(map(sample_text, prompts, texts)))
    tokens = sum(counts)
    speed = (tokens - 1) / max(time.monotonic() - started, 1e-9) if tokens > 1 else 0.0
    context = run.model_config.context_length
    given = run.tokenizer.encode_batch([run.tokenizer.normalize_prompt(prompt) for prompt in prompts])
    full = [number for number, ids in enumerate(given) if 1 + len(ids) + counts[number] == context]
    if full:
        print(
            f"note: {len(full)} of {count_of(len(prompts), 'continuation')} ended because the model's context of "
            f"{context:,} tokens is full",
            file=sys.stderr,
        )
    print(f"{count_of(tokens, 'token')}, {speed:,.1f} tokens/s (step {run.step:,})", file=sys.stderr)
    if args.json:
        samples = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
        write_json(args.json, {"step": run.step, "tokens": tokens, "tokens_per_second": speed, "samples": samples})


def _prompts(args: argparse.Namespace) -> list[str]:
    if args.prompts_file is None:
        return args.prompt
    try:
        lines = args.prompts_file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{args.prompts_file}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{args.prompts_file}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    return [*args.prompt, *filter(str.strip, lines)]
