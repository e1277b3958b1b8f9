"""Give a model another vocabulary: one row of its embedding for each id of the new tokenizer, all other weights as they are."""

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.errors import UserError
from tonsai_jax.files import check_replaceable, folder_to_replace, write_json
from tonsai_jax.reporting.tables import Table, as_text
from tonsai_jax.runtime.libraries import quiet_libraries
from tonsai_jax.tokenizer.even_sample import EvenSample, SampledText
from tonsai_jax.tokenizer.examples import Example, dataset_examples, file_examples

if TYPE_CHECKING:
    from tonsai_jax.tokenizer.loading import Tokenizer

EXAMPLES = """examples:
  tonsai extend-tokenizer --tokenizer-dir models/smollm2 --dataset-dir data/mixture --new-tokens 8000 \\
      --output-dir artifacts/smollm2_khmer
  tonsai new-vocabulary --model hf:HuggingFaceTB/SmolLM2-135M --tokenizer-dir artifacts/smollm2_khmer \\
      --dataset-dir data/mixture --output-dir models/smollm2_khmer
  tonsai new-vocabulary --model models/smollm2 --tokenizer-dir artifacts/bpe --dataset-dir data/mixture \\
      --output-dir models/smollm2_ours

A token that the old vocabulary has too keeps its row. The other rows start as (--init):
  mean       the mean of the rows of the old tokens that its text had
  similar    a weighted mean of rows of tokens that occur in the same places; needs documents
  calibrated as similar, then moved so that new tokens get the frequency that they have in the documents;
             needs documents, best of both languages
  distilled  as similar, then fitted so that the model reads the new tokens as it read the old ones; needs documents
  random     random numbers, as large as those of the old rows
docs/adapt.md has them measured.
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="MODEL",
        help="hf:ORG/NAME, a folder in Hugging Face format, or the folder of a run",
    )
    add("--tokenizer-dir", required=True, metavar="DIR", help="the new tokenizer: an extended one, or any of ours")
    add(
        "--init",
        metavar="NAME",
        help="how new rows start, see below (default: calibrated with documents, mean without)",
    )
    parser.add_texts(required=False)
    add("--max-examples", type=int, default=20_000, metavar="N", help="use at most N texts (default: 20000)")
    add("--distill-steps", type=int, default=300, metavar="N", help="steps of --init distilled (default: 300)")
    add("--seed", type=int, default=0, help="of random rows and of the order of the texts (default: 0)")
    add(
        "--output-dir",
        type=folder_to_replace,
        required=True,
        metavar="DIR",
        help="folder to write, in Hugging Face format; replaces an earlier export",
    )
    parser.add_json()
    args = parser.parse_args()

    quiet_libraries()
    from tonsai_jax.adapt.distilled_rows import DistillSettings, Model
    from tonsai_jax.adapt.new_vocabulary import check_init, with_new_vocabulary
    from tonsai_jax.huggingface.export import FORMAT, export
    from tonsai_jax.huggingface.pretrained import open_pretrained
    from tonsai_jax.tokenizer.loading import Tokenizer

    has_text = bool(args.dataset_dir or args.input)
    init = args.init or ("calibrated" if has_text else "mean")
    check_init(init, has_text)
    if args.distill_steps < 1:
        raise UserError(f"--distill-steps {args.distill_steps}: must be at least 1")
    check_replaceable(Path(args.output_dir), manifest="export.json", format=FORMAT)  # now, and not after the work
    new = Tokenizer.from_folder(args.tokenizer_dir)
    pretrained = open_pretrained(args.model, "--model")
    old = pretrained.tokenizer()
    sampled = SampledText()
    texts = list(sampled.passing(_examples(args)))
    moved = with_new_vocabulary(
        Model(pretrained.model_config, pretrained.params(), old),
        new,
        init=init,
        texts=texts,
        settings=dataclasses.replace(DistillSettings(), steps=args.distill_steps),
        seed=args.seed,
        progress=True,
    )
    dtype = pretrained.dtype
    folder = export(moved.config, moved.params, new, args.output_dir, dtype=dtype)
    measured = {label: _bytes_per_token(old, new, sample) for label, sample in sampled.by_label.items()}
    report = {
        "model": args.model,
        "init": init,
        "old_vocab_size": pretrained.model_config.vocab_size,
        "vocab_size": moved.config.vocab_size,
        "carried_over": moved.carried,
        "new_rows": moved.made,
        "dtype": dtype,
        "distillation": moved.curve,
        "texts": measured,
    }
    if measured:
        rows = [
            [Path(label).name, *(f"{value:.2f}" for value in figures.values())] for label, figures in measured.items()
        ]
        print(as_text(Table("", ["text", "bytes/token before", "now"], rows, "lrr")))
    if moved.curve:
        first, last = moved.curve[0], moved.curve[-1]
        print(
            f"distilled: difference of the hidden states {first['hidden']:.3f} -> {last['hidden']:.3f}, "
            f"loss on the next token {first['next_token']:.3f} -> {last['next_token']:.3f}"
        )
    print(
        f"{folder}: {moved.config.vocab_size:,} ids (before: {pretrained.model_config.vocab_size:,}); "
        f"{moved.carried:,} rows carried over, {moved.made:,} new rows ({init}), {dtype}"
    )
    if args.json:
        write_json(args.json, report)


def _examples(args: argparse.Namespace) -> Iterable[Example]:
    if args.dataset_dir:
        return dataset_examples(args.dataset_dir, max_examples=args.max_examples)
    return file_examples(args.input, faults=Faults("stop"), max_examples=args.max_examples) if args.input else []


def _bytes_per_token(old: "Tokenizer", new: "Tokenizer", sample: EvenSample[str]) -> dict[str, float]:
    def measure(tokenizer: "Tokenizer") -> float:
        return sample.sample_bytes / max(1, sum(map(len, tokenizer.encode_batch(sample.items))))

    return {"before": measure(old), "now": measure(new)}
