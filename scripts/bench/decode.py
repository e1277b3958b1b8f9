"""Generated tokens per second on this machine, compared with `generate` of transformers for the same model.

The model is GPT-2 with 124 M random parameters. Both continue the same random prompts greedily, from ids to ids, with the same
dtype and number of threads, in turns. The prompt's pass is part of the time, compiling is not.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tonsai_jax.errors import UserError, run_command
from tonsai_jax.model.config import ModelConfig

EXAMPLE = """example:
  python scripts/bench/decode.py --batch 1 8 --dtype float32 bfloat16 --rounds 7 --json decode.json
PyTorch and transformers come with the `hf` extra; without it, add --no-torch.
"""
SIZES: dict[str, Any] = {"num_layers": 12, "num_heads": 12, "d_model": 768, "d_ff": 3072, "context_length": 1024}
VOCAB_SIZE = 50_257
REST = 0.4  # seconds between turns, until the threads of the turn before stop spinning

Generate = Callable[[np.ndarray, int], np.ndarray]  # prompts [B, T] and the number of new ids, to new ids [B, N]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch", type=int, nargs="+", default=[1, 8], metavar="N", help="prompts continued together (default: 1 8)")
    add("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="default: float32")
    add("--prompt-tokens", type=int, default=16, metavar="N", help="ids of each prompt (default: 16)")
    add("--new-tokens", type=int, default=64, metavar="N", help="ids that are generated (default: 64)")
    add("--rounds", type=int, default=5, metavar="N", help="turns of each (default: 5)")
    add(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="of PyTorch (default: all cores)"
    )
    add("--no-torch", action="store_true", help="do not run transformers")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    counts = (*args.batch, args.prompt_tokens, args.new_tokens, args.rounds, args.threads)
    if min(counts) < 1 or args.prompt_tokens + args.new_tokens > SIZES["context_length"]:
        raise UserError(f"counts must be at least 1, prompt and new tokens together at most {SIZES['context_length']}")
    rng = np.random.default_rng(0)
    figures = []
    for dtype in args.dtype:
        contestants = both(dtype, args.threads, with_torch=not args.no_torch)
        for batch in args.batch:
            prompts = rng.integers(0, VOCAB_SIZE, (batch, args.prompt_tokens))
            print(f"{dtype}, batch {batch}, load {os.getloadavg()[0]:.1f}")
            figures.append(
                {"dtype": dtype, "batch": batch} | compare(contestants, prompts, args.new_tokens, args.rounds)
            )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def compare(contestants: dict[str, Generate], prompts: np.ndarray, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Prints and returns the tokens per second of each, and the share of equal ids."""
    given = {name: generate(prompts, new_tokens) for name, generate in contestants.items()}  # also compiles
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, generate in contestants.items():
            time.sleep(REST)
            start = time.perf_counter()
            generate(prompts, new_tokens)
            seconds[name].append(time.perf_counter() - start)
    tokens = prompts.shape[0] * new_tokens
    rates = {name: tokens / statistics.median(each) for name, each in seconds.items()}
    for name, rate in rates.items():
        slowest, fastest = tokens / max(seconds[name]), tokens / min(seconds[name])
        print(f"  {name:<14}{rate:>8.1f} tokens/s, median  ({slowest:.1f} to {fastest:.1f})")
    if len(rates) == 1:
        return rates
    ours, theirs = rates.values()
    best = min(seconds["transformers"]) / min(seconds["ours"])
    same = float(np.mean(np.equal(*given.values())))
    print(
        f"  ratio {ours / theirs:.2f} of the medians, {best:.2f} of the fastest turns; {same:.1%} of the ids are equal"
    )
    return rates | {"ratio": ours / theirs, "ratio_of_fastest": best, "equal_ids": same}


def both(dtype: str, threads: int, *, with_torch: bool) -> dict[str, Generate]:
    """Ours and, where it is wanted, that of transformers, for the same weights."""
    from tonsai_jax.model.presets import preset
    from tonsai_jax.training.state import init_params

    config = ModelConfig(vocab_size=VOCAB_SIZE, dtype=dtype, attention="xla", **(preset("gpt2") | SIZES))
    params = init_params(config, seed=0)
    contestants = {"ours": ours(config, params)}
    if with_torch:
        contestants["transformers"] = theirs(config, params, threads)
    return contestants


def ours(config: ModelConfig, params: dict[str, Any]) -> Generate:
    from tonsai_jax.inference.decoding import Decoder
    from tonsai_jax.sampling import Sampling

    decoder = Decoder(config, params, config.vocab_size)

    def generate(prompts: np.ndarray, new_tokens: int) -> np.ndarray:
        greedy = Sampling(temperature=0)
        steps = decoder.generate(prompts.tolist(), end_ids=(), max_new_tokens=new_tokens, sampling=greedy, seed=0)
        return np.array(list(steps)).T

    return generate


def theirs(config: ModelConfig, params: dict[str, Any], threads: int) -> Generate:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"no {error.name}; it comes with the `hf` extra (uv sync --extra hf), or add --no-torch to measure ours alone"
        ) from None
    from tonsai_jax.huggingface.config_json import config_json
    from tonsai_jax.huggingface.names import flat, tensors

    torch.set_num_threads(threads)
    described = config_json(config, end_of_text_id=0, pad_id=0, dtype=config.dtype)
    model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**described))
    leaves = {path: np.asarray(leaf) for path, leaf in flat(params).items()}
    weights = {each.name: torch.tensor(each.of(leaves[each.path])) for each in tensors(config)}
    model.load_state_dict(weights, strict=False)  # strict would also ask for the head, which is tied
    model.eval().to(getattr(torch, config.dtype))

    def generate(prompts: np.ndarray, new_tokens: int) -> np.ndarray:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            given = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return given[:, ids.shape[1] :].numpy()

    return generate


if __name__ == "__main__":
    run_command(main)
