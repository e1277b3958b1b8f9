"""All tasks by name. To add one, write it in a file of this folder, with a tuple TASKS, and add that here."""

from tonsai_jax.evaluation.tasks import belebele, cloze, commonsense, flores, mkqa, nli, sib200
from tonsai_jax.evaluation.tasks.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for tasks in (
        belebele.TASKS,
        nli.TASKS,
        cloze.TASKS,
        commonsense.TASKS,
        sib200.TASKS,
        flores.TASKS,
        mkqa.TASKS,
    )
    for task in tasks
}
