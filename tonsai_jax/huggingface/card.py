"""The model card: what a person who finds the model needs to know, taken from the records of the run."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tonsai_jax.config import from_json
from tonsai_jax.data.manifest import SourceInfo, read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.huggingface.download import HUB
from tonsai_jax.huggingface.names import family_of
from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.reporting.metrics_file import metrics_rows, scores_of
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.text.normalize import Normalization
from tonsai_jax.training.saved import open_checkpoint

FAMILY_NAMES = {"gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3", "mixtral": "Mixtral", "gemma3": "Gemma 3"}
LANGUAGE_NAMES = {"km": "Khmer", "en": "English", "mul": "several languages"}
# What a run learns from: the kinds of its sources, and the rewards of GRPO.
_LESSONS = {
    "text": "plain text",
    "conversations": "the answers in conversations",
    "pairs": "pairs of a better and a worse answer",
    "rewards": "rewards for its own answers to prompts (GRPO)",
}
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


@dataclasses.dataclass(frozen=True)
class SourceDetails:
    """A source of training text and its kind; a weight, license or Hub dataset ("owner/name") that was not recorded is None."""

    name: str
    language: str
    weight: float | None
    license: str | None = None
    dataset: str | None = None
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class CardDetails:
    """What is known about a run in addition to its model.

    Attributes:
      name: the model's name; if empty, the name of the exported folder is used.
      step: number of optimizer steps.
      sources: the sources of training text.
      bits_per_byte: on held-out text, {"km": 1.2, "source/wiki": 1.3}, by language and by source.
      before: the same of the model that the run continued from; empty if it was not measured.
      base_model: that model: its name on the Hub, "ORG/NAME", or the name of a folder; None for a run from scratch.
      license: the Hub's name for the model's license, "apache-2.0"; if None, the card says that it follows from the text's.
      learned_from: what the run learned from: "text", "conversations", "pairs" or "rewards"; empty if that is not known.
      answers: whether this run, or an earlier one that it continues, taught the model to answer in its chat template.

    Raises `UserError` for a license that cannot be a name on the Hub.
    """

    name: str = ""
    step: int | None = None
    sources: tuple[SourceDetails, ...] = ()
    bits_per_byte: Mapping[str, float] = dataclasses.field(default_factory=dict)
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)
    base_model: str | None = None
    license: str | None = None
    learned_from: tuple[str, ...] = ()
    answers: bool = False

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch("[a-z0-9][a-z0-9.-]*", self.license):
            raise UserError(
                f"license {self.license!r}: not a name on the Hugging Face Hub; write it as there, for instance apache-2.0"
            )

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(source.language for source in self.sources))


def details_of_run(workdir: Path, config: Any, step: int, saved: Mapping[str, Any] | None = None) -> CardDetails:
    """Reads the details from the run's folder and its token rows; token rows that are gone, or others now, are left out.

    Args:
      workdir: the run's folder.
      config: the run's config.
      step: the step of the exported checkpoint.
      saved: the resume metadata of that checkpoint, by which the rows of the training are known again; None does not compare.
    """
    manifest_sources = _sources(config, saved)
    weights = {source.name: source.weight for source in manifest_sources} | dict(config.data.weights or {})
    staged = any("weights" in stage for stage in config.stages)
    sources = tuple(
        SourceDetails(
            source.name,
            source.language,
            None if staged else weights[source.name],
            source.license,
            source.dataset,
            source.kind,
        )
        for source in manifest_sources
    )
    learned_from = _learned_from(config, saved)
    return CardDetails(
        name=workdir.name,
        step=step,
        sources=sources,
        bits_per_byte=_last_scores(workdir / "metrics.jsonl", step),
        before=_last_scores(workdir / "metrics.jsonl", 0),
        base_model=_base_model(config.get("init_from", "")),
        learned_from=learned_from,
        answers=_teaches_answers(learned_from, config) or _answered_before(config.get("init_from", "")),
    )


def _sources(config: Any, saved: Mapping[str, Any] | None) -> list[SourceInfo]:
    """The sources in the run's token rows; none where these are gone, or are others than those in `saved`."""
    with contextlib.suppress(UserError):
        manifest = read_manifest(config.data.dir)
        if saved is None or all(
            manifest.identity(name) == saved["data"]["rows"].get(name) for name in manifest.sources
        ):
            return list(manifest.sources.values())
    return []


def _learned_from(config: Any, saved: Mapping[str, Any] | None) -> tuple[str, ...]:
    """See `CardDetails.learned_from`; a source whose weight is 0 throughout the run does not count."""
    if saved is not None and "grpo" in saved:
        return ("rewards",)
    if config.loss.objective != "next_token":
        return ("pairs",)
    sources = _sources(config, saved)
    usual = config.data.weights or {source.name: source.weight for source in sources}
    mixes = [stage.get("weights") or usual for stage in config.stages] or [usual]
    kinds = {source.kind for source in sources if any(mix.get(source.name, 0) > 0 for mix in mixes)}
    return tuple(kind for kind in _LESSONS if kind in kinds)


def _teaches_answers(learned_from: tuple[str, ...], config: Any) -> bool:
    """Whether a run teaches a model to answer; where its rows are gone, a run that samples answers does."""
    return bool({*learned_from} - {"text"}) if learned_from else bool(config.sample.chat)


def _answered_before(init_from: str) -> bool:
    """Whether a run in the line of runs that led to this model taught it to answer."""
    folder = Path(init_from).expanduser().absolute()
    if not init_from or init_from.startswith(HUB) or not (folder / "checkpoints").is_dir():
        return False
    with contextlib.suppress(UserError):
        saved = open_checkpoint(folder).saved
        config = from_json(saved["config"])
        return _teaches_answers(_learned_from(config, saved), config) or _answered_before(config.init_from)
    return False


def _last_scores(path: Path, step: int) -> dict[str, float]:
    """The last evaluation at or before `step`: {"km": 1.2, "source/wiki": 1.3}."""
    evaluations = (scores_of(row) for row in metrics_rows(path) if row["step"] <= step)
    return next(filter(None, reversed(list(evaluations))), {})


def _base_model(init_from: str) -> str | None:
    """The model that a run continued from: ORG/NAME where it came from the Hub, also through other runs or the Hub's cache.

    Of another folder only the name is for the public.
    """
    if not init_from:
        return None
    if on_hub := hub_model(init_from):
        return on_hub[0]
    folder = Path(init_from).expanduser().absolute()
    if (folder / "checkpoints").is_dir():
        earlier = read_json(folder / "config.json").get("init_from", "")
        return _base_model(earlier) or folder.name
    return folder.name


def hub_model(where: str) -> tuple[str, str | None] | None:
    """The model of the Hub at hf:ORG/NAME@REVISION, or in a folder of the Hub's cache: its ORG/NAME, and its revision if given.

    None for every other folder.
    """
    if where.startswith(HUB):
        name, _, revision = where.removeprefix(HUB).partition("@")
        return name, revision or None
    cached = re.search(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/([^/]+)/", f"{Path(where).expanduser().absolute()}/")
    return (f"{cached[1]}/{cached[2]}", cached[3]) if cached else None


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
    )


def _linked(base_model: str) -> str:
    return f"[{base_model}](https://huggingface.co/{base_model})" if "/" in base_model else f"the model `{base_model}`"


def _lessons(details: CardDetails) -> str:
    return " and ".join(_LESSONS[each] for each in details.learned_from)


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
