"""Few-shot prompts whose examples have one another's answers: of a task's prompt that says nothing about the task."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task

from lm_eval_prune.errors import ExampleError

__all__ = ["shuffled_answers"]


def shuffled_answers(task: Task, num_fewshot: int, seed: int, prompt: Callable[[], Any]) -> Any:
    """What `prompt()` gives where the answers of its few-shot examples are shuffled among them; drawn with `seed`.

    `prompt` builds one prompt by the task's own templates, each time from the same examples. No example keeps its
    answer, as far as answers differ: the order is the one of 100 drawn that leaves the fewest in their place.
    Raises ExampleError for tasks without templates, and for less than two shots.
    """
    if not isinstance(task, ConfigurableTask):
        raise ExampleError(f"task {task.task_name}: labels are shuffled for tasks of templates alone, and it has none")
    if num_fewshot < 2:
        raise ExampleError(f"task {task.task_name}: {num_fewshot} shots; shuffled labels need 2 or more")
    answers: list[str] = []

    def noted(place: int, answer: str) -> str:
        answers.append(answer)
        return answer

    with _Answers(task, noted):
        prompt()
    order = _order(answers, random.Random(seed))
    with _Answers(task, lambda place, answer: answers[order[place]]):
        return prompt()


def _order(answers: list[str], rnd: random.Random) -> list[int]:
    places = list(range(len(answers)))
    drawn = [rnd.sample(places, len(places)) for _ in range(100)]
    return min(drawn, key=lambda order: sum(answers[place] == answers[other] for place, other in enumerate(order)))


class _Answers:
    """A block in which each few-shot example's answer is what `answered(its place, its own answer)` gives."""

    def __init__(self, task: ConfigurableTask, answered: Callable[[int, str], str]) -> None:
        self.task, self.answered, self.place = task, answered, 0

    def __enter__(self) -> None:
        build = self.task.build_qa_turn

        def turn(*, q: Any = None, c: Any = None, a: Any = None, **told: Any) -> Any:
            if a is None or a == "":  # the question itself
                return build(q=q, c=c, a=a, **told)
            own = c[a] if c and isinstance(a, int) else a[0] if isinstance(a, list) else str(a)
            self.place += 1
            return build(q=q, c=None, a=self.answered(self.place - 1, own), **told)

        self.task.build_qa_turn = turn

    def __exit__(self, *error: object) -> None:
        del self.task.build_qa_turn
