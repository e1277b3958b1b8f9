"""Every key of a run, once, with its default, unit and meaning; and the stages, the model and the settings that they give.

A config file is Python with a `get_config()` that starts from `default_config()` and sets what differs. The same keys are
set on the command line as `--config.section.key=value`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tonsai_jax.errors import UserError, did_you_mean
from tonsai_jax.model.config import LORA_TARGETS, Lora, ModelConfig
from tonsai_jax.model.presets import preset
from tonsai_jax.sampling import Sampling
from tonsai_jax.stages import Length, MicroBatch, SourceSize, Stage

LENGTH_KEYS = ("steps", "tokens", "epochs")
STAGE_KEYS = (*LENGTH_KEYS, "epochs_of", "seq_len", "global_batch_size", "weights")
ROWS_DIR = "data/tokens"  # where `tonsai data` writes token rows


def default_config() -> ConfigDict:
    """The config with every key at its default; it is locked, so a misspelled key fails on the line that sets it."""
    config = ConfigDict()
    config.seed = 0  # of initial weights, data order and dropout

    # A model to continue from: "hf:ORG/NAME" on the Hugging Face Hub, the folder of a model in its format, or the workdir of
    # another run; empty starts from scratch. What the model is comes from there, and config.model only says how it is computed.
    config.init_from = ""

    # The length of the run: exactly one of steps, tokens and epochs is above 0. Set steps = 0 to give one of the others.
    config.steps = 1000  # optimizer steps
    config.tokens = 0.0  # tokens in all batches together, rounded up to whole steps
    config.epochs = 0.0  # passes over the training rows of the whole mixture, or of the source named next
    config.epochs_of = ""  # source whose epochs count; empty is the mixture

    # The size of a step. A plain run is one stage made of these keys.
    config.seq_len = 1024  # tokens in a sequence
    config.global_batch_size = 32  # sequences in a step, over all devices
    # Sequences of seq_len tokens that a device processes at once; gradients accumulate over micro-batches. A stage with
    # longer sequences processes fewer of them, the same number of tokens. 0: a device's whole share of the batch.
    config.micro_batch_size = 0
    # Several stages, one after the other: a tuple of dicts with the keys that differ from those above, for instance
    # ({"steps": 9000}, {"steps": 1000, "seq_len": 4096, "global_batch_size": 8, "weights": {"khmer": 1.0}}).
    # A stage can give its own length in steps, tokens or epochs (with epochs_of); without one it takes that of the run.
    config.stages = ()

    config.data = ConfigDict()
    config.data.dir = ROWS_DIR  # folder of token rows, which `tonsai data` or `tonsai tokenize` writes
    # True: write a small corpus of stories, its tokenizer and rows to data.dir if absent.
    config.data.sample_corpus = False
    # True: write questions about these stories to data.dir if absent, for the model of init_from, which is then a run.
    config.data.sample_questions = False
    config.data.weights = placeholder(object)  # {source: weight}; None takes the weights in the rows' manifest
    config.data.max_epochs = 0.0  # refuse a run that reads a source more often than this; 0 is no limit
    # Damaged rows that each process skips; at the next one the run saves and ends. Nothing is learned from a skipped row.
    config.data.max_damaged_rows = 0

    config.model = ConfigDict({field.name: field.default for field in dataclasses.fields(ModelConfig)})
    # These defaults are a GPT-2; a Qwen3 learns more in the same time (docs/recipe.md). config.model.update(preset("gpt2")) is
    # the way back.
    config.model.update(preset("qwen3"), rope_theta=10_000.0, num_heads=6, d_ff=2048)

    config.lora = ConfigDict()  # trains narrow matrices next to the kernels of init_from, which stay as they are
    config.lora.rank = 0  # their width; 0 is no LoRA, all parameters are trained
    config.lora.alpha = 16.0  # what they add is multiplied by alpha / rank
    config.lora.dropout = 0.0  # share of their input that is dropped
    config.lora.targets = LORA_TARGETS  # the layers' matrices that get them; not experts and routers

    config.loss = ConfigDict()
    # next_token, or for pairs of answers dpo or ipo (docs/preferences.md); these need init_from.
    config.loss.objective = "next_token"
    config.loss.beta = 0.1  # dpo and ipo only: how strongly the model is kept near the one that it began as
    config.loss.chunk_tokens = 4096  # tokens per device whose logits are in memory at once; 512 is faster on a CPU
    config.loss.z_loss = 0.0  # coefficient of log(Z)^2
    config.loss.load_balance = 0.01  # coefficient of the load-balance loss of a mixture of experts
    config.loss.router_z = 0.001  # coefficient of the routers' log(Z)^2 in a mixture of experts

    config.distill = ConfigDict()  # learns from other models next to the text (docs/low_data.md)
    config.distill.teachers = ()  # workdirs of runs with the same tokenizer, ("runs/seed0", "runs/seed1"); none: the text alone
    config.distill.weight = 0.5  # share of the divergence from the teachers in the loss; the cross-entropy has the rest
    config.distill.step = "newest"  # checkpoint of each teacher: newest or best

    config.optimizer = ConfigDict()  # docs/optimizers.md says which to choose
    config.optimizer.name = "muon"  # muon (for the layers' matrices, AdamW for the rest), adamw, lion or adafactor
    config.optimizer.learning_rate = 2e-3  # peak
    config.optimizer.embedding_rate = 10.0  # muon only: the token embedding's learning rate, as a multiple of the peak
    config.optimizer.rate_of = placeholder(object)  # {name in a parameter's path: factor}, {"token_embedding": 0.5}
    config.optimizer.schedule = "cosine"  # cosine, linear, or wsd: warm-up, stable, decay (1 - sqrt)
    config.optimizer.warmup_steps = 100  # linear, from 0
    config.optimizer.decay_steps = 0  # wsd only: last steps, in which the rate falls
    config.optimizer.final_ratio = 0.1  # learning rate at the end, as a share of the peak
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.95
    config.optimizer.epsilon = 1e-8
    config.optimizer.momentum = 0.95  # muon only, for the matrices that Muon updates
    config.optimizer.mu_dtype = "float32"  # dtype of the stored first moment: float32, or bfloat16 for half the memory
    config.optimizer.weight_decay = 0.1  # on matrices and embeddings only; not on biases and norms
    config.optimizer.cautious_weight_decay = False  # True: decay only weights that the update also moves towards 0
    config.optimizer.frozen_steps = 0  # first steps, in which only the parameters named next change
    config.optimizer.frozen_except = ("token_embedding", "head")  # names in a parameter's path, as in rate_of
    config.optimizer.clip_norm = 1.0  # gradients are scaled down to this norm; 0 is no clipping
    config.optimizer.max_skipped_steps = 10  # stop the run after this many non-finite steps in a row

    config.spikes = ConfigDict()  # of the loss or the gradient norm (docs/reliability.md)
    # warn: print and write them. skip: also leave out updates whose gradient norm is a spike. roll_back: also go back to the last
    # sane checkpoint where a spike does not recover, and jump over the rows since.
    config.spikes.action = "warn"
    config.spikes.window = 100  # last sane steps with which a step is compared
    # A spike is further above their median than this many standard deviations of the noise,
    config.spikes.deviations = 10.0
    config.spikes.loss_rise = 1.0  # and, of the loss, than this many nats
    config.spikes.grad_factor = 10.0  # and, of the gradient norm, than this multiple of the median
    config.spikes.calm_steps = 20  # steps without a spike after which one is over, and after which a checkpoint is sane
    config.spikes.max_in_a_row = 10  # spikes in a row after which there is no recovery
    config.spikes.recover_steps = 50  # steps after the first spike in which it must be over
    config.spikes.max_roll_backs = 3  # after so many the run ends

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices with the same parameters; -1 takes the devices that the other axes leave
    config.mesh.fsdp = 1  # devices over which parameters are split
    config.mesh.expert = 1  # devices over which a layer's experts are spread

    config.runtime = ConfigDict()
    # Folder of compiled programs, unused on a CPU; "" keeps none.
    config.runtime.compile_cache = "~/.cache/tonsai_jax/xla"
    config.runtime.memory_fraction = 0.9  # share of each GPU's memory that JAX reserves at the start
    config.runtime.deterministic = False  # True: the same run gives the same bits on a GPU; slower (docs/runtime.md)
    config.runtime.optimization_level = "auto"  # of XLA: O0 to O3, default (XLA's own); auto is O1 on several GPUs

    # When a run that hangs, or that has lost a process, ends with exit code 75 (docs/reliability.md).
    config.hosts = ConfigDict()
    config.hosts.hang_factor = 20.0  # no step for this many times the median time of a step is a hang,
    config.hosts.hang_seconds = 300.0  # but only after this many seconds; 0 never is
    # For the start without its downloads, and for a step that compiles; 0 is no limit.
    config.hosts.start_seconds = 1800.0
    # For a save, a restore, a batch of an evaluation, samples, the export; 0 is no limit.
    config.hosts.pause_seconds = 3600.0
    config.hosts.peer_seconds = 60.0  # of silence, after which another process counts as dead
    config.hosts.connect_seconds = 300.0  # for which a process waits at its start for the others
    config.hosts.shared_seconds = 30.0  # for which it looks for a file of process 0 in the workdir

    config.profile = ConfigDict()
    config.profile.steps = 0  # steps traced into WORKDIR/profile; 0 traces none
    config.profile.start = 10  # steps of this process before the first traced step

    config.log_every = 10  # steps between lines of metrics
    # Steps between rows with the norms of each layer's parameters and updates; 0 writes none.
    config.layer_norms_every = 0
    config.terminal_view = True  # a live view below the lines, where one process prints to a terminal

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 500  # steps between checkpoints; the last step is always saved
    # Minutes after the last save at which a temporary checkpoint is saved, which the next one replaces; 0 saves none.
    config.checkpoint.every_minutes = 0.0
    config.checkpoint.keep_last = 2  # newest checkpoints kept
    config.checkpoint.keep_every = 0  # also keep every checkpoint at a multiple of this step; 0 keeps none
    config.checkpoint.keep_best = 0  # also keep this many with the best scores; 0 keeps none
    # The metric of the evaluations that is the score: bits_per_byte/km, bits_per_byte/source/wiki, accuracy (of pairs), ...
    # Empty is the mean bits per byte of the languages, or the loss on held-out pairs.
    config.checkpoint.best_metric = ""
    # A folder or URL (gs://, s3://, ...) to which the run is copied in the background, and from which it is brought back
    # where the workdir has nothing; empty is none (docs/mirror.md).
    config.checkpoint.mirror = ""
    # USER/NAME on the Hugging Face Hub that gets an export every few saves; empty is none.
    config.checkpoint.hub_repo = ""
    # Intervals of checkpoint.every between two such exports; a complete run gets a last one.
    config.checkpoint.hub_every = 4
    config.checkpoint.hub_private = True  # False: a new model there is public

    config.eval = ConfigDict()
    config.eval.every = 500  # steps between evaluations, and one at the end; 0 never evaluates
    # Validation tokens in an evaluation, of all sources together, the same ones each time: an even share of each source, and what
    # a small source leaves goes to the others. 0 is all. With the defaults of this file it takes 2 % of the FLOPs of a run;
    # the prompt suite comes on top.
    config.eval.tokens = 1_000_000

    # Continue the prompts of the prompt suite after each evaluation and check the texts (docs/prompt_suite.md). False for a
    # model that learns neither Khmer nor English, or only little of them.
    config.eval.prompt_suite = True

    config.sample = ConfigDict()
    config.sample.every = 0  # steps between written samples; 0 never samples
    config.sample.prompts = ("ប្រទេសកម្ពុជា", "Once upon a time")
    config.sample.chat = False  # True: a prompt is a user's message, which the model answers
    config.sample.max_new_tokens = 64
    # How they are drawn; `Sampling` describes these keys.
    config.sample.temperature = 0.8  # 0 is greedy
    config.sample.top_k = 50  # 0 is no limit
    config.sample.top_p = 1.0  # 1 is no limit
    config.sample.min_p = 0.0  # 0 is no limit
    config.sample.repetition_penalty = 1.0  # 1 is no penalty
    config.sample.stop = ()  # texts that end a sample

    config.wandb = ConfigDict()
    config.wandb.project = ""  # Weights & Biases project; empty is off
    config.wandb.name = ""  # run name there; empty takes the name of the workdir

    config.export = False  # True: when the run is complete, write WORKDIR/export in Hugging Face format

    return config.lock()


def stages_of(config: ConfigDict, sources: Mapping[str, SourceSize] | None = None) -> tuple[Stage, ...]:
    """The run as a list of stages: those of `config.stages`, completed from the top-level keys, or one made of these keys.

    Args:
      sources: sizes of the sources (`RowsManifest.train_sizes`), which a length in epochs needs; without them the steps of
        such a stage are 0.

    Raises `UserError` for a key or value that cannot make a stage, and unless exactly one key gives the length.
    """
    base = {"seq_len": config.seq_len, "global_batch_size": config.global_batch_size, "weights": config.data.weights}
    stages = []
    for number, own in enumerate(config.stages or ({},)):
        where = f"stages[{number}]" if config.stages else "config"
        if not isinstance(own, Mapping):
            raise UserError(f"{where}={own!r} must be a dict with some of the keys {', '.join(STAGE_KEYS)}")
        for key in own:
            if key not in STAGE_KEYS:
                raise UserError(
                    f"{where}.{key}: no such key{did_you_mean(key, STAGE_KEYS)}; a stage has {', '.join(STAGE_KEYS)}"
                )
        merged = base | dict(own)
        for key in ("seq_len", "global_batch_size"):
            if not isinstance(merged[key], int) or merged[key] < 1:
                raise UserError(f"{where}.{key}={merged[key]!r} must be a whole number of at least 1")
        own_length = bool(set(own) & set(LENGTH_KEYS))
        epochs_of = own.get("epochs_of", "" if own_length and "epochs" not in own else config.epochs_of)
        length = _length(where, own if own_length else config, epochs_of)
        weights = _weights(where, merged["weights"])
        steps = length.to_steps(merged["seq_len"] * merged["global_batch_size"], weights, sources)
        stages.append(Stage(steps, merged["seq_len"], merged["global_batch_size"], weights))
    return tuple(stages)


def _length(where: str, keys: Mapping[str, Any] | ConfigDict, epochs_of: str) -> Length:
    given = {key: keys[key] for key in LENGTH_KEYS if key in keys and keys[key] != 0}
    in_config = where == "config"
    if not given:
        example = ", for instance --config.steps=1000" if in_config else ""
        raise UserError(f"{where}: no length; set one of {', '.join(LENGTH_KEYS)} above 0{example}")
    if len(given) > 1:
        found = " and ".join(f"{key}={value!r}" for key, value in given.items())
        example = " (" + " or ".join(f"--config.{key}=0" for key in given) + ")" if in_config else ""
        raise UserError(f"{where}: {found} each give the length; keep one and set the others to 0{example}")
    ((key, value),) = given.items()
    kind = int if key == "steps" else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
        raise UserError(f"{where}.{key}={value!r} must be a {'whole ' if key == 'steps' else ''}number above 0")
    if epochs_of and key != "epochs":
        raise UserError(f"{where}.epochs_of={epochs_of!r} is for a length in epochs, but {key}={value!r} gives it")
    return Length(**{key: value}, epochs_of=epochs_of)


def _weights(where: str, weights: Any) -> dict[str, float]:
    if weights is None:
        return {}
    if not isinstance(weights, Mapping):
        raise UserError(f"{where}: weights={weights!r} must be a dict such as {{'khmer': 0.6, 'english': 0.4}}")
    for source, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise UserError(f"{where}: weight of source {source!r} is {weight!r}; weights are numbers of at least 0")
    if not any(weights.values()):
        raise UserError(f"{where}: weights {dict(weights)} are all zero; give at least one source a positive weight")
    return {source: float(weight) for source, weight in weights.items()}


def model_config(config: ConfigDict, tokenizer_vocab_size: int) -> ModelConfig:
    """The model of the config. Its vocabulary is that of the tokenizer, unless `model.vocab_size` is larger.

    Raises `UserError` if `model.vocab_size` is smaller.
    """
    values = config.model.to_dict()
    if values["vocab_size"] == 0:
        values["vocab_size"] = tokenizer_vocab_size
    if values["vocab_size"] < tokenizer_vocab_size:
        way_out = "set model.vocab_size=0 to take the tokenizer's"
        if config.init_from:
            way_out = (
                "this tokenizer does not belong to the model of init_from; make the token rows with the model's own"
            )
        raise UserError(
            f"model.vocab_size={values['vocab_size']} is smaller than the tokenizer's {tokenizer_vocab_size} ids; {way_out}"
        )
    return ModelConfig(**values)


def set_model(config: ConfigDict, model: ModelConfig) -> list[str]:
    """Sets the keys of `config.model` that say what a model is to those of `model`; the run keeps the others.

    Returns the keys that the config had set to something else, as "d_model=512".
    """
    replaced = []
    defaults = default_config().model
    for field in dataclasses.fields(model):
        value, own = getattr(model, field.name), config.model[field.name]
        if field.metadata["chosen_by_run"] or own == value:
            continue
        if own != defaults[field.name]:
            replaced.append(f"{field.name}={own!r}")
        config.model[field.name] = value
    return replaced


def lora_settings(config: ConfigDict) -> Lora | None:
    """The adapters that are trained, or None where all parameters are; raises `UserError` for a value out of range."""
    return Lora(**config.lora) if config.lora.rank else None


def optimizer_settings(config: ConfigDict) -> dict[str, Any]:
    """The arguments of `make_optimizer`; the keys of the learning rate, clipping and skipping are not among them."""
    names = "name beta1 beta2 epsilon momentum embedding_rate mu_dtype weight_decay cautious_weight_decay rate_of"
    return {name: config.optimizer[name] for name in names.split()}


def loss_settings(config: ConfigDict) -> dict[str, Any]:
    """The arguments of `LossSettings`."""
    return {name: config.loss[name] for name in ("chunk_tokens", "z_loss", "load_balance", "router_z")}


def sampling(config: ConfigDict) -> Sampling:
    """How the samples of a run are drawn; raises `UserError` for a value out of range."""
    try:
        return Sampling(**{field.name: config.sample[field.name] for field in dataclasses.fields(Sampling)})
    except UserError as error:
        raise UserError(f"sample.{error}") from None


def micro_batch(config: ConfigDict) -> MicroBatch:
    """The most that a device processes at once."""
    return MicroBatch(config.micro_batch_size, config.seq_len)
