"""Measures ways to move a model to a new vocabulary: an English model, trained here, learns Khmer in a few hundred steps.

Train a small model on English with an English tokenizer and extend the tokenizer with Khmer tokens. Then, for each seed, make the
new rows in each way, train on Khmer and English with the same compute, and compare with a model that starts from scratch. What
the distillation costs is taken from the steps. The text is every file of a folder with `km/*.txt.gz` and `en/*.txt.gz`, one
document per line; every 20th document is held out.
"""

import argparse
import functools
import gzip
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tonsai_jax.adapt.distilled_rows import DistillSettings, Model
from tonsai_jax.adapt.extend import extend_tokenizer
from tonsai_jax.adapt.new_vocabulary import with_new_vocabulary
from tonsai_jax.errors import UserError, run_command
from tonsai_jax.evaluation.bits_per_byte import Score
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.presets import preset
from tonsai_jax.runtime.memory import keep_freed_memory
from tonsai_jax.text.normalize import normalize
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer
from tonsai_jax.training.mesh import make_mesh, put_batch
from tonsai_jax.training.optimizer import learning_rate_schedule, make_optimizer
from tonsai_jax.training.state import TrainState, init_params, model_graph
from tonsai_jax.training.step import LossSettings, make_eval_step, make_train_step

EXAMPLE = """example:
  python scripts/bench/new_vocabulary.py --corpus my_texts --seeds 0 1 2 --folder runs/new_vocabulary --json result.json
"""
ENGLISH_TOKENS, KHMER_TOKENS = 2048, 1024
ENGLISH_BATCH, BATCH, SEQ_LEN = 8, 16, 64
ENGLISH_SEED = 100
MODEL = preset("llama") | {"num_layers": 4, "d_model": 128, "num_heads": 4, "d_ff": 352, "tie_embeddings": True}
DISTILL = DistillSettings(steps=30, batch_size=BATCH, seq_len=SEQ_LEN, rate=0.3)
METHODS = ("scratch", "random", "mean", "similar", "calibrated", "distilled")
LOSS = LossSettings(chunk_tokens=512, z_loss=0.0)
TRAINED = 4_000_000  # bytes of text to train on, of each language
HELD_OUT = 40_000  # bytes of held-out text that is scored, of each language


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", type=Path, help="folder of the text (default: the one that TONSAI_CORPUS names)")
    add("--folder", type=Path, required=True, help="for tokenizers and English models; what is there is used again")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="runs (default: 0 1 2)")
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="ways to compare (default: all)")
    add("--base-steps", type=int, default=1000, help="steps on English alone (default: 1000)")
    add("--steps", type=int, default=200, help="steps on Khmer and English (default: 200)")
    add("--rate", type=float, default=2e-3, help="peak learning rate in these steps (default: 2e-3)")
    add("--replay", type=float, default=0.5, help="share of English in these steps (default: 0.5)")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    if not args.corpus and "TONSAI_CORPUS" not in os.environ:
        raise UserError("no text given; use --corpus FOLDER, or set TONSAI_CORPUS")
    corpus = args.corpus or Path(os.environ["TONSAI_CORPUS"])
    keep_freed_memory()
    jax.config.update(
        "jax_compilation_cache_dir", str(args.folder.absolute() / "programs")
    )  # compiling takes most of the time
    train, held_out = {}, {}
    for language in ("km", "en"):
        lines = documents(corpus / language)
        train[language] = cut([line for number, line in enumerate(lines) if number % 20], TRAINED)
        held_out[language] = cut(lines[::20], HELD_OUT)
    args.folder.mkdir(parents=True, exist_ok=True)
    old_tokenizer, tokenizer = tokenizers(args.folder, train)
    old = english_model(args.folder, old_tokenizer, train["en"], args.base_steps)
    before = score(old.config, old.params, old_tokenizer, held_out["en"]).bits_per_byte
    print(f"the English model: {before:.4f} bits per byte of English", flush=True)
    streams = {language: stream(tokenizer, texts) for language, texts in train.items()}
    figures = []
    for seed in args.seeds:
        for method in args.methods:
            figures.append(one_run(args, seed, method, old, tokenizer, train, streams, held_out))
            figures[-1]["en_change"] = figures[-1]["en"] / before - 1
            words = (
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in figures[-1].items()
            )
            print(*words, flush=True)
            if args.json:
                args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def documents(folder: Path) -> list[str]:
    """The documents in an order that is mixed, and always the same."""
    lines = [
        line
        for file in sorted(folder.glob("*.txt.gz"))
        for line in gzip.decompress(file.read_bytes()).decode().split("\n")
    ]
    lines = [lines[index] for index in np.random.default_rng(0).permutation(len(lines))]
    lines = [text for text in map(normalize, cut(lines, 2 * TRAINED)) if text]
    if not lines:
        raise UserError(f"{folder}: no text in *.txt.gz files in this folder")
    return lines


def cut(texts: Sequence[str], size: int) -> list[str]:
    """The first texts, up to `size` UTF-8 bytes."""
    ends = np.cumsum([len(text.encode()) for text in texts])
    return list(texts[: int(np.searchsorted(ends, size, side="right"))])


def one_run(
    args: argparse.Namespace,
    seed: int,
    method: str,
    old: Model,
    tokenizer: Tokenizer,
    train: dict[str, list[str]],
    streams: dict[str, np.ndarray],
    held_out: dict[str, list[str]],
) -> dict[str, Any]:
    """The figures of a method: bits per byte at the start and after the steps, and the loss per token at the start."""
    config, start, steps = model_config(tokenizer), time.monotonic(), args.steps
    if method == "scratch":
        params = init_params(config, seed)
    else:
        texts = cut(train["km"], 1_000_000) + cut(train["en"], 500_000)
        moved = with_new_vocabulary(old, tokenizer, init=method, texts=texts, settings=DISTILL, seed=seed)
        params, steps = moved.params, steps - round(distill_steps(len(moved.curve)))
    made = time.monotonic() - start
    first = {language: score(config, params, tokenizer, texts) for language, texts in held_out.items()}
    data = batches(streams, {"km": 1 - args.replay, "en": args.replay}, steps, seed)
    params, _ = trained(config, params, tokenizer, data, steps, args.rate)
    last = {language: score(config, params, tokenizer, texts) for language, texts in held_out.items()}
    return {
        "seed": seed,
        "method": method,
        "steps": steps,
        "start_loss": first["km"].nats / first["km"].tokens,
        "start_km": first["km"].bits_per_byte,
        "start_en": first["en"].bits_per_byte,
        "km": last["km"].bits_per_byte,
        "en": last["en"].bits_per_byte,
        "seconds_rows": made,
        "seconds": time.monotonic() - start,
    }


def tokenizers(folder: Path, train: dict[str, list[str]]) -> tuple[Tokenizer, Tokenizer]:
    """An English tokenizer, and the same with Khmer tokens."""
    if not (folder / "english").exists():
        examples = (Example(text, "en") for text in train["en"])
        train_tokenizer(examples, vocab_size=ENGLISH_TOKENS, output_dir=folder / "english")
    if not (folder / "extended").exists():
        extend_tokenizer(
            folder / "english",
            (Example(text, "km") for text in train["km"]),
            new_tokens=KHMER_TOKENS,
            language="km",
            output_dir=folder / "extended",
        )
    return Tokenizer.from_folder(folder / "english"), Tokenizer.from_folder(folder / "extended")


def model_config(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(**MODEL, vocab_size=tokenizer.vocab_size, context_length=SEQ_LEN, dtype="float32")


def english_model(folder: Path, tokenizer: Tokenizer, texts: list[str], steps: int) -> Model:
    """A model trained on English alone, or the one that an earlier run left in the folder."""
    config, file = model_config(tokenizer), folder / f"english_{steps}.npz"
    params = init_params(config, ENGLISH_SEED)
    leaves, tree = jax.tree.flatten(params)
    if file.exists():
        with np.load(file) as saved:
            return Model(
                config, jax.tree.unflatten(tree, [jnp.asarray(saved[str(n)]) for n in range(len(leaves))]), tokenizer
            )
    data = batches({"en": stream(tokenizer, texts)}, {"en": 1.0}, steps, ENGLISH_SEED, ENGLISH_BATCH)
    start = time.monotonic()
    params, loss = trained(config, params, tokenizer, data, steps, 3e-3)
    print(f"English loss after {steps} steps {loss:.3f}, {time.monotonic() - start:.0f} s", flush=True)
    np.savez(file, **{str(number): leaf for number, leaf in enumerate(jax.tree.leaves(params))})
    return Model(config, params, tokenizer)


def stream(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """The ids of all texts in a row, each after an end-of-text id."""
    return np.array([id for ids in tokenizer.encode_batch(texts) for id in (tokenizer.end_of_text_id, *ids)], np.int32)


def batches(
    streams: dict[str, np.ndarray], share: dict[str, float], steps: int, seed: int, size: int = BATCH
) -> Iterator[np.ndarray]:
    """Random windows, int32 [B, T + 1]; in every batch each language has its share of the rows."""
    rng = np.random.default_rng(seed)
    rows = [language for language, part in share.items() for _ in range(round(part * size))]
    for _ in range(steps):
        starts = [(streams[language], rng.integers(len(streams[language]) - SEQ_LEN - 1)) for language in rows]
        yield np.stack([ids[start : start + SEQ_LEN + 1] for ids, start in starts])


def trained(
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    data: Iterator[np.ndarray],
    steps: int,
    rate: float,
) -> tuple[Any, float]:
    """The parameters after training, and the last loss."""
    mesh = make_mesh(-1, 1)
    optimizer, step = train_step(config, tokenizer, steps, rate)
    params = jax.tree.map(jnp.array, params)  # a copy: the step takes the memory of its state
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    loss = np.nan
    for tokens in data:
        state, metrics = step(state, put(tokens, mesh))
        loss = metrics["loss"]
    return state.params, float(loss)


def put(tokens_BxT1: np.ndarray, mesh: Any) -> dict[str, jax.Array]:
    B, T1 = tokens_BxT1.shape
    return put_batch(
        {"tokens": tokens_BxT1, "valid": np.full(B, T1 - 1, np.int32), "stop": np.zeros(B, np.int32)}, mesh
    )


def score(config: ModelConfig, params: Any, tokenizer: Tokenizer, texts: list[str]) -> Score:
    """The model's score on all windows of the texts."""
    mesh = make_mesh(-1, 1)
    step = eval_step(config, tokenizer)
    ids, total = stream(tokenizer, texts), Score()
    count = (len(ids) - 1) // (BATCH * SEQ_LEN)
    for number in range(count):
        first = number * BATCH * SEQ_LEN
        rows = [ids[first + row * SEQ_LEN :][: SEQ_LEN + 1] for row in range(BATCH)]
        sums = jax.device_get(
            step(params, {name: value for name, value in put(np.stack(rows), mesh).items() if name != "stop"})
        )
        total += Score(float(sums["nats"]), int(sums["tokens"]), int(sums["bytes"]))
    return total


@functools.cache
def eval_step(config: ModelConfig, tokenizer: Tokenizer) -> Any:
    sizes = jnp.asarray(tokenizer.token_bytes())
    mesh = make_mesh(-1, 1)
    return make_eval_step(graph(config), mesh, loss=LOSS, end_of_text_id=tokenizer.end_of_text_id, token_bytes=sizes)


@functools.cache
def train_step(config: ModelConfig, tokenizer: Tokenizer, steps: int, rate: float) -> tuple[Any, Any]:
    """The optimizer (AdamW) and the step, whose rate falls along a cosine after a warm-up of 5 %."""
    optimizer = make_optimizer("adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
    schedule = learning_rate_schedule(
        "cosine", peak=rate, total_steps=steps, warmup_steps=steps // 20, decay_steps=0, final_ratio=0.1
    )
    step = make_train_step(
        graph(config),
        optimizer,
        schedule,
        make_mesh(-1, 1),
        loss=LOSS,
        end_of_text_id=tokenizer.end_of_text_id,
        dropout_key=jax.random.key(0),
        clip_norm=1.0,
    )
    return optimizer, step


def graph(config: ModelConfig) -> Any:
    return model_graph(config, choose_attention_backend(config, jax.default_backend())[0])


def distill_steps(count: int) -> float:
    """What the distillation costs, in steps of training: a forward pass on old tokens is a third of a step, and the passes on new
    tokens, without the gradients of the weights, are two thirds."""
    return count * DISTILL.batch_size * DISTILL.seq_len / (BATCH * SEQ_LEN)


if __name__ == "__main__":
    run_command(main)
