"""The model card: what a person who finds the model needs to know, taken from the records of the run."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json
from tonsai_jax.huggingface.names import family_of
from tonsai_jax.model.config import Lora, ModelConfig
from tonsai_jax.reporting.metrics_file import metrics_rows, scores_of
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.text.normalize import Normalization

FAMILY_NAMES = {"gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3", "mixtral": "Mixtral", "gemma3": "Gemma 3"}
LANGUAGE_NAMES = {"km": "Khmer", "en": "English"}
_FIRST_TOKEN = {
    True: "The tokenizer puts the end-of-text token before a prompt, because in training every document follows one.",
    False: "In training an end-of-text token comes before every document. The tokenizer does not put it before a prompt:\n"
    "for one that begins a document, put it there yourself.",
}


@dataclasses.dataclass(frozen=True)
class SourceDetails:
    """A source of training text; a weight, license or Hub dataset ("owner/name") that was not recorded is None."""

    name: str
    language: str
    weight: float | None
    license: str | None = None
    dataset: str | None = None


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

    Raises `UserError` for a license that cannot be a name on the Hub.
    """

    name: str = ""
    step: int | None = None
    sources: tuple[SourceDetails, ...] = ()
    bits_per_byte: Mapping[str, float] = dataclasses.field(default_factory=dict)
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)
    base_model: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch("[a-z0-9][a-z0-9.-]*", self.license):
            raise UserError(
                f"license {self.license!r}: not a name on the Hugging Face Hub; write it as there, for instance apache-2.0"
            )

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(source.language for source in self.sources))


def details_of_run(workdir: Path, config: Any, step: int, rows: Mapping[str, str] | None = None) -> CardDetails:
    """Reads the details from the run's folder and its token rows; token rows that are gone, or others now, are left out.

    Args:
      workdir: the run's folder.
      config: the run's config.
      step: the step of the exported checkpoint.
      rows: the identity of each source's rows in training (`RowsManifest.identity`); None does not compare.
    """
    manifest_sources = []
    with contextlib.suppress(UserError):
        manifest = read_manifest(config.data.dir)
        if rows is None or all(manifest.identity(name) == rows.get(name) for name in manifest.sources):
            manifest_sources = list(manifest.sources.values())
    weights = {source.name: source.weight for source in manifest_sources} | dict(config.data.weights or {})
    staged = any("weights" in stage for stage in config.stages)
    sources = tuple(
        SourceDetails(
            source.name, source.language, None if staged else weights[source.name], source.license, source.dataset
        )
        for source in manifest_sources
    )
    return CardDetails(
        name=workdir.name,
        step=step,
        sources=sources,
        bits_per_byte=_last_scores(workdir / "metrics.jsonl", step),
        before=_last_scores(workdir / "metrics.jsonl", 0),
        base_model=_base_model(config.get("init_from", "")),
    )


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
    if init_from.startswith("hf:"):
        return init_from.removeprefix("hf:").partition("@")[0]
    folder = Path(init_from).expanduser().absolute()
    if (folder / "checkpoints").is_dir():
        earlier = read_json(folder / "config.json").get("init_from", "")
        return _base_model(earlier) or folder.name
    cached = re.search(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/", f"{folder}/")
    return f"{cached[1]}/{cached[2]}" if cached else folder.name


def model_card(
    name: str,
    model_config: ModelConfig,
    details: CardDetails,
    *,
    normalization: Normalization | None = None,
    tokenizer_normalizes: bool = False,
    starts_documents: bool = True,
) -> str:
    """The text of README.md for the Hugging Face Hub: metadata, usage, data, scores and limits.

    Args:
      name: the model's name.
      model_config: of the model.
      details: what is known about the run.
      normalization: what the training text went through; None if it is not known.
      tokenizer_normalizes: whether the exported tokenizer does the frequent part of it.
      starts_documents: whether the exported tokenizer puts the token before a prompt that came before every document.
    """
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
            'inputs = tokenizer("ប្រទេសកម្ពុជា", return_tensors="pt")',
            "ids = model.generate(**inputs, max_new_tokens=64, do_sample=True, temperature=0.8, top_k=50)",
            "print(tokenizer.decode(ids[0], skip_special_tokens=True))",
            "```",
            "",
            _FIRST_TOKEN[starts_documents],
            "",
            *(_normalization_section(normalization, tokenizer_normalizes) if normalization else []),
            "## Training data",
            "",
            *_sources_table(details),
            "",
            "## Scores",
            "",
            *_scores_table(details),
            "",
            "## Limits",
            "",
            *_limits(details.base_model),
            "",
        ]
    )


def adapter_card(name: str, model_config: ModelConfig, lora: Lora, base_model: str, details: CardDetails) -> str:
    """The text of README.md for adapters of LoRA: metadata, how to load them, data, scores and limits.

    Args:
      name: the adapter's name.
      model_config: of the model that they belong to.
      base_model: where that model is: ORG/NAME of the Hub, or a folder.
      details: what is known about the run.
    """
    metadata = _metadata(name, family_of(model_config), details) | {"library_name": "peft"}
    if "base_model" in metadata:
        metadata["base_model_relation"] = "adapter"
    metadata["tags"] = [*metadata["tags"], "lora"]
    shown = details.base_model or Path(base_model).name
    steps = "" if details.step is None else f", trained for {count_of(details.step, 'step')}"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True) + "---",
            "",
            f"# {name}",
            "",
            f"LoRA adapters for {_linked(shown)}: {lora.num_parameters(model_config):,} parameters, rank {lora.rank}, "
            f"alpha {lora.alpha:g}{steps}, made with tonsai_jax. Without that model they are of no use.",
            "",
            "## How to use it",
            "",
            "```python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'folder = "."  # this folder, or its name on the Hub',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            f'base = AutoModelForCausalLM.from_pretrained("{shown}")',
            "model = PeftModel.from_pretrained(base, folder)  # or .merge_and_unload() for a model without adapters",
            "```",
            "",
            "## Training data",
            "",
            *_sources_table(details),
            "",
            "## Scores",
            "",
            *_scores_table(details),
            "",
            "## Limits",
            "",
            *_limits(shown),
            "",
        ]
    )


def _linked(base_model: str) -> str:
    return f"[{base_model}](https://huggingface.co/{base_model})" if "/" in base_model else f"the model `{base_model}`"


def _limits(base_model: str | None) -> list[str]:
    if base_model is None:
        return [
            "This is a base model: it continues text and has not been taught to follow instructions. It can state false",
            "things, and repeats what its training text holds, prejudice included. Check the licenses of its training",
            "text before you share it.",
        ]
    return [
        f"It was trained further on plain text. What else {base_model} can do, such as following instructions, was not",
        "measured again and can be worse now. It can state false things, and repeats what its training text holds,",
        f"prejudice included. The limits and the license of {base_model} hold for this model too; check also the licenses",
        "of the training text before you share it.",
    ]


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
            "dataset": {"name": f"{texts[score]}, held-out text", "type": datasets.get(texts[score], texts[score])},
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


def _normalization_section(normalization: Normalization, tokenizer_normalizes: bool) -> list[str]:
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
        'inputs = tokenizer(normalize_prompt("ប្រទេសកម្ពុជា"), return_tensors="pt")',
        "```",
        "",
        "Programs that do not read `tokenizer.json`, such as llama.cpp, need it for every text.",
        "",
    ]


def _sources_table(details: CardDetails) -> list[str]:
    if not details.sources:
        return ["Not recorded with this run."]
    rows = [
        f"| {source.name} | {source.language} | {'by stage' if source.weight is None else f'{source.weight:.1%}'} "
        f"| {source.license or 'not recorded'} |"
        for source in details.sources
    ]
    return ["| source | language | share of training tokens | license |", "| --- | --- | --- | --- |", *rows]


def _scores_table(details: CardDetails) -> list[str]:
    if not details.bits_per_byte:
        return ["Not measured."]
    names = {score: score.replace("source/", "source ") for score in details.bits_per_byte}
    intro = "Bits per byte on held-out text; lower is better."
    if not details.before or details.base_model is None:
        rows = [f"| {names[score]} | {value:.4f} |" for score, value in details.bits_per_byte.items()]
        return [intro, "", "| text | bits per byte |", "| --- | --- |", *rows]
    rows = [
        f"| {names[score]} | {f'{details.before[score]:.4f}' if score in details.before else 'not measured'} | {value:.4f} |"
        for score, value in details.bits_per_byte.items()
    ]
    return [f"{intro} Before: {details.base_model}.", "", "| text | before | after |", "| --- | --- | --- |", *rows]
