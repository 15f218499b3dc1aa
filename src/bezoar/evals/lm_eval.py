"""Benchmark tasks of LM-Eval-Harness, run as a library on a stack: no merge and no export."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bezoar.bounds import Count, Natural
from bezoar.chat.templates import Template
from bezoar.cost import Estimate
from bezoar.data.files import locate_file
from bezoar.data.rows import read_file
from bezoar.errors import RecipeError
from bezoar.evals.harness_tasks import configs
from bezoar.evals.outcome import CachePart, EvalContext, ItemText, Outcome, cache_parts_in
from bezoar.evals.power import detectable
from bezoar.evals.section import Section, item_rows
from bezoar.evals.stats import Score, score
from bezoar.io import Row, content_hash
from bezoar.progress import Progress
from bezoar.references import FileRef

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from bezoar.model.stack import Stack

FEWSHOT_SEED = 1234  # the harness's default
UNCACHED = cache_parts_in(None)
NO_TEMPLATE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Task:
    """A task of the harness's registry, or a local file."""

    name: str = ""
    """Name in the harness's registry; with `path`, the name in scores."""
    path: FileRef = ""
    """Local file in place of a registered task; its columns say which form of task it is."""
    shots: Natural | None = None
    """Number of few-shot examples; null for the task's own."""
    limit: Count | None = None
    """Number of items, the first ones; null for all."""
    template: str = "{query}"
    """For a file: what turns a row's {query} into the prompt."""
    max_tokens: Count = 256
    """For a file: most tokens of a written answer."""

    def __post_init__(self) -> None:
        if not self.name and not self.path:
            raise ValueError("a task needs a registered name or the path of a file; add one")
        if "{query}" not in self.template:
            raise ValueError("template has no {query}, the place of a row's question; add it")
        if not self.path and (self.template != "{query}" or self.max_tokens != 256):
            raise ValueError(
                "template and max_tokens have no effect on a registered task; remove them"
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
        if not self.path:
            return None
        num = sum(1 for _ in read_file(self.located(), ""))
        return min(self.limit, num) if self.limit else num


@dataclass(frozen=True)
class LmEval(Section):
    """Benchmark tasks of LM-Eval-Harness: registered ones, or local files of questions.

    In bfloat16 the log-probability of a choice carries rounding of about 0.15 nats, which depends
    on what is scored beside it (as on the batch size in the harness itself); in float32 1e-4.

    Example: {tasks: [{name: arc_easy, limit: 500}, {path: questions.jsonl}]}
    """

    tasks: tuple[Task, ...]
    """Tasks with different names."""
    chat_template: bool = False
    """Put every prompt into the recipe's template; without it prompts are plain text."""

    def __post_init__(self) -> None:
        titles = [task.title for task in self.tasks]
        if not titles or len(set(titles)) < len(titles):
            raise ValueError("lm_eval needs tasks with different names; name each one")

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """Every task on the named model; one that only answers is asked for the written tasks."""
        if context.answers_only:
            from bezoar.evals.harness_models import AskLM

            lm = AskLM(context.ask_model(model))
            return self.run_lm(lm, cache_part, {"template": "the endpoint's"})
        stack = context.open_model(model)
        return self.measure(stack, context.template, context.progress, cache_part)

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Of the tasks that are local files."""
        counts = {task.title: task.count() for task in self.tasks}
        return {title: detectable(num) for title, num in counts.items() if num}

    def measure(
        self,
        stack: "Stack",
        template: Template,
        progress: Progress | None = None,
        cache_part: CachePart = UNCACHED,
    ) -> Outcome:
        """Every task on a stack."""
        from bezoar.evals.harness_models import StackLM

        lm = StackLM(stack, template, progress)
        names: dict[str, str] = {}
        if self.chat_template:
            names["template"] = template.kind
            names["template_hash"] = content_hash(lm.chat_template(True))
        return self.run_lm(lm, cache_part, names)

    def run_lm(
        self, lm: "LM", cache_part: CachePart = UNCACHED, template: Mapping[str, str] = NO_TEMPLATE
    ) -> Outcome:
        """Every task on any model of the harness; `template` names what prompts are put into."""
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        parts = [
            cache_part(f"lm_eval {task.title}", partial(_run_task, task, lm, self.chat_template))
            for task in self.tasks
        ]
        facts_of_task = {name: facts for part in parts for name, facts in part.info.items()}
        conditions = {
            f"{name}/": {**{key: facts[key] for key in ("shots", "version", "items")}, **template}
            for name, facts in facts_of_task.items()
        }
        # a task of the registry may stand for several: facts are by the harness's own names
        info = {
            "num_cut_prompts": sum(f.get("num_cut_prompts", 0) for f in facts_of_task.values()),
            "version": version("lm_eval"),
            "chat_template": self.chat_template,
            **template,
            "tasks": facts_of_task,
            "conditions": conditions,
        }
        outcome = Outcome(info={"lm_eval": info})
        for part in parts:
            outcome += Outcome(part.scores, part.items, texts=part.texts)
        return outcome


def _run_task(task: Task, lm: "LM", chat_template: bool) -> Outcome:
    """One task, which in the registry may stand for several."""
    from lm_eval.evaluator import evaluate

    # 1) the number of examples: the harness's own option would overrule tasks that fix theirs
    loaded = _load(task)
    for harness_task in loaded["tasks"].values():
        if task.shots is not None:
            harness_task.set_config(key="num_fewshot", value=task.shots)
        elif harness_task.get_config("num_fewshot") is None:
            harness_task.set_config(key="num_fewshot", value=0)
        harness_task.set_fewshot_seed(seed=FEWSHOT_SEED)
    # 2) run, with the harness's own progress bars out of sight
    num_cut = getattr(lm, "num_cut", 0)
    chat = {"apply_chat_template": chat_template, "fewshot_as_multiturn": chat_template}
    with contextlib.redirect_stderr(io.StringIO()):
        results = evaluate(lm, loaded, limit=task.limit, bootstrap_iters=0, **chat)
    # 3) our own scores with intervals, from the harness's values by item
    outcome = Outcome()
    for name, samples in results["samples"].items():
        hashes = [[s["doc_hash"], s["prompt_hash"], s["filter"]] for s in samples]
        facts = {
            "shots": loaded["tasks"][name].config.num_fewshot,
            "version": str(results["versions"].get(name)),
            "n": results["n-samples"][name],
            "items": content_hash(hashes),
        }
        higher_is_better = results["higher_is_better"].get(name, {})
        scores, items = _scores(name, samples, higher_is_better, results["results"][name])
        outcome += Outcome(scores, items, {name: facts}, {name: _texts(samples)})
    next(iter(outcome.info.values()))["num_cut_prompts"] = getattr(lm, "num_cut", 0) - num_cut
    outcome.scores.extend(_group_scores(results))
    return outcome


def _load(task: Task) -> dict[str, Any]:
    """What the harness evaluates. RecipeError for an unknown name or data that cannot be had.

    Bars of the libraries, which would cut through ours, are out of sight here as well.
    """
    if task.path:
        from lm_eval.api.task import ConfigurableTask

        task_configs = configs(task.located(), task.title, task.template, task.max_tokens)
        tasks = {config["task"]: ConfigurableTask(config=config) for config in task_configs}
        return {"tasks": tasks, "groups": {}, "group_map": {}}
    # names are checked first: the harness would fetch data sets before it misses one
    manager = registry()
    if task.name not in manager.all_tasks:
        import difflib

        near = difflib.get_close_matches(task.name, manager.all_tasks, 1)
        hint = f"did you mean {near[0]}?" if near else "`lm_eval ls tasks` lists them."
        raise RecipeError(f"lm_eval.tasks: no task is named {task.name!r}; {hint}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return dict(manager.load([task.name]))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        fault = f"lm_eval task {task.name}: its data could not be had ({reason})"
        raise RecipeError(f"{fault}; check the network, or name a local file.") from error


@cache
def registry() -> Any:
    """The harness's task registry; it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _texts(samples: Sequence[Row]) -> list[ItemText]:
    """All that is in an item, and its longest part, which is the question."""
    strings = {str(sample["doc_id"]): _strings(sample["doc"]) for sample in samples}
    whole = [(i, "\n".join(parts), "") for i, parts in strings.items()]
    return whole + [(i, max(parts, key=len), "") for i, parts in strings.items() if parts]


def _strings(value: Any) -> list[str]:
    """Every text in a row."""
    if isinstance(value, str):
        return [value]
    members = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple):
        return []
    return [text for member in members for text in _strings(member)]


def _scores(
    task: str, samples: Sequence[Row], better: dict[str, bool], totals: dict[str, Any]
) -> tuple[list[Score], list[Row]]:
    """A score a metric (and filter, if there are several), with a record an item."""
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            table = tables.setdefault((metric, sample["filter"]), {})
            table[str(sample["doc_id"])] = sample[metric]
    scores: list[Score] = []
    items: list[Row] = []
    for (metric, chosen_filter), by_item in tables.items():
        name = f"{task}/{metric}" + (f" {chosen_filter}" if chosen_filter != "none" else "")
        values = list(by_item.values())
        # values by item allow paired tests; the harness itself keeps only means
        if all(isinstance(value, int | float) for value in values):
            result = score(name, values, task)
            items += item_rows(name, list(by_item), list(map(float, values)))
        else:  # a metric of all items together, such as F1
            total = float(totals[f"{metric},{chosen_filter}"])
            result = Score(name, total, None, None, len(values), 0, task)
        scores.append(replace(result, higher_is_better=better.get(metric, True)))
    return scores, items


def _group_scores(results: dict[str, Any]) -> list[Score]:
    """The harness's own means over groups of tasks, with its standard error if it gives one."""
    scores = []
    for group, values in (results.get("groups") or {}).items():
        sizes = results["n-samples"]
        members = [task for task in results["group_subtasks"].get(group, []) if task in sizes]
        n = sum(sizes[task]["effective"] for task in members)
        for key, value in values.items():
            metric = key.split(",")[0]
            if not isinstance(value, float) or "_stderr" in key:
                continue
            error, low, high = values.get(key.replace(metric, f"{metric}_stderr", 1)), None, None
            # the harness writes "N/A" for an error that it did not compute
            if isinstance(error, float):
                low, high = value - 1.96 * error, value + 1.96 * error
            scores.append(Score(f"{group}/{metric}", value, low, high, n, 0, group))
    return scores
