"""Opens the tokenizers of open models: GPT-2, SmolLM2, Llama, Qwen3, Mixtral, Gemma 3 and others that are made of the same parts.

They differ from ours in four things. Their files name more special tokens, in more places. Some put a space before every text: it
is taken out of the pipeline here and told to the caller as `prefix`, so that ids stay exact when a text is encoded in parts. Some
could read a special token that a text spells out: that is taken out too. And some lose text: those are refused, by the reason.

The parts are those that transformers writes (its convert_slow_tokenizer.py); docs/tokenizer.md lists which of them can be used.
"""

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.tokenizer.encoding import (
    LETTER_OF_BYTE,
    PROBE,
    SPACE,
    Encode,
    inner_tokenizer,
    is_byte_level,
    token_pieces,
    unknown_id,
)
from tonsai_jax.tokenizer.special_tokens import END_OF_TURN, SpecialIds, token_named

# Tokens that end a turn, where a chat template writes them: of ours, Qwen3 and SmolLM2, Llama 3, Gemma 3.
_ENDS_OF_TURN = (END_OF_TURN, "<|im_end|>", "<|eot_id|>", "<end_of_turn>")
# Bytes that a tokenizer trained on clean text may lack: none of them is in UTF-8; or in control characters and beyond the scripts
# and emoji only.
_NOT_IN_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
_RARE = frozenset((*range(0x09), *range(0x0B, 0x0D), *range(0x0E, 0x20), 0x7F, 0xF1, 0xF2, 0xF3, 0xF4))


def open_model_tokenizer(
    folder: Path, content: dict[str, Any], config: dict[str, Any]
) -> tuple[tokenizers.Tokenizer, SpecialIds, str, str]:
    """The tokenizer of an open model, changed so that it loses no text.

    Args:
      folder: its folder.
      content: of tokenizer.json.
      config: the content of tokenizer_config.json.

    Returns the tokenizer; its special ids; what it puts before every text, "" or " " (the returned tokenizer does not put it);
    and the characters that it cannot write, as a set of a regular expression, mostly "".
    Raises `UserError` for a tokenizer that cannot be used, with the reason.
    """
    path = folder / "tokenizer.json"
    kind = content["model"].get("type", "BPE")
    if kind not in ("BPE", "Unigram"):
        raise UserError(f"{path}: a {kind} tokenizer, which loses text; only BPE and Unigram with bytes can be used")
    given = inner_tokenizer(path, content)
    special = _special_ids(folder, content, config, given)
    changed = copy.deepcopy(content)
    prefix = _take_out_prefix(path, changed)
    _check_added_tokens(path, changed)
    _protect_special_tokens(changed, special, given)
    inner = inner_tokenizer(path, changed)
    unwritable = _check_bytes(path, changed, inner)
    _check_exact(path, changed, inner, prefix, unwritable)
    return inner, special, prefix, unwritable


def refusing(encode: Encode, unwritable: str, folder: Path) -> Encode:
    """`encode`, but an error for a text with a character of `unwritable`, which the tokenizer would drop."""
    if not unwritable:
        return encode
    pattern = re.compile(f"[{unwritable}]")

    def checked(text: str) -> list[int]:
        if found := pattern.search(text):
            raise UserError(
                f"{folder}: this tokenizer has no token for the character U+{ord(found[0]):04X}; remove it from the text"
            )
        return encode(text)

    return checked


def _special_ids(
    folder: Path, content: dict[str, Any], config: dict[str, Any], inner: tokenizers.Tokenizer
) -> SpecialIds:
    names = _optional_json(folder / "special_tokens_map.json")
    generation = _optional_json(folder / "generation_config.json") or _model_config(folder)

    def ids_of(role: str) -> list[int]:
        """By name, else by number; the files of GPT-2 name none."""
        name = token_named(config, f"{role}_token") or token_named(names, f"{role}_token")
        numbers = _numbers(generation.get(f"{role}_token_id"), inner)
        if name is None:
            return numbers
        id = inner.token_to_id(name)
        if id is None:
            raise UserError(
                f"{folder}: {role}_token in tokenizer_config.json is {name!r}, which is not a token of tokenizer.json; "
                "take both files from the same model"
            )
        return [id, *(number for number in numbers if number != id)]

    eos_ids, bos_ids, pad_ids = ids_of("eos"), ids_of("bos"), ids_of("pad")
    if not eos_ids:
        raise UserError(
            f"{folder}: no end-of-text token is named here; set eos_token in tokenizer_config.json, for instance "
            '"eos_token": "<|endoftext|>"'
        )
    eos, bos = eos_ids[0], bos_ids[0] if bos_ids else None
    first = _put_before_text(inner)
    wanted = config.get("add_bos_token")
    if wanted is True and bos is not None:
        first = bos
    elif wanted is False:
        first = None
    # A token that begins and ends texts separates documents. The eos_token of Qwen3's chat models only ends a turn.
    end_of_text = first if first is not None else bos if bos in eos_ids else eos
    template = _chat_template(folder, config)
    turns = [id for name in _ENDS_OF_TURN if name in template and (id := inner.token_to_id(name)) is not None]
    ends = tuple(dict.fromkeys([end_of_text, *eos_ids, *turns]))
    return SpecialIds(end_of_text, eos, bos, pad_ids[0] if pad_ids else None, ends, first)


def _put_before_text(inner: tokenizers.Tokenizer) -> int | None:
    """The id that the tokenizer itself puts before a text; None if it puts none."""
    text, whole = (inner.encode("a", add_special_tokens=added).ids for added in (False, True))
    return whole[0] if len(whole) > len(text) and whole[: len(text)] != text else None


def _numbers(value: Any, inner: tokenizers.Tokenizer) -> list[int]:
    """The ids in a value of generation_config.json, which is a number, a list or null.

    Only those of added tokens: a config can also have the numbers of another tokenizer, left from its defaults.
    """
    numbers = value if isinstance(value, list) else [value]
    return [id for id in numbers if id in inner.get_added_tokens_decoder()]


def _optional_json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.exists() else {}
    return value if isinstance(value, dict) else {}


def _model_config(folder: Path) -> dict[str, Any]:
    config = _optional_json(folder / "config.json")
    return config.get("text_config", {}) | config  # a model of text and images has them inside


def _chat_template(folder: Path, config: dict[str, Any]) -> str:
    """All text of the chat templates; empty if there is none."""
    file = folder / "chat_template.jinja"
    jinja = file.read_text(encoding="utf-8") if file.exists() else ""
    return f"{jinja}{config.get('chat_template') or ''}{_optional_json(folder / 'chat_template.json') or ''}"


def _take_out_prefix(path: Path, content: dict[str, Any]) -> str:
    """Takes the step that puts a space before a text out of the pipeline; returns that space, or "".

    Raises `UserError` for a step that loses text.
    """
    prefixes = []
    kept = []
    for step in _steps(content.get("normalizer")):
        if step["type"] == "Prepend":
            prefixes.append(step["prepend"].replace(SPACE, " "))
        elif step["type"] == "NFC" or (step["type"] == "Replace" and _swaps_space(step)):
            kept.append(step)
        else:
            raise UserError(
                f"{path}: its normalizer {step['type']} changes text, so decoding cannot give the text back; such a "
                "tokenizer cannot be used, choose another model"
            )
    content["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    steps = _steps(content.get("pre_tokenizer"))
    for step in steps:
        if step["type"] == "Metaspace":
            scheme = step.get("prepend_scheme", "always" if step.pop("add_prefix_space", True) else "never")
            if scheme == "always" and len(steps) > 1:
                raise UserError(f"{path}: its pre-tokenizer Metaspace puts spaces into the text, so it cannot be used")
            step["prepend_scheme"] = "never"
            prefixes += [" "] if scheme != "never" else []
        elif step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            raise UserError(
                f"{path}: its pre-tokenizer puts a space before words that decoding does not take away; set "
                "add_prefix_space of ByteLevel to false, or choose another model"
            )
    if prefixes not in ([], [" "]):
        raise UserError(f"{path}: puts {''.join(prefixes)!r} before a text; only one space can be used")
    return "".join(prefixes)


def _steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parts of a normalizer or pre-tokenizer, in their order."""
    if step is None:
        return []
    parts = step.get("normalizers", step.get("pretokenizers"))
    return [step] if parts is None else [inner for part in parts for inner in _steps(part)]


def _swaps_space(step: dict[str, Any]) -> bool:
    return step["pattern"].get("String") == " " and step["content"] == SPACE


def _check_added_tokens(path: Path, content: dict[str, Any]) -> None:
    for token in content.get("added_tokens", ()):
        if not token["special"] and (token["lstrip"] or token["rstrip"]):
            raise UserError(
                f"{path}: its added token {token['content']!r} swallows the spaces next to it (lstrip or rstrip), so "
                "decoding cannot give the text back; set both to false, or choose another model"
            )


def _protect_special_tokens(content: dict[str, Any], special: SpecialIds, inner: tokenizers.Tokenizer) -> None:
    """Makes sure that no text is read as a special token, or as the name of a byte.

    A special token must be marked so, or the library finds it in the text. And no merge may make one: SentencePiece never
    does, but the merges in a converted tokenizer.json can put "</s>" or "<0x41>" together from their letters.
    """
    wanted = {id for id in (special.bos, special.pad, *special.ends) if id is not None}
    for token in content.setdefault("added_tokens", []):
        token["special"] = token["special"] or token["id"] in wanted
        wanted.discard(token["id"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for id in sorted(wanted):
        content["added_tokens"].append({"id": id, "content": inner.id_to_token(id), "special": True} | flags)
    model = content["model"]
    if "merges" in model:
        never = {token["content"] for token in content["added_tokens"] if token["special"]} | {model.get("unk_token")}
        if not is_byte_level(content):
            never |= {_byte_piece(byte) for byte in range(256)}
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [list(pair) for pair in pairs if "".join(pair) not in never]
        model["dropout"] = None


def _check_bytes(path: Path, content: dict[str, Any], inner: tokenizers.Tokenizer) -> str:
    """Raises `UserError` unless the bytes of every text have tokens; returns the control characters and the like without one."""
    vocabulary = inner.get_vocab(with_added_tokens=True)
    model = content["model"]
    if is_byte_level(content):
        missing = [byte for byte in range(256) if LETTER_OF_BYTE[byte] not in vocabulary]
    elif not model.get("byte_fallback"):
        raise UserError(
            f"{path}: has no tokens for bytes (byte_fallback is not set), so it loses every character that it does not "
            "know; choose another model, or train a tokenizer with `tonsai train-tokenizer`"
        )
    else:  # Gemma has a token for the tabulator, and none for its byte
        ascii_tokens = {ord(" "): SPACE} | {byte: chr(byte) for byte in range(128) if byte != ord(" ")}
        missing = [
            byte
            for byte in range(256)
            if _byte_piece(byte) not in vocabulary and ascii_tokens.get(byte, "") not in vocabulary
        ]
    missing = [byte for byte in missing if byte not in _NOT_IN_UTF8]
    if needed := [byte for byte in missing if byte not in _RARE]:
        raise UserError(
            f"{path}: has no token for {len(needed)} of the bytes of UTF-8 (the first is 0x{needed[0]:02X}), so it loses "
            "text; choose another model, or train a tokenizer with `tonsai train-tokenizer`"
        )
    # One byte of ASCII, or the first byte of four with six bits in each of the others.
    ranges = [(byte, byte) if byte < 0x80 else ((byte - 0xF0) << 18, ((byte - 0xEF) << 18) - 1) for byte in missing]
    return "".join(f"\\U{first:08x}-\\U{min(last, 0x10FFFF):08x}" for first, last in ranges)


def _byte_piece(byte: int) -> str:
    return f"<0x{byte:02X}>"


def _check_exact(
    path: Path, content: dict[str, Any], inner: tokenizers.Tokenizer, prefix: str, unwritable: str
) -> None:
    """Raises `UserError` if a text that has all that can go wrong does not come back."""
    inner.encode_special_tokens = True
    pieces = token_pieces(inner, content)
    names = {token["content"]: token["id"] for token in content["added_tokens"] if token["special"]}
    unknown = unknown_id(content["model"], inner.get_vocab(with_added_tokens=True))
    special = {*names.values()} | ({unknown} if unknown is not None else set())
    nfc = any(step["type"] == "NFC" for step in _steps(content.get("normalizer")))
    for text in _probes(names):
        text = re.sub(f"[{unwritable}]", "", text) if unwritable else text
        wanted = prefix + (normalize("NFC", text) if nfc else text)
        ids = inner.encode(wanted, add_special_tokens=False).ids
        if special & {*ids}:
            raise UserError(f"{path}: reads {text[:60]!r} in a text as a special token, so it cannot be used")
        if b"".join(pieces[id] for id in ids) != wanted.replace(SPACE, " ").encode():
            steps = [f"{key} {_named(content.get(key))}" for key in ("normalizer", "pre_tokenizer", "decoder")]
            raise UserError(
                f"{path}: decoding does not give back the encoded text, so it is damaged or of a kind that cannot be used "
                f"({', '.join(steps)}); choose another model"
            )


def _probes(special: Iterable[str]) -> Iterable[str]:
    yield PROBE
    yield "  two  spaces \n\n\n lines \t\t tabs <0x41><unk></s> <s>"
    for name in special:
        if SPACE not in name:  # which becomes a space in a text
            yield f"{name}"
            yield f"a {name} a{name}a\n{name}"


def _named(step: dict[str, Any] | None) -> str:
    return "+".join(part["type"] for part in _steps(step)) or "none"
