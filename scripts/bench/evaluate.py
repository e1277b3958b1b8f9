"""Measures evaluation against the bare forward pass: tokens per second of documents, of token rows, and of one resident batch."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.data.manifest import RowsManifest, read_manifest
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.errors import run_command
from tonsai_jax.evaluation.bits_per_byte import evaluate
from tonsai_jax.evaluation.documents.held_out import HeldOut
from tonsai_jax.evaluation.documents.scorer import DocumentScorer
from tonsai_jax.files import write_json
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.examples import dataset_examples
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer
from tonsai_jax.training.mesh import one_device_mesh, put_batch
from tonsai_jax.training.state import init_params, model_graph
from tonsai_jax.training.step import LossSettings, make_eval_step, make_score_step

EXAMPLE = """example:
  python scripts/bench/evaluate.py --text km=corpus/wiki.txt.gz --json evaluate.json

Each round runs all of them after each other, for about the same number of tokens; the figures are medians over rounds. Only
tokens of text count: padding is lost time. Where other programs run, compare the figures per second of the processor's work:
they leave out the time in which this one waited for a core."""


def texts_of(words: list[str], tokens: int) -> Iterator[tuple[str, list[str]]]:
    """(language, documents) of each LANGUAGE=FILE: its first documents, with about `tokens` tokens."""
    for word in words:
        language, _, path = word.partition("=")
        found, size = [], 0
        for text in Source("text", language, path=path).texts(Faults("skip")):
            found.append(text)
            size += len(text.encode())
            if size > tokens / len(words) * 6:  # bytes of a token, roughly
                break
        yield language, found


def make_rows(folder: Path, texts: dict[str, list[str]], vocab_size: int) -> RowsManifest:
    """Token rows of the texts, nearly all of them held out."""
    sources = [Source(language, language, documents=documents) for language, documents in texts.items()]
    prepare(sources, folder / "documents", progress=False)
    train_tokenizer(dataset_examples(folder / "documents"), vocab_size=vocab_size, output_dir=folder / "tokenizer")
    tokenize_dataset(
        folder / "documents",
        folder / "tokenizer",
        folder / "rows",
        val_ratio=0.99,
        seed=0,
        row_tokens=2048,
        progress=False,
    )
    return read_manifest(folder / "rows")


def measure(
    texts: dict[str, list[str]], manifest: RowsManifest, tokenizer: Tokenizer, config: ModelConfig, rounds: int
) -> dict[str, tuple[float, float]]:
    """Tokens per second, and per second of all processor cores' work, of each kind of evaluation and of the bare steps."""
    params, mesh, on_cpu = init_params(config, 0), one_device_mesh(), jax.default_backend() == "cpu"
    scorer = DocumentScorer(LanguageModel("bench", config, params, tokenizer))
    T = scorer.seq_len
    B = max(1, (1024 if on_cpu else 16_384) // T)

    graph = model_graph(config, choose_attention_backend(config, jax.default_backend(), [T])[0])
    loss, end = LossSettings(512 if on_cpu else 4096, 0.0), manifest.end_of_text_id
    score_step = make_score_step(graph, mesh, loss=loss, end_of_text_id=end)
    token_bytes = jnp.asarray(tokenizer.token_bytes())
    eval_step = make_eval_step(graph, mesh, loss=loss, end_of_text_id=end, token_bytes=token_bytes)
    held_out = HeldOut(manifest, tokenizer.token_bytes(), len(tokenizer.prefix), T)
    tokens_BxT1 = np.random.default_rng(0).integers(1, tokenizer.vocab_size, (B, T + 1)).astype(np.int32)
    batch = put_batch({"tokens": tokens_BxT1, "valid": np.full(B, T, np.int32)}, mesh)
    documents = [text for of_language in texts.values() for text in of_language]
    order = np.random.default_rng(0).permutation(len(documents))
    documents = [documents[number] for number in order]

    def of_documents() -> int:
        return sum(score.tokens for _, score in scorer.scores(documents))

    count = of_documents()
    batches = max(1, round(count / B / T))

    def bare(step: Callable[..., Any]) -> Callable[[], int]:
        def run_batches() -> int:
            jax.block_until_ready([step(params, batch) for _ in range(batches)])
            return batches * B * T

        return run_batches

    def of_rows() -> int:
        found = evaluate(eval_step, params, manifest, mesh, seq_len=T, batch_size=B, max_tokens=0)
        return sum(score.tokens for score in found.sources.values())

    def of_rows_by_document() -> int:
        found = held_out.score(score_step, params, mesh, batch_size=B)
        return sum(int(documents.tokens.sum()) for documents in found.values())

    kinds = {
        "bare score step": bare(score_step),
        "documents": of_documents,
        "bare eval step": bare(eval_step),
        "rows in training": of_rows,
        "rows by document": of_rows_by_document,
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for number in range(rounds + 1):  # the first compiles
        for name, work in kinds.items():
            start, work_start = time.perf_counter(), time.process_time()
            tokens = work()
            if number:
                seconds = time.perf_counter() - start, time.process_time() - work_start
                rates[name].append((tokens / seconds[0], tokens / seconds[1]))
    return {name: (median(a for a, _ in found), median(b for _, b in found)) for name, found in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", nargs="+", required=True, metavar="LANGUAGE=FILE", help="documents to score")
    add("--tokens", type=int, default=30_000, help="of text in a round, about (default: %(default)s)")
    add("--rounds", type=int, default=5, help="(default: %(default)s)")
    add("--layers", type=int, default=6, help="(default: %(default)s)")
    add("--width", type=int, default=512, help="d_model (default: %(default)s)")
    add("--seq-len", type=int, default=512, help="the model's context (default: %(default)s)")
    add("--vocab-size", type=int, default=8000, help="(default: %(default)s)")
    add("--json", metavar="FILE", help="also write the figures to this file")
    args = parser.parse_args()
    texts = dict(texts_of(args.text, args.tokens))
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_rows(Path(folder), texts, args.vocab_size)
        tokenizer = Tokenizer.from_folder(Path(folder) / "rows" / "tokenizer")
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        config = ModelConfig(
            vocab_size=tokenizer.vocab_size,
            context_length=args.seq_len,
            num_layers=args.layers,
            num_heads=args.width // 64,
            d_model=args.width,
            d_ff=4 * args.width,
            dtype=dtype,
        )
        rates = measure(texts, manifest, tokenizer, config, args.rounds)
    print(f"{config.num_parameters / 1e6:.0f} M parameters, sequences of {args.seq_len}, {jax.default_backend()}")
    bare = {"documents": "bare score step", "rows in training": "bare eval step", "rows by document": "bare score step"}
    for name, (rate, work_rate) in rates.items():
        line = f"  {name:<18} {rate:>12,.0f} tokens/s, {work_rate:>10,.0f} per processor second"
        if name in bare:
            whole, work = rates[bare[name]]
            line += f"; {rate / whole:.3f} and {work_rate / work:.3f} of the bare forward pass"
        print(line)
    if args.json:
        write_json(Path(args.json), rates)


if __name__ == "__main__":
    run_command(main)
