"""Our models in lm-eval (github.com/EleutherAI/lm-evaluation-harness): with them it runs any of its tasks, without an export.

Needs the `lm-eval` extra. `tonsai lm-eval` starts it; in Python: `lm_eval.simple_evaluate(model=LMEvalModel(model), tasks=...)`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.requests import Request, encode_pairs
from tonsai_jax.evaluation.likelihood.scorer import Scorer
from tonsai_jax.inference.generate import Generator
from tonsai_jax.inference.load import LanguageModel, load_model, load_run
from tonsai_jax.sampling import Sampling

_NEW_TOKENS = 256  # of an answer where a task sets no limit; lm-eval's own
# Of generation in transformers, as tasks of lm-eval name them; True or a number that changes nothing is left out.
_SAMPLING = {"top_k", "top_p", "min_p", "repetition_penalty"}
_HARMLESS = {"do_sample", "temperature", "until", "max_gen_toks"}


@register_model("tonsai")
class LMEvalModel(LM):
    """A model of ours as lm-eval calls it; scores equal those of lm-eval's "hf" model on the export.

    Chat templates are not supported: lm-eval passes them as text, in which special tokens could not be told from a user's text.

    Args:
      leading_end_of_text: whether the end-of-text id comes before every context, as in training. An exported tokenizer adds it
        too; for a model of others, lm-eval adds what its tokenizer adds, so give the same here.
    """

    def __init__(self, model: LanguageModel, *, leading_end_of_text: bool = True) -> None:
        super().__init__()
        self._model = model = model.for_scoring()
        self._leading = leading_end_of_text
        self._scorer = Scorer(model)
        self._generator = Generator(model.model_config, model.params, model.tokenizer)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """Opens `workdir`, with `step`, or `model`, as the flags of `tonsai lm-eval` name them.

        The batch size and the device of `additional_config` have no effect: rows are batched by tokens, on JAX's device.
        """
        known = {"workdir", "step", "model", "leading_end_of_text"}
        if unknown := arg_dict.keys() - known:
            raise UserError(f"lm-eval model argument {min(unknown)}: not known ({', '.join(sorted(known))})")
        if ("workdir" in arg_dict) == ("model" in arg_dict):
            raise UserError("lm-eval model arguments: workdir=DIR of a run, or model=MODEL, is needed, and not both")
        if "model" in arg_dict:
            model = load_model(str(arg_dict["model"]))
        else:
            model = load_run(str(arg_dict["workdir"]), arg_dict.get("step"))
        return cls(model, leading_end_of_text=bool(arg_dict.get("leading_end_of_text", True)))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(nats, whether greedy decoding gives it) of each continuation."""
        pairs = [request.args for request in requests]
        encoded = encode_pairs(self._model.tokenizer, pairs, leading_end_of_text=self._leading, as_lm_eval=True)
        scores = self._scorer.log_likelihoods(encoded, name="lm-eval")
        return [(score.nats, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Nats of whole texts, each in windows of the model's context.

        As in lm-eval's "hf" model, a leading end-of-text id is a token of the text, predicted from another one.
        """
        tokenizer = self._model.tokenizer
        texts = [tokenizer.normalize_prompt(request.args[0]) for request in requests]
        lead = [tokenizer.end_of_text_id] if self._leading else []
        windows: list[Request] = []
        counts = []
        for ids in tokenizer.encode_batch(texts):
            of_text = get_rolling_token_windows(
                token_list=lead + ids,
                prefix_token=tokenizer.end_of_text_id,
                max_seq_len=self._model.model_config.context_length,
                context_len=1,
            )
            before = len(windows)
            windows += [Request(*make_disjoint_window(window)) for window in of_text]
            counts.append(len(windows) - before)
        scores = iter(self._scorer.log_likelihoods(windows, name="lm-eval"))
        return [sum(next(scores).nats for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The continuation of each context, to before the first of the texts in "until"."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[repr(request.args[1])].append(number)
        for numbers in groups.values():
            settings = normalize_gen_kwargs(requests[numbers[0]].args[1], _NEW_TOKENS)
            most = settings["max_gen_toks"]
            contexts = [requests[number].args[0] for number in numbers]
            pieces = self._generator.stream_ids(
                self._prompts(contexts, most), max_new_tokens=most, sampling=_sampling(settings), seed=0
            )
            for piece in pieces:
                answers[numbers[piece.prompt]] += piece.text
        return answers

    def _prompts(self, contexts: Sequence[str], new_tokens: int) -> list[list[int]]:
        """The ids of each context, cut on the left so that `new_tokens` fit after it."""
        tokenizer = self._model.tokenizer
        room = self._model.model_config.context_length - new_tokens
        if room < 1:
            raise UserError(
                f"a task generates up to {new_tokens} tokens, but the model's context_length is "
                f"{self._model.model_config.context_length}; set max_gen_toks=N in lm-eval's gen_kwargs, with a smaller N"
            )
        encoded = tokenizer.encode_batch([tokenizer.normalize_prompt(context) for context in contexts])
        lead = [tokenizer.end_of_text_id] if self._leading else []
        return [(lead + ids)[-room:] or [tokenizer.end_of_text_id] for ids in encoded]


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    if unknown := settings.keys() - _SAMPLING - _HARMLESS:
        raise UserError(f"a task sets {min(unknown)}={settings[min(unknown)]!r} for generation, which is not supported")
    wanted = {name: settings[name] for name in _SAMPLING & settings.keys()}
    stop = tuple(text for text in settings["until"] if text)
    return Sampling(**({"top_k": 0} | wanted | {"temperature": settings["temperature"], "stop": stop}))
