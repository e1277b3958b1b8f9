"""Questions with choices per second: all requests together, compared with one request at a time.

The model is GPT-2 with random parameters, the items are random ids; the kinds of items have the lengths of well-known tasks. "One
at a time" is the plain computation: the whole sequence of a (context, choice) pair, padded to a multiple of 64, and the logits of
all its positions. Both ways take turns, and are compiled before the first one. CPU seconds are of this process on all cores: they
tell more than the clock while other programs run.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tonsai_jax.errors import run_command
from tonsai_jax.evaluation.likelihood.requests import Request
from tonsai_jax.evaluation.likelihood.scorer import Scorer
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import preset
from tonsai_jax.training.state import init_params, model_graph

EXAMPLE = """example:
  python scripts/bench/multiple_choice.py --items 12 --rounds 5 --json multiple_choice.json
"""
SIZES: dict[str, dict[str, int]] = {
    "124m": {"num_layers": 12, "num_heads": 12, "d_model": 768, "d_ff": 3072},
    "14m": {"num_layers": 6, "num_heads": 6, "d_model": 384, "d_ff": 1536},
}
# Ids that all contexts begin with, ids of a context, ids of a choice; from and to.
KINDS = {
    "letters": (0, (300, 400), (1, 1)),  # a passage and a question, as Belebele
    "answers": (0, (40, 120), (2, 12)),  # a question with answers, as ARC
    "5 shots": (400, (40, 120), (2, 12)),  # the same after worked examples
}
REST = 0.4  # seconds between turns


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="124m", help="default: 124m")
    add("--vocab-size", type=int, default=50_257, metavar="V", help="default: 50257")
    add("--items", type=int, default=12, metavar="N", help="questions (default: 12)")
    add("--choices", type=int, default=4, metavar="N", help="of each question (default: 4)")
    add("--kind", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    add("--rounds", type=int, default=5, metavar="N", help="turns of each (default: 5)")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    config = ModelConfig(
        vocab_size=args.vocab_size, context_length=1024, dtype="float32", attention="xla", **(preset("gpt2") | SIZES[args.size])
    )  # fmt: skip
    model: Any = SimpleNamespace(model_config=config, params=init_params(config, seed=0))
    scorer, alone = Scorer(model), PlainScorer(config, model.params)
    figures = []
    for kind in args.kind:
        requests = made_requests(KINDS[kind], args.items, args.choices, args.vocab_size)
        figures.append({"kind": kind, **compare(kind, scorer, alone, requests, args.items, args.rounds)})
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def compare(
    kind: str, scorer: Scorer, alone: "PlainScorer", requests: list[Request], items: int, rounds: int
) -> dict[str, Any]:
    """Prints and returns the seconds per question of each way, and the ratio."""
    ways: dict[str, Callable[[], list[float]]] = {
        "together": lambda: [score.nats for score in scorer.log_likelihoods(requests)],
        "one at a time": lambda: [alone(request) for request in requests],
    }
    clocks = {"seconds": time.perf_counter, "CPU seconds": time.process_time}
    spent: dict[tuple[str, str], list[float]] = {(clock, way): [] for clock in clocks for way in ways}
    found: dict[str, np.ndarray] = {}
    for turn in range(rounds + 1):  # the first one compiles
        for way, run in ways.items():
            time.sleep(REST)
            start = {clock: read() for clock, read in clocks.items()}
            found[way] = np.array(run())
            for clock, read in clocks.items() if turn else ():
                spent[clock, way].append(read() - start[clock])
    figures: dict[str, Any] = {"difference": float(np.abs(found["together"] - found["one at a time"]).max())}
    for clock in clocks:
        medians = [statistics.median(spent[clock, way]) / items for way in ways]
        least = [min(spent[clock, way]) for way in ways]
        print(
            f"{kind}: {clock} per question {medians[0]:.3f} together, {medians[1]:.3f} one at a time (medians): "
            f"{medians[1] / medians[0]:.2f} x; of the fastest turns {least[1] / least[0]:.2f} x"
        )
        figures[clock] = dict(zip(ways, medians, strict=True)) | {"ratio": medians[1] / medians[0]}
    print(f"{kind}: largest difference {figures['difference']:.1e} nats; load {os.getloadavg()[0]:.1f}", flush=True)
    return figures


class PlainScorer:
    """The log-likelihood of one continuation, nothing shared."""

    def __init__(self, config: ModelConfig, params: Any) -> None:
        graph = model_graph(config, "xla")

        @jax.jit
        def log_probabilities(params: Any, tokens_1xT: jax.Array) -> jax.Array:
            model = nnx.merge(graph, params)
            logp_TxV = jax.nn.log_softmax(model.logits(model(tokens_1xT)[0]))[0]
            return jnp.take_along_axis(logp_TxV[:-1], tokens_1xT[0, 1:, None], axis=-1)[:, 0]

        self._log_probabilities, self._params = log_probabilities, params

    def __call__(self, request: Request) -> float:
        ids = [*request.context_ids, *request.continuation_ids]
        tokens_1xT = np.zeros((1, -(-len(ids) // 64) * 64), np.int32)
        tokens_1xT[0, : len(ids)] = ids
        logp_T = np.asarray(self._log_probabilities(self._params, tokens_1xT))
        return float(logp_T[len(request.context_ids) - 1 : len(ids) - 1].sum())


def made_requests(
    kind: tuple[int, tuple[int, int], tuple[int, int]], items: int, choices: int, vocab_size: int
) -> list[Request]:
    rng = np.random.default_rng(0)

    def ids(shortest: int, longest: int) -> list[int]:
        return rng.integers(1, vocab_size, rng.integers(shortest, longest + 1)).tolist()

    shots, context_ids, choice_ids = kind
    shared = [0, *ids(shots, shots)]
    requests = []
    for _ in range(items):
        context = [*shared, *ids(*context_ids)]
        requests += [Request(context, ids(*choice_ids)) for _ in range(choices)]
    return requests


if __name__ == "__main__":
    run_command(main)
