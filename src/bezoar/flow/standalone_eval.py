"""Models and language models opened when they are first needed, and an evaluation outside a recipe,
in a folder of its own."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bezoar.data.files import locate_file
from bezoar.data.questions import Question
from bezoar.data.rows import suffix
from bezoar.errors import RecipeError
from bezoar.evals.answer_files import answer_file, rescored
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.outcome import EvalContext, Outcome, read_outcome, read_scores, write_outcome
from bezoar.flow.model_argument import ModelArgument
from bezoar.flow.out import check_evaluation
from bezoar.flow.references import located, refs
from bezoar.flow.yaml_loader import build
from bezoar.io import Row, as_written, cached_hash, content_hash, remove
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.types import Ask, Backend
from bezoar.progress import Progress


@dataclass
class ModelCache:
    """Each subject is opened once. `questions` are those that files of answers answer."""

    new_pool: Callable[[Backend], Pool]
    questions: Sequence[Question] = ()
    pools: dict[tuple[str, bool], Pool] = field(default_factory=dict)
    _stacks: dict[str, Any] = field(default_factory=dict)

    def open(self, subject: ModelArgument) -> Any:
        """Its `model.stack.Stack`. RecipeError for a subject without weights."""
        from bezoar.model.stack import Stack

        if subject.spec is None:
            raise RecipeError(
                f"{subject.label}: this needs a model with weights, not one that only answers."
            )
        if subject.label not in self._stacks:
            self._stacks[subject.label] = Stack(subject.spec, subject.adapters)
        return self._stacks[subject.label]

    def ask(self, subject: ModelArgument) -> Ask:
        """What asks it, through its pool."""
        from bezoar.llm.local import StackBackend

        if subject.answers:
            return answer_file(subject.answers, self.questions)
        key = (subject.label, subject.spec is None)
        if key not in self.pools:
            backend = (
                subject.backend.open()
                if subject.backend
                else StackBackend(self.open(subject), subject.template)
            )
            self.pools[key] = self.new_pool(backend)
        return self.pools[key].ask_all


def evaluate(
    stage: Evaluate,
    subjects: Mapping[str, ModelArgument],
    out: Path,
    *,
    console: Any = None,
    seed: int = 0,
) -> Outcome:
    """Run an evaluation whose names are those of `subjects`, into scores.json and items.jsonl of
    the folder `out`.

    Replies are journalled there and finished parts kept, so that the same call goes on after a
    kill, repeats nothing when all is done, and asks only for new judgements when the judge's
    wording changes. RecipeError for a folder of something else.
    """
    stage = located(stage, Path.cwd())
    read = [locate_file(ref.name, Path(), ref.path) for ref in refs(stage) if ref.kind == "file"]
    files, stored = read + stage.files(), _stored(out, stage.model, [*read, *map(Path, subjects)])
    key = content_hash(
        asdict(stage),
        {n: s.identity for n, s in subjects.items()},
        [cached_hash(file) for file in files],
        seed,
    )
    model, progress = subjects[stage.model], Progress(stage.model, None, console)
    if stored.get("key") == key:
        with as_written(out):
            done = read_outcome(out)
            for warning in done.warnings():
                progress.say(f"warning: {warning}")
        return done
    with Journal(out / "journal.sqlite") as journal:
        asked = [
            q for section in (stage.mt_bench, stage.win_rate) if section for q in section.load()
        ]
        world = ModelCache(lambda backend: Pool(backend, journal, Budget(), progress), asked)
        work_dir = out / f"parts-{key}"
        if work_dir.is_symlink():
            remove(work_dir)
        work_dir.mkdir(exist_ok=True)
        given = EvalContext(
            template=model.template,
            open_model=lambda name: world.open(subjects[name]),
            ask_model=lambda name: world.ask(subjects[name]),
            ask=lambda name: world.ask(subjects[name]),
            rows=lambda name: [],
            progress=progress,
            seed=seed,
            work_dir=work_dir,
            identity=lambda name: subjects[name].identity,
            answers_only=model.spec is None,
        )
        least = ", ".join(f"{name} {value:.2g}" for name, value in stage.detectable({}).items())
        if least:
            progress.say(f"differences that can be shown (80 % power): {least}")
        outcome = stage.measure(given)
    write_outcome(out, stage.model, outcome, key=key, template=model.template.kind)
    for left in out.glob("parts-*"):
        remove(left)
    return outcome


def _stored(out: Path, model: str, inputs: Sequence[Path]) -> Row:
    """scores.json of `out`, or an empty table. RecipeError for a folder of something else, or of
    another model."""
    check_evaluation(out, inputs)
    stored = read_scores(out) if (out / "scores.json").is_file() else {}
    if stored and stored["model"] != model:
        raise RecipeError(
            f"{out}: the folder holds the scores of {stored['model']}; name another with --out."
        )
    return stored


Keys = dict[str, Any]


def evaluate_named(
    model: str,
    sections: Keys,
    subjects: Mapping[str, ModelArgument],
    out: Path | None,
    *,
    console: Any = None,
) -> Outcome:
    """`evaluate` with the sections that are not empty, in `out` or evals/<name>; a file of
    judgements is scored again."""
    subject = subjects[model]
    found = rescored(subject.answers) if subject.answers else None
    if found:
        if out:
            _stored(out, model, [Path(model)])
            write_outcome(out, model, found, key=subject.identity)
        return found
    value = {
        "kind": "evaluate",
        "model": model,
        **{name: section for name, section in sections.items() if section},
    }
    if len(value) == 2:
        raise RecipeError(
            f"{model}: nothing is asked for; add --tasks, --mt-bench with --judge, or --pairs."
        )
    stage: Evaluate = build(Evaluate, value, path=Path("bezoar"), lines={})
    against = [stage.win_rate.against] if stage.win_rate else []
    return evaluate(
        stage,
        subjects,
        out or Path("evals") / ("-".join(filter(None, map(short, [model, *against]))) or "model"),
        console=console,
    )


def short(name: str) -> str:
    """A name on the command line as a folder's name: without the folders above it, and nothing but
    words."""
    path = Path(name.partition("@http")[0])
    return re.sub(
        r"[^\w.]+",
        "-",
        path.stem if path.is_file() else "-".join(path.parts[-2:]) if path.is_dir() else path.name,
    ).strip("-.")


def listed_tasks(
    tasks: str, *, limit: int | None, shots: int | None, query: str, chat_template: bool
) -> Keys:
    """The keys of `lm_eval` for names and files with commas between them."""
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    files = {
        name: {"path": name, "template": query}
        for name in names
        if suffix(Path(name)) or name.startswith(("hub:", "bezoar:"))
    }
    listed = [{**files.get(name, {"name": name}), "limit": limit, "shots": shots} for name in names]
    return {"tasks": listed, "chat_template": chat_template} if listed else {}


def with_judge(judge: ModelArgument | None, verdict: str, more: Keys) -> Keys:
    """The keys of a judged section. RecipeError without a judge."""
    if judge is None:
        raise RecipeError(
            "a judge is needed; name one with --judge (a model, MODEL@URL, or a backend's YAML"
            " file)."
        )
    if judge.scores and "against" not in more:
        raise RecipeError(
            f"{judge.label}: a reward model gives no grades; name a language model with --judge."
        )
    by = (
        {"reward_model": judge.label}
        if judge.scores
        else {"judge": judge.label, "verdict": verdict}
    )
    return {**by, **{key: value for key, value in more.items() if value}}


def gold(
    model: ModelArgument, pairs: list[str], *, limit: int | None, verdict: str, reference: str
) -> Keys:
    """The keys of `reward_bench` and, for what can be a judge, `judge_card`."""
    if not pairs:
        return {}
    more = {"pairs": pairs, "limit": limit}
    asked = {
        **more,
        "verdict": verdict,
        "repeats": 1 if verdict == "text" and not model.scores else 0,
    }
    return {
        "reward_bench": {**more, "verdict": verdict, "reference": reference},
        "judge_card": {} if reference else asked,
    }
