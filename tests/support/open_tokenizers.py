"""Small tokenizers with the parts of those of open models, in folders as the Hub has them.

The parts and the keys of the files are those of the tokenizers that the names say; only the vocabularies are small.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tonsai_jax.samples.stories import stories

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_PATTERN = _LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
_SPACE = "\u2581"


@cache
def _texts() -> tuple[str, ...]:
    return tuple(text for language in ("km", "en") for text in stories(language, 40, seed=5))


def gpt2(folder: Path) -> Path:
    """No special token is named in the files of the tokenizer, only in generation_config.json."""
    made = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=True)])
    end = made.token_to_id("<|endoftext|>")
    return _write(folder, made, {"model_max_length": 1024}, {"bos_token_id": end, "eos_token_id": end})


def smollm2(folder: Path) -> Path:
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    made = _byte_level(pre_tokenizers.Sequence(steps), special)
    ends = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return _write(folder, made, ends, {"bos_token_id": 0, "eos_token_id": 0}, names=ends)


def llama3(folder: Path) -> Path:
    """Ignores merges for words that are a token; puts a token before a text; reserved tokens; several ends."""
    made = _byte_level(_split(_LLAMA3_PATTERN))
    names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        *(f"<|reserved_special_token_{n}|>" for n in range(5)),
        "<|eot_id|>",
    ]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    begin, end, turn = (made.token_to_id(name) for name in (names[0], names[1], names[-1]))
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{names[0]} $A", special_tokens=[(names[0], begin)]),
        ]
    )
    config = {"bos_token": {"content": names[0], "__type": "AddedToken"}, "eos_token": names[-1]}
    generation = {"bos_token_id": begin, "eos_token_id": [end, turn]}
    return _write(folder, made, config, generation, edit=lambda value: value["model"].update(ignore_merges=True))


def qwen3(folder: Path) -> Path:
    """Works on NFC; its chat model ends a turn with `eos_token`; an id has no token; added tokens that are no special ones."""
    made = _byte_level(_split(_QWEN_PATTERN))
    made.normalizer = normalizers.NFC()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    made.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")])
    text, turn = made.token_to_id("<|endoftext|>"), made.token_to_id("<|im_end|>")
    config = {"eos_token": "<|im_end|>", "bos_token": None, "pad_token": "<|endoftext|>", "add_bos_token": False}
    config["chat_template"] = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
    return _write(folder, made, config, {"bos_token_id": text, "eos_token_id": [turn, text], "pad_token_id": text})


def llama2(folder: Path, metaspace: bool = False) -> Path:
    """Puts a space before a text, in the normalizer; `metaspace`: in the pre-tokenizer. Merges can make "</s>"."""
    made = _byte_fallback(["<unk>", "<s>", "</s>"], ("</", "s>"))
    made.decoder = decoders.Sequence([*_spoken(), decoders.Strip(" ", 1, 0)])
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": {"content": "</s>"}}
    return _write(folder, made, {"legacy": not metaspace}, {"bos_token_id": 1, "eos_token_id": 2}, names=names)


def mixtral(folder: Path) -> Path:
    return llama2(folder, metaspace=True)


def gemma3(folder: Path) -> Path:
    """Added tokens that are text: runs of newlines and of spaces, and tags. The last token, of images, has no row in models."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    made = _byte_fallback(special, ("<0x", "41>"), added=["\n", "\n\n", "\n\n\n", _SPACE * 2, _SPACE * 3, "<table>"])
    made.normalizer = normalizers.Replace(" ", _SPACE)
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence(_spoken())
    made.add_special_tokens([AddedToken("<image_soft_token>", special=True, normalized=False)])
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return _write(
        folder, made, names | {"add_bos_token": True}, {"bos_token_id": 2, "eos_token_id": [1, 6], "pad_token_id": 0}
    )


KINDS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker for maker in (gpt2, smollm2, llama3, qwen3, llama2, mixtral, gemma3)
}


def _byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer, special: list[str] | None = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special or [], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(_texts(), trainer)
    return made


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_fallback(special: list[str], makes_special: tuple[str, str], added: list[str] | None = None) -> Tokenizer:
    """As a conversion of SentencePiece makes it: two pieces that a merge joins to the name of a special token or a byte."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(_texts(), trainers.BpeTrainer(vocab_size=400, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *(added or ())]
    pieces += [*learned["vocab"], *"</0x41>s", "<0", *makes_special]
    vocabulary: dict[str, int] = {}
    for piece in pieces:
        vocabulary.setdefault(piece, len(vocabulary))
    left, right = makes_special
    merges = [("<", "/")] if left == "</" else [("<", "0"), ("<0", "x"), ("4", "1"), ("41", ">")]
    vocabulary.setdefault("41", len(vocabulary))
    merges += [("s", ">")] if right == "s>" else []
    merges += [(left, right), *(tuple(merge) for merge in learned["merges"])]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    made.add_tokens([AddedToken(name, special=False, normalized=False) for name in added or ()])
    return made


def _spoken() -> list[decoders.Decoder]:
    return [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def _write(
    folder: Path,
    made: Tokenizer,
    config: dict[str, Any],
    generation: dict[str, Any],
    *,
    names: dict[str, Any] | None = None,
    edit: Callable[[dict[str, Any]], None] = lambda value: None,
) -> Path:
    folder.mkdir(parents=True)
    value = json.loads(made.to_str())
    edit(value)
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    files = {"tokenizer.json": value, "tokenizer_config.json": config, "generation_config.json": generation}
    for name, content in (files | ({"special_tokens_map.json": names} if names else {})).items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder
