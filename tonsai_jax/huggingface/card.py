"""The model card: what a person who finds the model needs to know, as text."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from tonsai_jax.huggingface.card_details import LESSONS, CardDetails, hub_model
from tonsai_jax.huggingface.names import family_of
from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.text.normalize import Normalization

FAMILY_NAMES = {"gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3", "mixtral": "Mixtral", "gemma3": "Gemma 3"}
LANGUAGE_NAMES = {"km": "Khmer", "en": "English", "mul": "several languages"}
_CONTINUATION = (
    'inputs = tokenizer("ប្រទេសកម្ពុជា", return_tensors="pt")',
    "ids = model.generate(**inputs, max_new_tokens=64, do_sample=True, temperature=0.8, top_k=50)",
    "print(tokenizer.decode(ids[0], skip_special_tokens=True))",
)
_ANSWER = (
    'messages = [{"role": "user", "content": "តើប្រទេសកម្ពុជានៅឯណា?"}]',
    "inputs = tokenizer.apply_chat_template(",
    '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
    ")",
    "ids = model.generate(**inputs, max_new_tokens=64)",
    'print(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
)
_TEMPLATE = (
    "The model learned to answer in the form that the chat template of the tokenizer writes. Give it every question in that\n"
    "form, as above."
)
_FIRST_TOKEN = {
    True: "The tokenizer puts the end-of-text token before a prompt, because in training every document follows one.",
    False: "In training an end-of-text token comes before every document. The tokenizer does not put it before a prompt:\n"
    "for one that begins a document, put it there yourself.",
}


def model_card(
    name: str,
    model_config: ModelConfig,
    details: CardDetails,
    *,
    normalization: Normalization | None = None,
    tokenizer_normalizes: bool = False,
    starts_documents: bool = True,
    chat_template: bool = False,
) -> str:
    """The text of README.md for the Hugging Face Hub: metadata, usage, data, scores and limits.

    Args:
      name: the model's name.
      model_config: of the model.
      details: what is known about the run.
      normalization: what the training text went through; None if it is not known.
      tokenizer_normalizes: whether the exported tokenizer does the frequent part of it.
      starts_documents: whether the exported tokenizer puts the token before a prompt that came before every document.
      chat_template: whether the exported tokenizer has one.
    """
    chats = details.answers and chat_template
    family = family_of(model_config)
    languages = [LANGUAGE_NAMES.get(code, code) for code in details.languages]
    spoken = " and ".join([", ".join(languages[:-1]), languages[-1]] if len(languages) > 1 else languages)
    counts = f"{model_config.num_parameters:,} parameters"
    if model_config.num_experts:
        counts += f" ({model_config.num_active_parameters:,} of them for each token)"
    steps = "" if details.step is None else f", trained for {count_of(details.step, 'step')}"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(_metadata(name, family, details), sort_keys=False, allow_unicode=True) + "---",
            "",
            f"# {name}",
            "",
            f"A {FAMILY_NAMES[family]} language model{f' for {spoken}' if spoken else ''} with {counts}"
            f"{steps}, made with tonsai_jax.",
            *([f"It continues from {_linked(details.base_model)}."] if details.base_model else []),
            "",
            "| layers | width | heads | inner width | context | vocabulary |",
            "| --- | --- | --- | --- | --- | --- |",
            f"| {model_config.num_layers} | {model_config.d_model} | {model_config.num_heads} | {model_config.d_ff} "
            f"| {model_config.context_length:,} tokens | {model_config.vocab_size:,} ids |",
            "",
            "## How to use it",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'folder = "."  # this folder, or the model\'s name on the Hub',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            "model = AutoModelForCausalLM.from_pretrained(folder)",
            *(_ANSWER if chats else _CONTINUATION),
            "```",
            "",
            _TEMPLATE if chats else _FIRST_TOKEN[starts_documents],
            "",
            *(_normalization_section(normalization, tokenizer_normalizes, chats) if normalization else []),
            *_what_is_known(details),
        ]
    )


def adapter_card(
    name: str,
    model_config: ModelConfig,
    lora: Lora,
    base_model: str,
    details: CardDetails,
    *,
    base_is_run: bool = False,
    chat_template: bool = False,
) -> str:
    """The text of README.md for adapters of LoRA: metadata, how to load them, data, scores and limits.

    Args:
      name: the adapter's name.
      model_config: of the model that they belong to.
      lora: the adapters.
      base_model: the model that they were trained on: hf:ORG/NAME@REVISION, or a folder.
      details: what is known about the run.
      base_is_run: whether that folder is a run, which must be exported first.
      chat_template: whether the exported tokenizer has one.
    """
    on_hub = hub_model(base_model)
    base_name, revision = on_hub or (Path(base_model).name, None)
    origin, details = details.base_model, dataclasses.replace(details, base_model=base_name)
    metadata = _metadata(name, family_of(model_config), details) | {"library_name": "peft"}
    if "base_model" in metadata:
        metadata["base_model_relation"] = "adapter"
    metadata["tags"] = [*metadata["tags"], "lora"]
    steps = "" if details.step is None else f", trained for {count_of(details.step, 'step')}"
    if on_hub:
        before, load = [], f'"{base_name}"' + (f', revision="{revision}"' if revision else "")
    else:
        before = [
            f"They were trained on the {'run' if base_is_run else 'model'} `{base_name}`, which is not part of this folder and "
            f"is needed in Hugging Face format.{' `tonsai export` writes it from the run.' if base_is_run else ''}"
        ]
        if origin and "/" in origin:
            before.append(
                f"`{base_name}` itself continues from {_linked(origin)}. On the weights of {origin} the adapters do not give the "
                "model that was trained."
            )
        load = f'"path/to/{base_name}"'
        before.append("")
    return "\n".join(
        [
            "---",
            yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True) + "---",
            "",
            f"# {name}",
            "",
            f"LoRA adapters for {_linked(base_name)}: {lora.num_parameters(model_config):,} parameters, rank {lora.rank}, "
            f"alpha {lora.alpha:g}{steps}, made with tonsai_jax. Without that model they are of no use.",
            "",
            "## How to use it",
            "",
            *before,
            "```python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'folder = "."  # this folder, or its name on the Hub',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            f"base = AutoModelForCausalLM.from_pretrained({load})",
            "model = PeftModel.from_pretrained(base, folder)  # or .merge_and_unload() for a model without adapters",
            *(_ANSWER if details.answers and chat_template else _CONTINUATION),
            "```",
            "",
            *_what_is_known(details),
        ]
    )


def _what_is_known(details: CardDetails) -> list[str]:
    return [
        "## Training data",
        "",
        *_training_data(details),
        "",
        "## Scores",
        "",
        *_scores_table(details),
        "",
        "## Limits",
        "",
        *_limits(details),
        "",
    ]


def _linked(base_model: str) -> str:
    return f"[{base_model}](https://huggingface.co/{base_model})" if "/" in base_model else f"the model `{base_model}`"


def _lessons(details: CardDetails) -> str:
    return " and ".join(LESSONS[each] for each in details.learned_from)


def _limits(details: CardDetails) -> list[str]:
    base, lessons = details.base_model, _lessons(details)
    lines = []
    if details.answers:
        taught = f"It was trained on {lessons}" if lessons else "It was trained to answer"
        if details.learned_from == ("text",):
            taught = "An earlier run taught it to answer, this one went on with plain text"
        lines.append(f"{taught}; whether its answers are right, and harmless, was not measured.")
    elif base:
        lines.append(f"It was trained further on {lessons or 'text that is not recorded'}.")
    elif lessons:
        lines.append("This is a base model: it continues text and has not been taught to follow instructions.")
    else:
        lines.append(
            "What it learned from is not recorded; a base model continues text and does not follow instructions."
        )
    if base:
        others = "" if details.answers else ", such as following instructions,"
        lines.append(f"What else {base} can do{others} was not measured again and can be worse now.")
    lines.append("It can state false things, and repeats what its training text holds, prejudice included.")
    if base:
        lines.append(
            f"The limits and the license of {base} hold for this model too; check also the licenses of the training"
        )
        lines.append("text before you share it.")
    else:
        lines.append("Check the licenses of its training text before you share it.")
    return lines


def _metadata(name: str, family: str, details: CardDetails) -> dict[str, Any]:
    """What the Hub reads: https://huggingface.co/docs/hub/model-cards#model-card-metadata. What is not known is left out."""
    datasets = {
        source.name: source.dataset
        for source in details.sources
        if source.dataset and re.fullmatch(r"[\w.-]+/[\w.-]+", source.dataset)  # not a folder of this machine
    }
    texts = {score: score.removeprefix("source/") for score in details.bits_per_byte}
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {
                "name": f"{texts[score]}, {_held_out(details)}",
                "type": datasets.get(texts[score], texts[score]),
            },
            "metrics": [{"type": "bits_per_byte", "name": "Bits per byte", "value": round(value, 4)}],
        }
        for score, value in details.bits_per_byte.items()
    ]
    license_name = f"follows-from-the-{'base-model-and-the-' * bool(details.base_model)}training-text"
    metadata = {
        "language": details.languages,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": details.base_model if details.base_model and "/" in details.base_model else None,
        "license": details.license or "other",
        "license_name": None if details.license else license_name,
        "datasets": list(dict.fromkeys(datasets.values())),
        "tags": [family, "tonsai-jax"],
        "model-index": [{"name": name, "results": results}] if results else None,
    }
    return {key: value for key, value in metadata.items() if value}


def _normalization_section(normalization: Normalization, tokenizer_normalizes: bool, chats: bool) -> list[str]:
    form = ["Khmer marks in canonical order"] * normalization.khmer
    form += ["no zero-width space between Khmer words"] * (normalization.khmer and normalization.zwsp == "strip")
    form += ["one kind of space and of line end"] * normalization.whitespace
    form += ["Unicode NFC"] * normalization.nfc
    part = (
        "The tokenizer replaces the most frequent other spellings by itself, but it cannot sort all marks."
        if tokenizer_normalizes
        else "The tokenizer leaves text as it is."
    )
    return [
        "## Normalize the text",
        "",
        f"The training text was normalized ({', '.join(form) or 'see the file'}). The same words in another spelling",
        f"give other tokens than those that the model has learned. {part}",
        "`khmer_normalizer.py` in this folder does all of it and needs only Python:",
        "",
        "```python",
        "from khmer_normalizer import normalize_prompt",
        "",
        'messages = [{"role": "user", "content": normalize_prompt("តើប្រទេសកម្ពុជានៅឯណា?")}]'
        if chats
        else 'inputs = tokenizer(normalize_prompt("ប្រទេសកម្ពុជា"), return_tensors="pt")',
        "```",
        "",
        "Programs that do not read `tokenizer.json`, such as llama.cpp, need it for every text.",
        "",
    ]


def _training_data(details: CardDetails) -> list[str]:
    lines = [f"This run learned from {_lessons(details)}.", ""] if details.learned_from else []
    if not details.sources:
        return [*lines, "The sources are not recorded with this run." if lines else "Not recorded with this run."]
    rows = [
        f"| {source.name} | {source.language} | {source.kind} "
        f"| {'by stage' if source.weight is None else f'{source.weight:.1%}'} | {source.license or 'not recorded'} |"
        for source in details.sources
    ]
    header = ["| source | language | kind | share of training tokens | license |", "| --- | --- | --- | --- | --- |"]
    return [*lines, *header, *rows]


def _held_out(details: CardDetails) -> str:
    """What was scored: of a conversation only the answers are."""
    kinds = {source.kind for source in details.sources}
    if "conversations" not in kinds:
        return "held-out text"
    return "held-out answers" if kinds == {"conversations"} else "held-out text and answers"


def _scores_table(details: CardDetails) -> list[str]:
    if not details.bits_per_byte:
        return ["Not measured."]
    names = {score: score.replace("source/", "source ") for score in details.bits_per_byte}
    intro = f"Bits per byte on {_held_out(details)}; lower is better."
    if not details.before or details.base_model is None:
        rows = [f"| {names[score]} | {value:.4f} |" for score, value in details.bits_per_byte.items()]
        return [intro, "", "| text | bits per byte |", "| --- | --- |", *rows]
    rows = [
        f"| {names[score]} | {f'{details.before[score]:.4f}' if score in details.before else 'not measured'} | {value:.4f} |"
        for score, value in details.bits_per_byte.items()
    ]
    return [
        f"{intro} Before: the model that this run continued from.",
        "",
        "| text | before | after |",
        "| --- | --- | --- |",
        *rows,
    ]
