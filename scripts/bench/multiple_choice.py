"""Questions with choices per second: all requests together, compared with one request at a time.

The model is GPT-2 with random parameters, the items are random ids. Both ways take turns. "One at a time" gives the same scorer
each (context, choice) pair by itself, so that it computes the context for every choice; its programs too are compiled before the
first turn. CPU seconds are of this process on all cores: they tell more than the clock while other programs run.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tonsai_jax.errors import run_command
from tonsai_jax.evaluation.likelihood import Scorer
from tonsai_jax.evaluation.requests import Request
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import preset
from tonsai_jax.training.state import init_params

EXAMPLE = """example:
  python scripts/bench/multiple_choice.py --items 16 --rounds 5 --json multiple_choice.json
"""
SIZES: dict[str, dict[str, int]] = {
    "124m": {"num_layers": 12, "num_heads": 12, "d_model": 768, "d_ff": 3072},
    "14m": {"num_layers": 6, "num_heads": 6, "d_model": 384, "d_ff": 1536},
}
REST = 0.4  # seconds between turns


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="124m", help="default: 124m")
    add("--vocab-size", type=int, default=50_257, metavar="V", help="default: 50257")
    add("--items", type=int, default=16, metavar="N", help="questions (default: 16)")
    add("--choices", type=int, default=4, metavar="N", help="of each question (default: 4)")
    add("--context", type=int, nargs=2, default=(80, 240), metavar="N", help="ids, from and to (default: 80 240)")
    add("--choice", type=int, nargs=2, default=(4, 20), metavar="N", help="ids, from and to (default: 4 20)")
    add("--shared", type=int, default=0, metavar="N", help="ids that all contexts begin with, as examples (default: 0)")
    add("--rounds", type=int, default=5, metavar="N", help="turns of each (default: 5)")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    config = ModelConfig(
        vocab_size=args.vocab_size, context_length=1024, dtype="float32", attention="xla", **(preset("gpt2") | SIZES[args.size])
    )  # fmt: skip
    model: Any = SimpleNamespace(model_config=config, params=init_params(config, seed=0))
    scorer = Scorer(model)
    requests = made_requests(args)
    clocks = {"seconds": time.perf_counter, "CPU seconds": time.process_time}
    ways = {"together": [requests], "one at a time": [[request] for request in requests]}
    spent: dict[tuple[str, str], list[float]] = {(clock, way): [] for clock in clocks for way in ways}
    found: dict[str, np.ndarray] = {}
    for turn in range(args.rounds + 1):  # the first one compiles
        for way, parts in ways.items():
            time.sleep(REST)
            start = {clock: read() for clock, read in clocks.items()}
            found[way] = np.array([score.nats for part in parts for score in scorer.log_likelihoods(part)])
            for clock, read in clocks.items() if turn else ():
                spent[clock, way].append(read() - start[clock])
    figures: dict[str, Any] = {"difference": float(np.abs(found["together"] - found["one at a time"]).max())}
    for clock in clocks:
        together, alone = (statistics.median(spent[clock, way]) for way in ways)
        least_together, least_alone = (min(spent[clock, way]) for way in ways)
        print(
            f"{clock:<12} per question: {together / args.items:.3f} together, {alone / args.items:.3f} one at a time (medians); "
            f"{alone / together:.2f} x, of the fastest turns {least_alone / least_together:.2f} x"
        )
        figures[clock] = {"together": together, "one at a time": alone, "ratio": alone / together}
    print(f"largest difference of a log-likelihood {figures['difference']:.1e} nats; load {os.getloadavg()[0]:.1f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def made_requests(args: argparse.Namespace) -> list[Request]:
    rng = np.random.default_rng(0)

    def ids(shortest: int, longest: int) -> list[int]:
        return rng.integers(1, args.vocab_size, rng.integers(shortest, longest + 1)).tolist()

    shared = ids(args.shared, args.shared)
    requests = []
    for _ in range(args.items):
        context = [0, *shared, *ids(*args.context)]
        requests += [Request(context, ids(*args.choice)) for _ in range(args.choices)]
    return requests


if __name__ == "__main__":
    run_command(main)
