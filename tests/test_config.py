"""The keys of a run: what they say in files, what a saved run remembers, and what is refused before any work."""

import importlib.util
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tonsai_jax import config as config_module
from tonsai_jax.ablation.plan import load_ablation, plan_runs
from tonsai_jax.cli import default_workdir
from tonsai_jax.config import default_config, model_config, stages_of
from tonsai_jax.config_checks import validate
from tonsai_jax.errors import UserError
from tonsai_jax.samples.quickstart import VOCAB_SIZE as SAMPLE_VOCAB_SIZE
from tonsai_jax.saved_config import differences, from_json, to_json
from tonsai_jax.stages import SourceSize, Stage

ROOT = Path(__file__).parents[1]
VARIANTS = (
    ("gpt2_500m", "exact"), ("gpt2_500m", "muon"), ("khmer", "350m"), ("khmer", "800m"), ("moe_1b", "mixture"),
    ("moe_1b", "muon"), ("moe_small", "t4"), ("small", "gpu"),
)  # fmt: skip
CONFIGS = [(path, "") for path in sorted((ROOT / "configs").glob("*.py"))]
CONFIGS += [(ROOT / "configs" / f"{name}.py", variant) for name, variant in VARIANTS]
every_config = pytest.mark.parametrize(
    ("path", "variant"), CONFIGS, ids=[path.stem + variant for path, variant in CONFIGS]
)


def load(path: Path, variant: str) -> tuple[str, ConfigDict]:
    """The docstring and the config of a config file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.__doc__ or "", module.get_config(variant) if variant else module.get_config()


def changed(**values: object) -> ConfigDict:
    """The default config with these keys, written section__key."""
    config = default_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


# The defaults


def test_the_defaults_are_valid() -> None:
    validate(default_config())


def test_a_typing_error_in_a_key_fails_where_it_is_made() -> None:
    with pytest.raises(AttributeError, match="num_layers"):
        default_config().model.num_layer = 3


def test_every_key_has_its_meaning_next_to_it() -> None:
    """Those of the model have theirs in `ModelConfig`."""
    lines = Path(config_module.__file__).read_text(encoding="utf-8").splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"    config\.[a-z0-9_.]+ = (?!ConfigDict)", line)]
    names = {lines[number].split(" = ")[0].strip().removeprefix("config.") for number in keys}
    assert names == {path for path, _ in _leaves(default_config()) if not path.startswith("model.")}
    speak_for_themselves = {
        "optimizer.beta1", "optimizer.beta2", "optimizer.epsilon", "sample.prompts", "sample.max_new_tokens",
    }  # fmt: skip
    for number in keys:
        key = lines[number].split(" = ")[0].strip().removeprefix("config.")
        own = lines[number] if not lines[number].endswith("(") else lines[number + 1]
        above = lines[number - 1].lstrip().startswith("#")
        assert key in speak_for_themselves or "  # " in own or above, f"{key} has no comment"


def _leaves(config: ConfigDict, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key in config:
        value = config[key]
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [(prefix + key, value)]
    return found


# Saved and read again


def test_a_saved_config_reads_back_as_it_was() -> None:
    stages = ({"steps": 9}, {"steps": 1, "seq_len": 64, "weights": {"khmer": 1.0}})
    config = changed(stages=stages, data__weights={"khmer": 0.6, "english": 0.4}, model__num_layers=3)
    again = from_json(to_json(config))
    assert to_json(again) == to_json(config)
    assert stages_of(again) == stages_of(config)
    assert again.is_locked


def test_a_config_of_an_older_program_gets_the_new_keys_and_loses_the_old_ones() -> None:
    saved = to_json(changed(steps=77))
    del saved["loss"]["z_loss"], saved["seed"]
    saved["model"]["rope"] = True
    config = from_json(saved)
    assert to_json(config) == to_json(changed(steps=77))


def test_differences_are_told_key_by_key() -> None:
    old = to_json(changed(data__weights={"khmer": 1.0}))
    new = to_json(changed(steps=2000, model__remat="full", data__weights={"khmer": 0.5, "english": 0.5}))
    assert differences(old, new) == [
        "data.weights: {'khmer': 1.0} -> {'khmer': 0.5, 'english': 0.5}",
        "model.remat: auto -> full",
        "steps: 1000 -> 2000",
    ]
    assert differences(old, old) == []


# Stages


def test_a_run_without_stages_is_one_stage_of_the_top_level_keys() -> None:
    config = changed(steps=10, seq_len=64, global_batch_size=4)
    assert stages_of(config) == (Stage(steps=10, seq_len=64, global_batch_size=4, weights={}),)


def test_a_stage_takes_from_the_top_level_what_it_does_not_say() -> None:
    weights = {"khmer": 0.6, "english": 0.4}
    stages = ({"steps": 9}, {"seq_len": 128, "global_batch_size": 2, "weights": {"khmer": 1}})
    config = changed(steps=10, seq_len=64, global_batch_size=4, data__weights=weights, stages=stages)
    assert stages_of(config) == (
        Stage(steps=9, seq_len=64, global_batch_size=4, weights=weights),
        Stage(steps=10, seq_len=128, global_batch_size=2, weights={"khmer": 1}),
    )


def test_a_length_in_tokens_or_epochs_becomes_steps() -> None:
    sources = {"km": SourceSize(0.5, 640), "en": SourceSize(0.5, 1280)}
    shape = {"seq_len": 64, "global_batch_size": 1}
    assert stages_of(changed(steps=0, tokens=6401.0, **shape))[0].steps == 101
    epochs = changed(steps=0, epochs=2.0, **shape)
    assert stages_of(epochs, sources)[0].steps == 60
    assert stages_of(epochs)[0].steps == 0  # not known before the data is
    validate(epochs)  # nor refused for it
    stages = changed(**shape, stages=({"epochs": 1, "epochs_of": "km"}, {"steps": 7}, {"tokens": 128}))
    assert [stage.steps for stage in stages_of(stages, sources)] == [20, 7, 2]
    stages = changed(steps=0, epochs=1.0, epochs_of="km", **shape, stages=({}, {"steps": 7}))
    assert [stage.steps for stage in stages_of(stages, sources)] == [20, 7]


def test_a_key_of_an_earlier_version_is_read_under_its_new_name() -> None:
    saved = to_json(changed(micro_batch_size=4))
    saved["device_batch_size"] = saved.pop("micro_batch_size")
    assert from_json(saved).micro_batch_size == 4


def test_a_key_that_was_replaced_is_no_reason_to_refuse_an_earlier_run() -> None:
    saved = to_json(changed())
    saved["eval"] = {"every": 7, "max_batches": 50}
    config = from_json(saved)
    assert (config.eval.every, config.eval.tokens) == (7, default_config().eval.tokens)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": ({"step": 5},)}, r"stages\[0\]\.step: no such key; did you mean 'steps'\?"),
        ({"stages": ({"steps": 5}, 7)}, r"stages\[1\]=7 must be a dict with some of the keys steps, tokens, epochs"),
        ({"stages": ({"steps": 5}, {"seq_len": 0})}, r"stages\[1\]\.seq_len=0 must be a whole number of at least 1"),
        ({"stages": ({"steps": 0.5},)}, r"stages\[0\]\.steps=0.5 must be a whole number"),
        ({"stages": ({"weights": 3},)}, r"stages\[0\]: weights=3 must be a dict such as"),
        ({"steps": 0}, "config: no length; set one of steps, tokens, epochs above 0"),
        ({"steps": -5}, r"config\.steps=-5 must be a whole number above 0"),
        (
            {"tokens": 1e6},
            r"config: steps=1000 and tokens=1000000.0 each give the length; .* set the others to 0",
        ),
        ({"stages": ({"steps": 5, "epochs": 2},)}, r"stages\[0\]: steps=5 and epochs=2 each give the length"),
        ({"steps": 0, "epochs": float("inf")}, r"config\.epochs=inf must be a number above 0"),
        ({"epochs_of": "km"}, r"config\.epochs_of='km' is for a length in epochs, but steps=1000 gives it"),
        ({"data__weights": {"khmer": -1.0}}, "weight of source 'khmer' is -1.0; weights are numbers of at least 0"),
        ({"data__weights": {"khmer": float("nan")}}, "weight of source 'khmer' is nan"),
        ({"data__weights": {"khmer": "much"}}, "weight of source 'khmer' is 'much'"),
        ({"data__weights": {"khmer": 0.0}}, "are all zero; give at least one source a positive weight"),
        ({"data__weights": "khmer"}, "weights='khmer' must be a dict such as"),
    ],
)
def test_stages_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stages_of(changed(**values))


# Values that cannot work


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seq_len": 2048}, "model.context_length=1024 is shorter than seq_len=2048"),
        ({"stages": ({}, {"seq_len": 4096})}, "model.context_length=1024 is shorter than seq_len=4096"),
        ({"model__num_heads": 7}, "model.d_model=768 is not divisible by model.num_heads=7"),
        ({"model__remat": "half"}, "model.remat='half' is not known"),
        ({"model__vocab_size": -1}, "model.vocab_size=-1"),
        ({"micro_batch_size": -1}, "micro_batch_size=-1 must be at least 0"),
        ({"loss__chunk_tokens": 0}, "loss.chunk_tokens=0 must be at least 1"),
        ({"loss__z_loss": -0.1}, "loss.z_loss=-0.1 must be at least 0"),
        ({"log_every": 0}, "log_every=0 must be at least 1"),
        ({"checkpoint__every": 0}, "checkpoint.every=0 must be at least 1"),
        ({"checkpoint__keep_last": 0}, "checkpoint.keep_last=0 must be at least 1"),
        ({"eval__every": -1}, "eval.every=-1 must be at least 0"),
        ({"sample__top_p": 0.0}, r"sample.top_p=0.0 must be in (0, 1]"),
        ({"sample__top_p": 1.5}, r"sample.top_p=1.5 must be in (0, 1]"),
        ({"sample__min_p": 1.5}, "sample.min_p=1.5 must be in [0, 1]"),
        ({"sample__repetition_penalty": 0.0}, "sample.repetition_penalty=0.0 must be above 0"),
        ({"sample__stop": ("",)}, "sample.stop=('',) must be texts of at least one character"),
        ({"sample__temperature": -1.0}, "sample.temperature=-1.0 must be at least 0"),
        ({"mesh__data": 0}, "mesh.data=0 must be -1 (what the others leave) or at least 1"),
        ({"mesh__fsdp": 0}, "mesh.fsdp=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"optimizer__learning_rate": 0.0}, "optimizer.learning_rate=0.0 must be above 0"),
        ({"optimizer__learning_rate": float("nan")}, "optimizer.learning_rate=nan must be above 0"),
        ({"optimizer__epsilon": 0.0}, "optimizer.epsilon=0.0 must be above 0"),
        ({"optimizer__beta2": 1.0}, "optimizer.beta2=1.0 must lie in [0, 1)"),
        ({"optimizer__final_ratio": 1.5}, "optimizer.final_ratio=1.5 must lie in [0, 1]"),
        ({"optimizer__weight_decay": -0.1}, "optimizer.weight_decay=-0.1 must be at least 0"),
        ({"optimizer__embedding_rate": -1.0}, "optimizer.embedding_rate=-1.0 must be at least 0"),
        ({"optimizer__max_skipped_steps": 0}, "optimizer.max_skipped_steps=0 must be at least 1"),
        ({"spikes__action": "rollback"}, "spikes.action='rollback' is not known; did you mean 'roll_back'?"),
        ({"spikes__window": 1}, "spikes.window=1 must be at least 5"),
        ({"optimizer__schedule": "cosin"}, "optimizer.schedule='cosin' is not known; did you mean 'cosine'?"),
        (
            {"steps": 50},
            "optimizer.warmup_steps=100 is more than the steps of the run, 50; add for instance "
            "--config.optimizer.warmup_steps=5, or train at least 100 steps",
        ),
        ({"optimizer__schedule": "wsd"}, "optimizer.decay_steps=0 must be above 0 for optimizer.schedule=wsd"),
        ({"optimizer__decay_steps": 9}, "optimizer.decay_steps=9 is for optimizer.schedule=wsd; cosine falls until"),
        ({"optimizer__name": "adam"}, "optimizer.name='adam' is not known; did you mean 'adamw'?"),
        ({"optimizer__momentum": 1.0}, "optimizer.momentum=1.0 must lie in [0, 1)"),
        ({"optimizer__mu_dtype": "float16"}, "optimizer.mu_dtype='float16' is not known; did you mean"),
        (
            {"data__sample_questions": True},
            "data.sample_questions=True needs a model; add --config.init_from=runs/quickstart",
        ),
        ({"distill__teachers": ("",)}, "distill.teachers=('',) must be a tuple of workdirs, such as ("),
        ({"distill__weight": -0.1}, "distill.weight=-0.1 must lie in [0, 1]"),
        ({"distill__step": "newer"}, "distill.step='newer' is not known; did you mean 'newest'?"),
        (
            {"distill__teachers": ("runs/a",), "loss__objective": "dpo"},
            "distill.teachers=('runs/a',) is for a run that learns the next token, not for loss.objective=dpo; leave it empty",
        ),
        ({"optimizer__rate_of": 0.5}, "optimizer.rate_of=0.5 must be a dict such as {'token_embedding': 0.5}"),
        ({"optimizer__rate_of": {"bias": -1}}, "optimizer.rate_of: factor of 'bias' is -1; factors are numbers of"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_key(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        validate(changed(**values))


# The files in configs/


@every_config
def test_every_config_file_is_valid_and_tells_its_command(path: Path, variant: str) -> None:
    doc, config = load(path, variant)
    validate(config)
    name = f"configs/{path.name}" + (f":{variant}" if variant else "")
    commands = [line.split() for line in doc.splitlines() if line.startswith("    python -m tonsai_jax.train")]
    command = next(words for words in commands if words[words.index("--config") + 1] == name)
    assert "--workdir" in command or default_workdir(name).name == path.stem + (f"_{variant}" if variant else "")
    assert config.data.dir.startswith("data/")
    assert not [word for word in command if word.startswith("--config.data.dir=")]  # the command works as it is written
    assert "Hardware:" in doc
    assert "Time:" in doc
    assert "Score:" in doc


@every_config
def test_the_parameters_that_a_docstring_counts_are_there(path: Path, variant: str) -> None:
    doc, config = load(path, variant)
    if "--config.init_from=" in doc:
        return  # the model is the one that it names
    told = re.search(r"--vocab-size (\d+)", doc)
    vocab_size = int(told[1]) if told else config.model.vocab_size or SAMPLE_VOCAB_SIZE
    count = model_config(config, vocab_size).num_parameters / 1e6
    stated = re.findall(r"(\d+(?:\.\d+)?) M\b(?! tokens)", doc)
    assert stated, f"{path.name} does not say how many parameters its model has"
    assert any(abs(float(number) - count) <= 0.5 * 10 ** -len(number.partition(".")[2]) for number in stated), (
        f"{path.name} says {stated} M, but there are {count:.2f} M"
    )


# They score all of their held-out text, 22,000 tokens: far below `eval.tokens`, and documented scores are of all of it.
SCORE_ALL_OF_LITTLE = {"quickstart", "sft/quickstart"}
# It compares tokenizers: the same number of tokens would be another text for each of them.
SCORES_ALL = "ablations/usual_recipe:"


def shipped() -> dict[str, ConfigDict]:
    """The config of every file in configs/ that trains, with its variants, and of every variant of the ablations, by name."""
    folder, found = ROOT / "configs", {}
    for path in (*sorted(folder.glob("*.py")), *sorted(folder.glob("sft/*.py"))):
        name = path.relative_to(folder).with_suffix("").as_posix()
        doc, found[name] = load(path, "")
        for variant in set(re.findall(rf"\b{path.stem}\.py:(\w+)", doc)):
            found[f"{name}:{variant}"] = load(path, variant)[1]
    for path in sorted(folder.glob("ablations/*.py")):
        ablation, _ = load_ablation(path)
        if Path(ablation.base).stem not in SCORE_ALL_OF_LITTLE:
            for run in plan_runs(path, ablation, Path("nowhere"), num_seeds=1):
                found[f"ablations/{path.stem}:{run.variant}"] = run.config
    return found


def test_evaluation_takes_at_most_3_percent_of_the_compute_of_every_shipped_config() -> None:
    """A forward pass costs a third of a training step on the same tokens."""
    configs = shipped()
    assert {
        "small:10mb",
        "small:gpu",
        "gpt2_500m:exact",
        "sft/dpo:laptop",
        "ablations/schedule:cosine",
    } <= configs.keys()
    shares = {
        name: max(
            config.eval.tokens / 3 / (config.eval.every * stage.global_batch_size * stage.seq_len)
            for stage in stages_of(config)
        )
        for name, config in configs.items()
        if config.eval.every
    }
    assert {name for name, share in shares.items() if not share <= 0.03} == SCORE_ALL_OF_LITTLE
    without_limit = {name for name, config in configs.items() if config.eval.tokens == 0}
    assert all(name.startswith(SCORES_ALL) for name in without_limit), "0 scores everything, however much there is"


def test_a_variant_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"variant='small' is not known; known are: exact, muon"):
        load(ROOT / "configs" / "gpt2_500m.py", "small")


def test_a_run_without_a_workdir_goes_to_one_named_after_its_config() -> None:
    assert default_workdir("configs/gpt2_124m.py") == Path("runs/gpt2_124m")
    assert default_workdir("configs/gpt2_500m.py:exact") == Path("runs/gpt2_500m_exact")
    assert default_workdir("/home/dara/mine.py") == Path("runs/mine")


def test_configs_with_one_name_in_two_folders_get_two_workdirs() -> None:
    assert default_workdir("configs/quickstart.py") == Path("runs/quickstart")
    assert default_workdir("configs/sft/quickstart.py") == Path("runs/sft_quickstart")
    assert default_workdir("/home/configs/tonsai_jax/configs/sft/full.py:laptop") == Path("runs/sft_full_laptop")
    assert default_workdir("/home/dara/mine.py") == Path("runs/mine")


def test_weights_and_biases_must_be_there_before_anything_begins() -> None:
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("Weights & Biases is installed")
    config = default_config()
    config.wandb.project = "khmer"
    with pytest.raises(UserError, match=re.escape("wandb.project='khmer' needs Weights & Biases: uv sync")):
        validate(config)
