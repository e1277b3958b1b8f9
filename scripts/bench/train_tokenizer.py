"""Measures the training of byte-level BPE by our trainer and by `tokenizers`, each in its own process.

python scripts/bench/train_tokenizer.py --input km.txt en.txt --vocab-size 16000

Every 20th line of each file is held out to measure bytes per token. Both trainers read the lines unchanged and split words with
the same pattern; `tokenizers` merges bytes. Memory is the peak of the process.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tonsai_jax.reporting.tables import Table, as_text
from tonsai_jax.tokenizer.bpe import MAX_TOKEN_LENGTH, MIN_FREQUENCY, PATTERN, train_bpe
from tonsai_jax.tokenizer.special_tokens import END_OF_TEXT


def ours(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    return train_bpe(lines, vocab_size, [END_OF_TEXT], progress=False)


def theirs(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_LENGTH,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def measure(
    train: Callable[[Iterable[str], int], Tokenizer], files: list[Path], vocab_size: int
) -> tuple[float, float, dict[str, float]]:
    """Trains once; returns seconds, GB of memory, and {file: bytes per token on its held-out lines}."""
    start = time.perf_counter()
    tokenizer = train((line for file in files for line in read_lines(file, held_out=False)), vocab_size)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    ratios = {}
    for file in files:
        lines = list(read_lines(file, held_out=True))
        ratios[file.name] = sum(len(line.encode()) for line in lines) / sum(map(len, tokenizer.encode_batch(lines)))
    return seconds, memory, ratios


def read_lines(file: Path, *, held_out: bool) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if (number % 20 == 0) == held_out:
                yield line.rstrip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", type=Path, required=True, metavar="FILE", help="text files")
    parser.add_argument("--vocab-size", type=int, default=16_000, help="token ids to train (default: 16000)")
    args = parser.parse_args()
    rows = []
    for name, train in (("ours", ours), ("tokenizers", theirs)):
        with ProcessPoolExecutor(1) as pool:
            seconds, memory, ratios = pool.submit(measure, train, args.input, args.vocab_size).result()
        rows.append([name, f"{seconds:.1f}", f"{memory:.2f}", *(f"{ratio:.2f}" for ratio in ratios.values())])
    heads = ["trainer", "seconds", "GB", *(f"bytes/token {file.name}" for file in args.input)]
    print(as_text(Table("", heads, rows, "l" + "r" * (len(heads) - 1))))


if __name__ == "__main__":
    main()
