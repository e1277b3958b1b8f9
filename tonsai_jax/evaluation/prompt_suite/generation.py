"""Lets a model continue the prompts of a suite, and checks what it writes."""

from collections.abc import Callable, Sequence

from tonsai_jax.chat.conversation import Message
from tonsai_jax.chat.template import ChatTemplate, TemplateError
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.prompt_suite.checks import check
from tonsai_jax.evaluation.prompt_suite.prompts import Prompt
from tonsai_jax.evaluation.prompt_suite.results import Result, Results
from tonsai_jax.inference.generate import Generator
from tonsai_jax.sampling import Sampling
from tonsai_jax.text.normalize import DEFAULT, normalize_prompt

MAX_NEW_TOKENS = 48


def run_suite(
    generator: Generator,
    suite: Sequence[Prompt],
    *,
    chat: bool,
    max_new_tokens: int = MAX_NEW_TOKENS,
    sampling: Sampling = Sampling(),  # noqa: B008  # frozen
    seed: int = 0,
    toxicity: Callable[[str], float] | None = None,
) -> Results:
    """Continues each prompt and checks the continuation. A prompt for which the model's context is too short is left out.

    Args:
      chat: whether a prompt is a user's message, which the model answers.
      max_new_tokens: of a prompt that does not say it itself.
      sampling: how tokens are drawn. With the defaults of this function, texts of two models can be compared.
      seed: the same seed, suite and settings give the same texts.
      toxicity: see `check`.

    Raises `UserError` where the model has no chat template, or the template refuses a prompt.
    """
    ids = dict(zip([prompt.id for prompt in suite], _prompt_ids(generator, suite, chat), strict=True))
    limits = {prompt.id: prompt.max_new_tokens or max_new_tokens for prompt in suite}
    fitting = [prompt for prompt in suite if len(ids[prompt.id]) + limits[prompt.id] <= generator.context_length]
    settings = generator.tokenizer.normalization or DEFAULT
    found = {}
    for limit in sorted(set(limits.values())):  # the prompts of one limit share batches
        group = [prompt for prompt in fitting if limits[prompt.id] == limit]
        texts, counts = [""] * len(group), [0] * len(group)
        for number, text, new_tokens in generator.stream_ids(
            [ids[prompt.id] for prompt in group], max_new_tokens=limit, sampling=sampling, seed=seed
        ):
            texts[number] += text
            counts[number] += new_tokens
        for prompt, text, count in zip(group, texts, counts, strict=True):
            continuation = text.lstrip() if chat else text
            values = check(
                continuation,
                prompt="" if chat else prompt.prompt,
                languages=(prompt.language, *prompt.also),
                min_characters=prompt.min_characters,
                ended=count < limit,
                normalize=lambda text: normalize_prompt(text, settings),
                toxicity=toxicity,
            )
            found[prompt.id] = Result(prompt, continuation, values)
    return Results(
        tuple(found[prompt.id] for prompt in fitting),
        left_out=tuple(prompt.id for prompt in suite if prompt.id not in found),
    )


def _prompt_ids(generator: Generator, suite: Sequence[Prompt], chat: bool) -> list[list[int]]:
    if not chat:
        return generator.prompt_ids([prompt.prompt for prompt in suite])
    template = ChatTemplate.of(generator.tokenizer)
    try:
        return [
            template.prompt([Message("user", generator.tokenizer.normalize_prompt(prompt.prompt))]) for prompt in suite
        ]
    except TemplateError as error:
        raise UserError(f"the model's chat template refuses the prompts: {error}") from None
