"""Small tokenizers that are built as those of open models are."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tests.support.tiny_model import ENGLISH
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.training import train_tokenizer

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = ("gpt2", "llama3", "llama2", "ours")
ENGLISH_TEXT = [ENGLISH, *(text.replace("\n", " ") for text in stories("en", 60, seed=0))]
KHMER_TEXT = [text.replace("\n", " ") for text in stories("km", 200, seed=0)]


def make_base(kind: str, folder: Path) -> Path:
    """Writes an English tokenizer of a kind of `KINDS`."""
    if kind == "ours":
        train_tokenizer([Example(text, "en") for text in ENGLISH_TEXT], vocab_size=400, output_dir=folder)
        return folder
    folder.mkdir(parents=True)
    {"gpt2": _gpt2, "llama3": _llama3, "llama2": _llama2}[kind]().save(str(folder / "tokenizer.json"))
    end = "</s>" if kind == "llama2" else "<|endoftext|>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text("the old vocabulary, in a second file")
    return folder


def _gpt2() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _train(tokenizer, ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _llama3() -> tokenizers.Tokenizer:
    """NFC, and special tokens that only the list of added tokens has, with the last ids."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    _train(tokenizer, [], pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|endoftext|>", "<|eot_id|>"])
    return tokenizer


def _llama2() -> tokenizers.Tokenizer:
    """Byte fallback, the space as U+2581, and no pre-tokenizer."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # only for training: words as SentencePiece has them
    special = ["<unk>", "<s>", "</s>"]
    _train(tokenizer, [*special, *(f"<0x{byte:02X}>" for byte in range(256))], [])
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = None
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _train(tokenizer: tokenizers.Tokenizer, special: list[str], alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(ENGLISH_TEXT, trainer)
