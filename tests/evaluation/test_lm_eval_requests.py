"""The tasks that docs/tasks.md calls equal to lm-eval's ask for the same (context, continuation) pairs.

lm-eval's own YAML makes its pairs, with its dataset replaced by a file of made records.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.tasks.test_readers import ARC, BELEBELE, HELLASWAG, PIQA, XNLI
from tonsai_jax.evaluation.tasks.cloze import Cloze
from tonsai_jax.evaluation.tasks.multiple_choice import MultipleChoice
from tonsai_jax.evaluation.tasks.registry import TASKS

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is in the `lm-eval` extra: uv sync --extra lm-eval")

HARD_HELLASWAG = HELLASWAG | {"ctx_b": "", "ctx_a": " A  [title] b", "endings": ["[header] x  y", "b", " c ", "d [e]"]}
RECORDS: dict[str, list[dict[str, Any]]] = {
    "belebele_km": [BELEBELE, BELEBELE | {"question": "អ្វីជ្រៅ?\n", "mc_answer1": " បឹង"}],
    "belebele_en": [BELEBELE],
    "xnli_en": [XNLI, XNLI | {"premise": "And  so on ", "hypothesis": " It rains"}],
    "hellaswag": [HELLASWAG, HARD_HELLASWAG],
    "arc_easy": [ARC],
    "piqa": [PIQA, PIQA | {"goal": 'a "jar"\nwith lines', "sol1": " it's"}],
    "lambada": [{"text": "She ran to the door"}, {"text": "two  spaces before"}],
}
FILES = {
    "belebele_km": "belebele/belebele_khm_Khmr.yaml",
    "belebele_en": "belebele/belebele_eng_Latn.yaml",
    "xnli_en": "xnli/xnli_en.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "piqa": "piqa/piqa.yaml",
    "lambada": "lambada/lambada_openai.yaml",
}


def their_pairs(name: str, folder: Path) -> list[tuple[str, str]]:
    """What lm-eval asks a model for."""
    from lm_eval.tasks import TaskManager

    records = folder / "records.jsonl"
    records.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[name]), encoding="utf-8")
    files = {split: str(records) for split in ("train", "validation", "test")}
    changed = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / FILES[name]),
        "task": "made",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
    }
    (folder / "made.yaml").write_text(json.dumps(changed), encoding="utf-8")  # JSON is YAML
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    task = manager.load(["made"])["tasks"]["made"]
    task.build_all_requests()
    return [instance.args for instance in task.instances]


def our_pairs(name: str) -> list[tuple[str, str]]:
    task = TASKS[name]
    if isinstance(task, Cloze):
        return [task.read(record) for record in RECORDS[name]]
    assert isinstance(task, MultipleChoice)
    questions = [task.read(record) for record in RECORDS[name]]
    return [(q.prompt, q.continuation(choice)) for q in questions for choice in range(len(q.choices))]


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
def test_the_requests_are_those_of_lm_eval(name: str, tmp_path: Path) -> None:
    assert our_pairs(name) == their_pairs(name, tmp_path)
