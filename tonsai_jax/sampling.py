"""How text is drawn from a model: the settings that `tonsai generate` and a run's samples share."""

import dataclasses

from tonsai_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn, and which text ends a continuation. Raises `UserError` for a value out of range.

    The settings are applied in the order of `transformers`: repetition penalty, temperature, top-k, top-p, min-p.

    Attributes:
      temperature: divides the logits; 0 always takes the most likely token (greedy decoding).
      top_k: draws only from the k most likely tokens; 0 for no limit.
      top_p: draws only from the most likely tokens that together reach this probability (nucleus sampling,
        arXiv:1904.09751); 1 for no limit.
      min_p: draws only from tokens with at least this share of the probability of the most likely one (arXiv:2407.01082);
        0 for no limit.
      repetition_penalty: the logit of a token that the prompt or the continuation already has is divided by this where it is
        positive, and multiplied where it is negative (CTRL, arXiv:1909.05858); 1 changes nothing.
      stop: texts that end a continuation; it is cut before the one that is complete first.
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature} must be at least 0; use 0 for greedy decoding")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k} must be at least 0; use 0 for no limit")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be in (0, 1]; use 1 for no limit")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p={self.min_p} must be in [0, 1]; use 0 for no limit")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"repetition_penalty={self.repetition_penalty} must be above 0; use 1 for no penalty")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise UserError(f"stop={self.stop!r} must be texts of at least one character")
