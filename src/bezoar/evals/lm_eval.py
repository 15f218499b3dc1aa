"""Benchmark tasks of LM-Eval-Harness, run as a library on a stack: no merge, no export, no Hub for
local files."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bezoar.chat.templates import Template
from bezoar.cost import Estimate
from bezoar.data.files import locate_file
from bezoar.data.rows import read_file
from bezoar.errors import RecipeError
from bezoar.evals.harness_tasks import configs
from bezoar.evals.outcome import CachePart, EvalContext, Outcome, cache_parts_in
from bezoar.evals.stats import Score, detectable, score
from bezoar.io import Row, content_hash
from bezoar.progress import Progress
from bezoar.references import FileRef

FEWSHOT_SEED = 1234  # the harness's default
NOTHING_KEPT = cache_parts_in(None)
NO_TEMPLATE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Task:
    """A task by its `name` in the harness's registry, or a local file by `path` (its columns:
    `evals/harness_tasks.py`).

    For a file, `template` turns a row's `{query}` into the prompt and `max_tokens` bounds a written
    answer. `shots` None is the task's own number. `limit` takes the first items.
    """

    name: str = ""
    path: FileRef = ""
    shots: int | None = None
    limit: int | None = None
    template: str = "{query}"
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.name and not self.path:
            raise ValueError(
                "a task needs the name of a registered task or the path of a file; add one"
            )
        if "{query}" not in self.template:
            raise ValueError("template has no {query}, the place of a row's question; add it")
        if not self.path and (self.template != "{query}" or self.max_tokens != 256):
            raise ValueError(
                "template and max_tokens are for local files and have no effect on a registered"
                " task; remove them"
            )

    @property
    def title(self) -> str:
        """The name in scores."""
        return self.name or Path(self.path.removeprefix("bezoar:")).stem

    def located(self) -> Path:
        """The local file."""
        return locate_file(self.path, Path(), f"lm_eval task {self.title}")

    def count(self) -> int | None:
        """How many items a local file gives; None for a registered task."""
        return (
            min(self.limit or 1 << 30, sum(1 for _ in read_file(self.located(), "")))
            if self.path
            else None
        )


@dataclass(frozen=True)
class LmEval:
    """Recipe keys. `chat_template` puts every prompt into the recipe's template; without it prompts
    are plain text."""

    tasks: tuple[Task, ...]
    chat_template: bool = False

    def __post_init__(self) -> None:
        titles = [task.title for task in self.tasks]
        if not titles or len(set(titles)) < len(titles):
            raise ValueError(
                "lm_eval needs tasks with different names; give a task a name of its own"
            )

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """`measure` of the named model, a task at a time; one that only answers is asked for the
        written tasks."""
        if given.answers_only:
            from bezoar.evals.harness_endpoint import AskLM

            return self.run_lm(AskLM(given.ask_model(model)), keep, {"template": "the endpoint's"})
        return self.measure(
            given.open_model(model), given.template, progress=given.progress, keep=keep
        )

    def detectable(self, rows: dict[str, Estimate]) -> dict[str, float]:
        """Of the tasks that are local files."""
        counts = {task.title: task.count() for task in self.tasks}
        return {title: detectable(num) for title, num in counts.items() if num}

    def measure(
        self,
        stack: Any,
        template: Template,
        *,
        progress: Progress | None = None,
        keep: CachePart = NOTHING_KEPT,
    ) -> Outcome:
        """Every task on `stack`, a `model.stack.Stack`.

        In bfloat16 the log-probability of a choice carries rounding of about 0.15 nats, which
        depends on what is scored beside it (as it does on the batch size in the harness itself); in
        float32 it carries 1e-4.
        """
        from bezoar.evals.harness_stack import StackLM

        lm = StackLM(stack, template, progress)
        told = (
            {"template": template.kind, "template_hash": content_hash(lm.chat_template(True))}
            if self.chat_template
            else {}
        )
        return self.run_lm(lm, keep, told)

    def run_lm(
        self, lm: Any, keep: CachePart = NOTHING_KEPT, template: Mapping[str, str] = NO_TEMPLATE
    ) -> Outcome:
        """Every task on any `lm_eval.api.model.LM`; `template` says what prompts are put into."""
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        done = [
            keep(f"lm_eval {task.title}", partial(_run_task, task, lm, self.chat_template))
            for task in self.tasks
        ]
        num_cut = sum(one.get("num_cut_prompts", 0) for part in done for one in part.info.values())
        facts: dict[str, Any] = {
            "num_cut_prompts": num_cut,
            "version": version("lm_eval"),
            "chat_template": self.chat_template,
            **template,
            "tasks": {},
            "conditions": {},
        }
        outcome = Outcome([], [], {"lm_eval": facts})
        for part in done:
            facts["tasks"].update(part.info)
            for name, one in part.info.items():
                facts["conditions"][f"{name}/"] = {
                    **{key: one[key] for key in ("shots", "version", "items")},
                    **template,
                }
            outcome += Outcome(part.scores, part.items, texts=part.texts)
        return outcome


def _run_task(task: Task, lm: Any, chat_template: bool) -> Outcome:
    from lm_eval.evaluator import evaluate

    loaded = _load(task)
    for one in loaded["tasks"].values():
        own = one.get_config("num_fewshot")
        if task.shots is not None:
            one.set_config(key="num_fewshot", value=task.shots)
        elif own is None:
            one.set_config(key="num_fewshot", value=0)
        one.set_fewshot_seed(seed=FEWSHOT_SEED)
    num_cut = getattr(lm, "num_cut", 0)
    # the harness's own progress bars, which would cut through ours
    with contextlib.redirect_stderr(io.StringIO()):
        results = evaluate(
            lm,
            loaded,
            limit=task.limit,
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    outcome = Outcome()
    for name, samples in results["samples"].items():
        config = loaded["tasks"][name].config
        facts = {
            "shots": config.num_fewshot,
            "version": str(results["versions"].get(name)),
            "n": results["n-samples"][name],
        }
        facts["items"] = content_hash(
            [[s["doc_hash"], s["prompt_hash"], s["filter"]] for s in samples]
        )
        scores, items = _scores(
            name, samples, results["higher_is_better"].get(name, {}), results["results"][name]
        )
        texts = {str(s["doc_id"]): "\n".join(_strings(s["doc"])) for s in samples}
        outcome += Outcome(scores, items, {name: facts}, {name: list(texts.items())})
    next(iter(outcome.info.values()))["num_cut_prompts"] = getattr(lm, "num_cut", 0) - num_cut
    outcome.scores.extend(_group_scores(results))
    return outcome


def _load(task: Task) -> dict[str, Any]:
    if task.path:
        from lm_eval.api.task import ConfigurableTask

        found = configs(task.located(), task.title, task.template, task.max_tokens)
        return {
            "tasks": {config["task"]: ConfigurableTask(config=config) for config in found},
            "groups": {},
            "group_map": {},
        }
    manager = _registry()
    if task.name not in manager.all_tasks:
        import difflib

        near = difflib.get_close_matches(task.name, manager.all_tasks, 1)
        hint = f"did you mean {near[0]}?" if near else "`lm_eval ls tasks` lists them."
        raise RecipeError(f"lm_eval.tasks: no task is named {task.name!r}; {hint}")
    try:
        return dict(manager.load([task.name]))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise RecipeError(
            f"lm_eval task {task.name}: its data could not be had ({reason}); check the network, or"
            " name a local file."
        ) from error


def _strings(value: Any) -> list[str]:
    """Every text in a row."""
    if isinstance(value, str):
        return [value]
    inner = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, (list, tuple))
        else []
    )
    return [text for item in inner for text in _strings(item)]


@cache
def _registry() -> Any:
    """The harness's task registry; it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _scores(
    task: str, samples: Sequence[Row], better: dict[str, bool], totals: dict[str, Any]
) -> tuple[list[Score], list[Row]]:
    """A score a metric (and filter, where there are several), with a record an item."""
    tables: dict[str, dict[str, Any]] = {}
    keys: dict[str, tuple[str, str]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            name = f"{task}/{metric}" + (
                f" {sample['filter']}" if sample["filter"] != "none" else ""
            )
            tables.setdefault(name, {})[str(sample["doc_id"])] = sample[metric]
            keys[name] = (metric, f"{metric},{sample['filter']}")
    scores: list[Score] = []
    items: list[Row] = []
    for name, values in tables.items():
        metric, key = keys[name]
        if all(isinstance(v, (int, float)) for v in values.values()):
            made = score(name, list(values.values()), task)
            items += [{"benchmark": name, "id": i, "value": float(v)} for i, v in values.items()]
        else:  # a metric of all items together, such as F1
            made = Score(name, float(totals[key]), None, None, len(values), 0, task)
        scores.append(Score(**{**made.to_dict(), "higher_is_better": better.get(metric, True)}))  # type: ignore[arg-type]
    return scores, items


def _group_scores(results: dict[str, Any]) -> list[Score]:
    """The harness's own means over groups of tasks, with its standard error where it gives one."""
    found = []
    for group, values in (results.get("groups") or {}).items():
        n = sum(
            results["n-samples"][t]["effective"]
            for t in results["group_subtasks"].get(group, [])
            if t in results["n-samples"]
        )
        for key, value in values.items():
            metric = key.split(",")[0]
            if not isinstance(value, float) or "_stderr" in key:
                continue
            error = values.get(key.replace(metric, f"{metric}_stderr", 1))
            half = 1.96 * error if isinstance(error, float) else None
            bounds = (value - half, value + half) if half is not None else (None, None)
            found.append(Score(f"{group}/{metric}", value, bounds[0], bounds[1], n, 0, group))
    return found
