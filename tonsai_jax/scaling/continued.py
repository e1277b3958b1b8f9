"""From scratch, or continued from an open model: which of the two a budget is for, with the arithmetic.

A continued run begins with what an open model learned from trillions of tokens. The less text there is to train on, the more of
what a model knows in the end was transferred (arXiv:2102.01293), and a user's text is less than a thousandth of what such a model
has seen. So a run is continued where the budget can do it at all: the model fits in the memory, and the budget reads the user's
text once with it. Where it cannot, a model small enough for the budget is trained from scratch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

BYTES_PER_PARAMETER = 16  # float32 parameters, gradients and two moments


@dataclass(frozen=True)
class OpenModel:
    """An open model, as published.

    Attributes:
      name: on the Hugging Face Hub.
      parameters: all of them; tied embeddings once.
      tokens: that it was trained on.
      source: the report with both figures.
    """

    name: str
    parameters: float
    tokens: float
    source: str


# The smallest first. Models that a run of this project can continue from (docs/adapt.md).
OPEN_MODELS = (
    OpenModel("HuggingFaceTB/SmolLM2-135M", 135e6, 2e12, "arXiv:2502.02737"),
    OpenModel("Qwen/Qwen3-0.6B-Base", 0.6e9, 36e12, "arXiv:2505.09388"),
)


@dataclass(frozen=True)
class Start:
    """Where a run should begin.

    Attributes:
      model: to continue from; None is from scratch.
      reasons: a line for each open model, and the conclusion.
    """

    model: OpenModel | None
    reasons: tuple[str, ...]


def choose_start(tokens: Mapping[str, float], flops_per_second: float, seconds: float, memory_bytes: float) -> Start:
    """Chooses the largest open model that the budget can continue.

    Args:
      tokens: of the user's text, by language.
      flops_per_second: model FLOP/s of all devices together.
      seconds: of training that the budget allows.
      memory_bytes: of a device.
    """
    epoch = sum(tokens.values())
    chosen, reasons = None, []
    for model in OPEN_MODELS:
        flops = 6 * model.parameters * epoch
        times = flops_per_second * seconds / flops
        needed = BYTES_PER_PARAMETER * model.parameters
        about = (
            f"{model.name} ({model.parameters / 1e9:g} B parameters, {model.tokens / 1e12:g} T tokens, {model.source}): "
            f"one epoch of {epoch / 1e6:,.1f} M tokens is 6 x {model.parameters:.3g} x {epoch:.3g} = {flops:.2g} FLOPs"
        )
        fits = needed < memory_bytes
        if times >= 1 and fits:
            chosen = model
            reasons.append(f"{about}; the budget has {times:,.1f} times as many, and the model fits")
        elif not fits:
            reasons.append(f"{about}, and it needs {needed / 1e9:.1f} GB of memory at least, more than there is")
        else:
            reasons.append(f"{about}; the budget has {times:.2g} times as many, less than the epoch")
    if chosen is None:
        reasons.append(
            "from scratch: the budget cannot continue an open model; it trains a model of its own size better"
        )
    else:
        seen = chosen.tokens / epoch
        reasons.append(
            f"continued from {chosen.name}: it has seen {seen:,.0f} times the tokens of this text, and what it learned stays; "
            f"configs/continue_from_hf.py does it, with --config.init_from=hf:{chosen.name}. The proposal is the run from "
            "scratch that it must beat"
        )
    return Start(chosen, tuple(reasons))
