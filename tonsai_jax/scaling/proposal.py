"""Searches the size, the mix and the length of a run that a budget allows and a fit expects most of."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ml_collections import ConfigDict

from tonsai_jax.config import model_config
from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.saved_config import copy_of
from tonsai_jax.scaling.fit import ScalingFit
from tonsai_jax.scaling.law import Text
from tonsai_jax.scaling.runs import layer_parameters
from tonsai_jax.scaling.shape import WIDTHS, shape_of_width
from tonsai_jax.scaling.speed import Speed, SpeedOf

# Up to 4 readings are nearly as good as new text (arXiv:2305.16264). The runs of the shipped law read Khmer up to 7 times.
USUAL_EPOCHS, MOST_EPOCHS = 4.0, 6.0
WORTH = 0.01  # what more than USUAL_EPOCHS must gain, as a share of the mean bits per byte
SHARE_STEPS = 20  # the mix is searched in steps of 1 / SHARE_STEPS
# Of different text. For text that is read once, the law has no term for the parameters that it is too small for. By
# arXiv:2305.16264 those beyond 6.3 times one for each 20 tokens, a third of a parameter per token, are worth nothing at the usual
# weight decay; with a strong one larger models still gain (arXiv:2509.14786).
LEAST_TOKENS_PER_PARAMETER = 1.0
LEAST_STEPS = 100  # fewer optimizer steps train nothing
WANTED_STEPS = 2000  # a smaller batch is taken until a run has as many
LEAST_SEQUENCES = 8


@dataclass(frozen=True)
class Task:
    """What is to be planned.

    Attributes:
      config: the run that is proposed, but for model, mix and length.
      tokens: of the training text, each counted once, by language.
      bytes_per_token: by language.
      vocab_size: ids of the tokenizer.
      importance: weight of each language's bits per byte in the objective; they sum to 1.
      seconds: of training that the budget allows.
      num_devices: a batch is a multiple of it.
    """

    config: ConfigDict
    tokens: Mapping[str, float]
    bytes_per_token: Mapping[str, float]
    vocab_size: int
    importance: Mapping[str, float]
    seconds: float
    num_devices: int = 1


@dataclass(frozen=True)
class Proposal:
    """A run, and what it is expected to reach.

    Attributes:
      config: of the run, but for its mix.
      layer_parameters, parameters: of the layers, and of the whole model.
      texts: what it reads, by language.
      shares: of the tokens of a batch, by language.
      epochs: how often the text of a language is read.
      seconds: of training.
      tokens_per_second: that `seconds` rests on.
      bits_per_byte: expected, by language.
      margins: half the 90 % interval of it, as a share.
      objective: the weighted mean of `bits_per_byte`.
    """

    config: ConfigDict
    layer_parameters: int
    parameters: int
    shares: dict[str, float]
    epochs: dict[str, float]
    texts: dict[str, Text]
    seconds: float
    tokens_per_second: float
    bits_per_byte: dict[str, float]
    margins: dict[str, float]
    objective: float

    @property
    def width(self) -> int:
        return self.config.model.d_model

    @property
    def tokens(self) -> int:
        """Tokens that the run reads."""
        return self.config.steps * self.config.global_batch_size * self.config.seq_len


class Planner:
    """Proposes runs for a task.

    Args:
      speed_of: the speed of a config's run; it is asked once per width.

    Raises `UserError` at once for a language without a law.
    """

    def __init__(self, task: Task, fit: ScalingFit, speed_of: SpeedOf) -> None:
        for language in task.tokens:
            if language not in fit.by_language:
                raise UserError(
                    f"the fit has no law for {language}, only for {', '.join(fit.by_language)}; "
                    "train short runs of three sizes and three lengths and give their folder as --measured"
                )
        self.task, self.fit = task, fit
        self._configs: dict[int, ConfigDict] = {}
        self._speeds: dict[int, Speed] = {}
        for width in WIDTHS:
            config = with_width(task.config, width)
            parameters = layer_parameters(model_config(config, task.vocab_size))
            if self._configs and parameters * LEAST_TOKENS_PER_PARAMETER > sum(task.tokens.values()):
                break
            speed = speed_of(config)
            if speed is None:
                break  # wider models do not fit either
            self._configs[width], self._speeds[width] = config, speed
            if self._steps(width, task.seconds * speed.tokens_per_second) < LEAST_STEPS:
                break

    def best(self) -> Proposal:
        """The run with the lowest objective.

        A text is read at most `USUAL_EPOCHS` times, unless reading it more often, at most `MOST_EPOCHS` times, gains `WORTH`.
        Raises `UserError` where no run of `LEAST_STEPS` steps fits in the budget and the text.
        """
        found = self._best(list(self._configs))
        if found is None:
            raise UserError(
                f"budget or text do not suffice for {LEAST_STEPS} steps of any model; give more of --gpu-hours or "
                "--cpu-minutes, or more text"
            )
        return self._with_margins(found)

    def alternatives(self, proposal: Proposal) -> dict[str, Proposal]:
        """Other runs in the same budget, by what is different: about half and double the size, and another mix.

        No text is read more often than the proposal was allowed to read it.
        """
        own = proposal.layer_parameters
        max_epochs = USUAL_EPOCHS if max(proposal.epochs.values()) <= USUAL_EPOCHS else MOST_EPOCHS
        smaller = [width for width in self._configs if width < proposal.width]
        larger = [width for width in self._configs if width > proposal.width]
        found: dict[str, Proposal | None] = {}
        for name, widths, factor in (("half the size", smaller, 0.5), ("double the size", larger, 2.0)):
            distances = {width: abs(self._layer_parameters(width) / (factor * own) - 1) for width in widths}
            found[name] = self._search(sorted(widths, key=distances.__getitem__)[:1], max_epochs)
        for by in (0.2, -0.2):
            if shares := _moved(proposal.shares, by):
                found[f"{next(iter(shares))} {by:+.0%}"] = self._best_length(proposal.width, shares, max_epochs)
        return {name: self._with_margins(run) for name, run in found.items() if run}

    def _best_length(self, width: int, shares: Mapping[str, float], max_epochs: float) -> Proposal | None:
        """The best run of this width and mix: the longest one, or a shorter one where more readings would make it worse."""
        longest = self._run(width, shares, max_epochs)
        if longest is None:
            return None
        fewer = range(1, math.ceil(max(longest.epochs.values()) - 0.01))
        shorter = filter(None, (self._run(width, shares, float(epochs)) for epochs in fewer))
        return min((longest, *shorter), key=lambda run: run.objective)

    def _run(self, width: int, shares: Mapping[str, float], max_epochs: float) -> Proposal | None:
        """The longest run of this width and mix; None where it has fewer than `LEAST_STEPS` steps."""
        task, speed, config = self.task, self._speeds[width], self._configs[width]
        limits = [max_epochs * task.tokens[name] / share for name, share in shares.items() if share > 0]
        tokens = min(task.seconds * speed.tokens_per_second, *limits)
        steps = self._steps(width, tokens)
        if steps < LEAST_STEPS:
            return None
        sequences = self._sequences(tokens)
        tokens = steps * sequences * config.seq_len
        texts = {}
        for name, unique in task.tokens.items():
            size = task.bytes_per_token[name]
            texts[name] = Text(unique * size, tokens * shares[name] * size)
        model = self._model(width)
        size = layer_parameters(model)
        bits = self.fit.predict(size, texts)
        config = copy_of(config)
        config.steps, config.global_batch_size = steps, sequences
        config.optimizer.warmup_steps = min(task.config.optimizer.warmup_steps, steps // 20)
        if config.optimizer.schedule == "wsd":
            config.optimizer.decay_steps = steps // 5
        per_device = sequences // task.num_devices
        config.micro_batch_size = _divisor(per_device, speed.micro_batch_size) if speed.micro_batch_size else 0
        return Proposal(
            config=config,
            layer_parameters=size,
            parameters=model.num_parameters,
            shares=dict(shares),
            epochs={name: tokens * share / task.tokens[name] for name, share in shares.items()},
            texts=texts,
            seconds=tokens / speed.tokens_per_second,
            tokens_per_second=speed.tokens_per_second,
            bits_per_byte=bits,
            margins={},
            objective=sum(task.importance[name] * value for name, value in bits.items()),
        )

    def _best(self, widths: Sequence[int]) -> Proposal | None:
        usual, most = (self._search(widths, epochs) for epochs in (USUAL_EPOCHS, MOST_EPOCHS))
        if usual is None or most is None:
            return most
        return most if most.objective < (1 - WORTH) * usual.objective else usual

    def _search(self, widths: Sequence[int], max_epochs: float) -> Proposal | None:
        languages = list(self.task.tokens)
        runs = (self._best_length(width, shares, max_epochs) for width in widths for shares in _mixes(languages))
        return min(filter(None, runs), key=lambda run: run.objective, default=None)

    def _with_margins(self, proposal: Proposal) -> Proposal:
        """Adds the margins, which take too long for every candidate of a search."""
        return dataclasses.replace(proposal, margins=self.fit.margins(proposal.layer_parameters, proposal.texts))

    def _model(self, width: int) -> ModelConfig:
        return model_config(self._configs[width], self.task.vocab_size)

    def _layer_parameters(self, width: int) -> int:
        return layer_parameters(self._model(width))

    def _sequences(self, tokens: float) -> int:
        """Sequences of a step: those of the config, halved until the run has `WANTED_STEPS` steps or a few sequences are left."""
        config = self.task.config
        sequences = config.global_batch_size
        least = max(LEAST_SEQUENCES, self.task.num_devices)
        while sequences % 2 == 0 and sequences // 2 >= least and tokens / (sequences * config.seq_len) < WANTED_STEPS:
            sequences //= 2
        return sequences

    def _steps(self, width: int, tokens: float) -> int:
        return int(tokens / (self._sequences(tokens) * self._configs[width].seq_len))


def with_width(config: ConfigDict, width: int) -> ConfigDict:
    """A copy of the config with the family's model of this width, and a length of one step."""
    config = copy_of(config)
    config.model.update(shape_of_width(width))
    config.steps, config.epochs, config.tokens, config.epochs_of = 1, 0.0, 0.0, ""
    config.optimizer.warmup_steps, config.optimizer.decay_steps = 0, int(config.optimizer.schedule == "wsd")
    return config


def _mixes(languages: Sequence[str]) -> Iterator[dict[str, float]]:
    """All mixes whose shares are whole multiples of 1 / `SHARE_STEPS`, none of them 0."""
    steps = SHARE_STEPS
    if len(languages) == 1:
        yield {languages[0]: 1.0}
        return
    for cuts in itertools.combinations(range(1, steps), len(languages) - 1):
        bounds = (0, *cuts, steps)
        yield {name: (bounds[i + 1] - bounds[i]) / steps for i, name in enumerate(languages)}


def _moved(shares: Mapping[str, float], by: float) -> dict[str, float] | None:
    """The mix with the share of the first language moved and the others scaled; None where a share would vanish."""
    first, *others = shares
    share = round(shares[first] + by, 2)
    if not others or not 0 < share < 1:
        return None
    scale = (1 - share) / (1 - shares[first])
    return {first: share} | {name: shares[name] * scale for name in others}


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return max(each for each in range(1, number + 1) if number % each == 0 and each <= most)
