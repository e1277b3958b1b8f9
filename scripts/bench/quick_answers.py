"""Counts how many questions about held-out stories a model of configs/sft/quickstart.py answers exactly.

    python scripts/bench/quick_answers.py --workdir runs/sft_quickstart

The stories are made of combinations of hero and subject that training never saw. A conversation is asked question by question,
with the true answers to those before; an answer counts only if every character is right. The model is greedy.
"""

import argparse
import re
from collections import defaultdict
from itertools import islice

from tonsai_jax.chat.template import ChatTemplate
from tonsai_jax.errors import run_command
from tonsai_jax.inference.generate import Generator
from tonsai_jax.inference.load import load_run
from tonsai_jax.reporting.tables import Table, as_text
from tonsai_jax.samples.questions import QUESTIONS, conversations
from tonsai_jax.sampling import Sampling

SEED = 1  # not that of training
KINDS = (
    ("who", r"\bwho\b|អ្នកណា|នរណា"),
    ("where", r"\bwhere\b|ឯណា|ទីណា"),
    ("how many", r"\bhow (many|long)\b|ប៉ុន្មាន"),
    ("what", ""),  # all others
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/sft_quickstart")
    parser.add_argument("--conversations", type=int, default=100, metavar="N", help="in each language (default: 100)")
    parser.add_argument("--wrong", type=int, default=5, metavar="N", help="wrong answers to print (default: 5)")
    args = parser.parse_args()

    run = load_run(args.workdir)
    template, generator = ChatTemplate.of(run.tokenizer), Generator(run.model_config, run.params, run.tokenizer)
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for language in QUESTIONS:
        asked = [
            (conversation[:number], conversation[number].content)
            for conversation in islice(conversations(language, seed=SEED, held_out=True), args.conversations)
            for number in range(1, len(conversation), 2)
        ]
        answers = [""] * len(asked)
        prompts = [template.prompt(messages) for messages, _ in asked]
        for piece in generator.stream_ids(prompts, max_new_tokens=32, sampling=Sampling(temperature=0.0), seed=0):
            answers[piece.prompt] += piece.text
        wrong = 0
        for (messages, truth), answer in zip(asked, answers, strict=True):
            question = re.split(r"(?<=[.!។\"»]) ", messages[-1].content)[-1]
            kind = next(name for name, pattern in KINDS if re.search(pattern, question, re.IGNORECASE))
            turn = "first question" if len(messages) == 1 else "later questions"
            for group in (kind, turn, "all"):
                right[language, group].append(answer == truth)
            if answer != truth and wrong < args.wrong:
                wrong += 1
                print(f"{question} {answer}   (right: {truth})", flush=True)
    groups = [*(name for name, _ in KINDS), "first question", "later questions", "all"]
    rows = [
        [language, group, f"{len(found):,}", f"{sum(found) / len(found):.1%}"]
        for language in QUESTIONS
        for group in groups
        if (found := right[language, group])
    ]
    print(as_text(Table("", ["language", "questions", "asked", "exact"], rows, "llrr")))


if __name__ == "__main__":
    run_command(main)
