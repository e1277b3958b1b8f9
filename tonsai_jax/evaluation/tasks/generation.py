"""Answers of one line that a model writes after prompts with worked examples: what generated tasks score."""

from collections.abc import Sequence

from tonsai_jax.inference.generate import BATCH_SIZE, Generator
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.sampling import Sampling

_GREEDY_LINE = Sampling(temperature=0, stop=("\n",))


def one_line_answers(
    generator: Generator,
    examples: Sequence[str],
    questions: Sequence[str],
    most_tokens: Sequence[int],
    *,
    task: str,
) -> tuple[list[str], int]:
    """The line that the model writes after each prompt by greedy decoding, without white space around it.

    A prompt is all examples and then a question. Where one of them does not fit into the model's context, all prompts get fewer
    examples; a question that does not fit alone loses its beginning.

    Args:
      examples: texts that end where the next begins.
      most_tokens: for each question about the most tokens that its answer needs, at most half of the context; all answers of
        a batch get as many as the one that needs most.
      task: for the progress bar.

    Returns:
      (an answer for each question, the number of examples in a prompt).
    """
    context = generator.context_length
    most = [min(tokens, context // 2) for tokens in most_tokens]

    def encoded(shots: int) -> list[list[int]]:
        beginning = "".join(examples[:shots])
        return generator.prompt_ids([beginning + question for question in questions])

    for shots in range(len(examples), -1, -1):
        prompts = encoded(shots)
        if all(len(ids) + new <= context for ids, new in zip(prompts, most, strict=True)):
            break
    prompts = [ids[-(context - new) :] for ids, new in zip(prompts, most, strict=True)]
    # Prompts of about the same length share a batch: a batch is as long as its longest prompt and its longest answer.
    order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), most[number]))
    answers = [""] * len(prompts)
    with progress_bar(task, unit=" answers", total=len(prompts)) as bar:
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            pieces = generator.stream_ids(
                [prompts[number] for number in batch],
                max_new_tokens=max(most[number] for number in batch),
                sampling=_GREEDY_LINE,
                seed=0,
            )
            for place, text, _ in pieces:
                answers[batch[place]] += text
            bar.update(len(batch))
    return [answer.strip() for answer in answers], shots
