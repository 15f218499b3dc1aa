"""An evaluation outside a recipe, in a folder of its own; its models are opened when needed."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bezoar.chat.types import Messages
from bezoar.data.files import locate_file
from bezoar.data.questions import Question
from bezoar.data.rows import suffix
from bezoar.errors import RecipeError
from bezoar.evals.answer_files import answer_file, columns, rescored
from bezoar.evals.bfcl import is_measured
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.given_texts import given_texts, has_texts
from bezoar.evals.outcome import EvalContext, Outcome, read_outcome, read_scores, write_outcome
from bezoar.flow.model_argument import ModelArgument
from bezoar.flow.out import check_evaluation
from bezoar.flow.references import located, refs
from bezoar.flow.yaml_loader import build
from bezoar.io import Row, as_written, cached_hash, content_hash, file_hash, remove
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import EndpointBackend
from bezoar.llm.engine import EngineBackend
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.servers import Servers
from bezoar.llm.types import Ask, Backend
from bezoar.progress import Progress
from bezoar.reading import user_path
from bezoar.stage import TrainedStage

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

_WRITTEN = {"mt_bench", "win_rate", "function_calling", "ifeval"}
"""Sections whose answers a model writes."""


@dataclass
class ModelCache:
    """Each model is opened once. `questions` and `prompts` (by id) are those that the answer files
    respond to."""

    new_pool: Callable[[Backend | EndpointBackend], Pool]
    questions: Sequence[Question] = ()
    prompts: Mapping[str, Messages] = field(default_factory=dict)
    servers: Servers = field(default_factory=Servers)
    pools: dict[tuple[str, bool], Pool] = field(default_factory=dict)
    _stacks: "dict[str, Stack]" = field(default_factory=dict)

    def open(self, subject: ModelArgument) -> "Stack":
        """The loaded model. RecipeError for a model without weights."""
        from bezoar.model.stack import Stack

        if subject.spec is None:
            needed = "a model with weights, not one that only answers"
            raise RecipeError(f"{subject.label}: this needs {needed}.")
        if subject.label not in self._stacks:
            self._stacks[subject.label] = Stack(subject.spec, list(subject.adapters))
        return self._stacks[subject.label]

    def ask(self, subject: ModelArgument) -> Ask:
        """What asks it, through its pool."""
        from bezoar.llm.local import StackBackend

        # told apart by columns: a file has no kind of its own
        if subject.answers and has_texts(columns(subject.answers)):
            return given_texts(subject.answers, self.prompts)
        if subject.answers:
            return answer_file(subject.answers, self.questions)
        key = (subject.label, subject.spec is None)
        if key not in self.pools:
            if subject.backend:
                self.pools[key] = self.new_pool(subject.backend.open())
            elif subject.engine and subject.spec:
                made_of = subject.spec, subject.adapters
                how = subject.template, self.servers, subject.rank
                self.pools[key] = self.new_pool(EngineBackend(subject.engine, made_of, *how))
            else:
                opened = StackBackend(self.open(subject), subject.template)
                self.pools[key] = self.new_pool(opened)
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
    inputs = [locate_file(ref.name, Path(), ref.path) for ref in refs(stage) if ref.kind == "file"]
    stored = _stored(out, stage.model, [*inputs, *map(Path, subjects)])
    file_hashes = [cached_hash(file) for file in inputs + stage.files()]
    identities = {name: subject.identity for name, subject in subjects.items()}
    key = content_hash(asdict(stage), identities, file_hashes, seed)
    model, progress = subjects[stage.model], Progress(stage.model, None, console)
    if stored.get("key") == key:
        with as_written(out):
            done = read_outcome(out)
            for warning in done.warnings():
                progress.say(f"warning: {warning}")
        return done
    with Journal(out / "journal.sqlite") as journal, Servers() as servers:
        questions = [q for s in (stage.mt_bench, stage.win_rate) if s for q in s.load()]
        pool = partial(Pool, journal=journal, budget=Budget(), progress=progress)
        models = ModelCache(pool, questions, _prompts(stage), servers)
        # parts of another key belong to other settings: they stay until an evaluation ends
        work_dir = out / f"parts-{key}"
        if work_dir.is_symlink():
            remove(work_dir)
        work_dir.mkdir(exist_ok=True)
        context = EvalContext(
            template=model.template,
            open_model=lambda name: models.open(subjects[name]),
            ask_model=lambda name: models.ask(subjects[name]),
            ask=lambda name: models.ask(subjects[name]),
            rows=lambda name: [],
            stored_rows=model.run.stored_rows if model.run else None,
            lineage=lambda name: _with_rows(subjects[name], progress),
            progress=progress,
            seed=seed,
            work_dir=work_dir,
            identity=lambda name: subjects[name].identity,
            answers_only=model.spec is None,
        )
        least = ", ".join(f"{name} {value:.2g}" for name, value in stage.detectable({}).items())
        if least:
            progress.say(f"differences that can be shown (80 % power): {least}")
        outcome = stage.measure(context)
    write_outcome(out, stage.model, outcome, key=key, template=model.template.kind)
    for left in out.glob("parts-*"):
        remove(left)
    return outcome


def _prompts(stage: Evaluate) -> dict[str, Messages]:
    """What the sections ask that given texts can answer, by the ids of their items."""
    checked = [section for section in (stage.function_calling, stage.ifeval) if section]
    return {name: asked for section in checked for name, asked in section.prompts().items()}


def _with_rows(subject: ModelArgument, progress: Progress) -> list[TrainedStage]:
    """The training stages of a model of a run whose rows are still there; the others are named."""
    there = [
        stage for stage in subject.lineage if subject.run and subject.run.stage_dir(stage.rows)
    ]
    gone = dict.fromkeys(stage.rows for stage in subject.lineage if stage not in there)
    if gone:
        what = f"the rows of {', '.join(gone)} are gone and were not searched for the items"
        progress.say(f"warning: {subject.label}: {what}.")
    return there


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
    regularisation: str = "",
    *,
    console: Any = None,
) -> Outcome:
    """`evaluate` with the sections that are not empty, in `out` or evals/<name>; a file of
    judgements is scored again."""
    subject = subjects[model]
    gamed = user_path(regularisation) if regularisation else None
    outcome = rescored(subject.answers, gamed) if subject.answers else None
    if outcome:
        if out:
            _stored(out, model, [Path(model), *([gamed] if gamed else [])])
            key = content_hash(subject.identity, file_hash(gamed)) if gamed else subject.identity
            write_outcome(out, model, outcome, key=key)
        return outcome
    if gamed:
        raise RecipeError(f"{model}: --regularisation is for annotations of AlpacaEval; remove it.")
    sections = {name: section for name, section in sections.items() if section}
    if not sections:
        advice = "add --tasks, --mt-bench with --judge, --pairs, --tools or --ifeval"
        raise RecipeError(f"{model}: nothing is asked for; {advice}.")
    if subject.engine and not sections.keys() & _WRITTEN:
        why = f"{' and '.join(sections)} are computed in this process; remove --engine"
        raise RecipeError(f"{model}: {why}.")
    value = {"kind": "evaluate", "model": model, **sections}
    # checked as the keys of a recipe are
    stage: Evaluate = build(Evaluate, value, path=Path("bezoar"), lines={})
    names = [model, stage.win_rate.against] if stage.win_rate else [model]
    folder = "-".join(filter(None, map(short, names))) or "model"
    return evaluate(stage, subjects, out or Path("evals") / folder, console=console)


def short(name: str) -> str:
    """A name on the command line as a folder's name, of its last parts and nothing but words."""
    path = Path(name.partition("@http")[0])
    last = "-".join(path.parts[-2:]) if path.is_dir() else path.name
    return re.sub(r"[^\w.]+", "-", path.stem if path.is_file() else last).strip("-.")


def listed_tasks(
    tasks: str, *, limit: int | None, shots: int | None, query: str, chat_template: bool
) -> Keys:
    """The keys of `lm_eval` for names and files with commas between them."""
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    files = {
        name: {"path": name, "template": query}
        for name in names
        if suffix(Path(name)) or name.startswith(("hub:", "bezoar:", "package:"))
    }
    listed = [{**files.get(name, {"name": name}), "limit": limit, "shots": shots} for name in names]
    return {"tasks": listed, "chat_template": chat_template} if listed else {}


def listed_calls(files: Sequence[str], *, limit: int | None, max_tokens: int | None) -> Keys:
    """The keys of `function_calling` for the leaderboard's files, or a folder of them."""
    found = [path for name in files for path in _files_in(user_path(name))]
    keys = {"bfcl": list(map(str, found)), "limit": limit, "max_tokens": max_tokens}
    return {key: value for key, value in keys.items() if value} if files else {}


def _files_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.glob("BFCL_*.json")) if is_measured(file)]
    if not files:
        what = "the folder has none of the leaderboard's files (BFCL_v4_simple_python.json, ...)"
        raise RecipeError(f"--tools {path}: {what}; check the path.")
    return files


def instructed(file: str, *, limit: int | None, max_tokens: int | None) -> Keys:
    """The keys of `ifeval` for a file, or for the data set by its name on the Hub."""
    ref = "hub:google/IFEval/train" if file == "google/IFEval" else file
    keys = {"file": ref, "limit": limit, "max_tokens": max_tokens}
    return {key: value for key, value in keys.items() if value} if file else {}


def with_judge(judge: ModelArgument | None, verdict: str, more: Keys) -> Keys:
    """The keys of a judged section. RecipeError without a judge."""
    if judge is None:
        kinds = "a model, MODEL@URL, or a backend's YAML file"
        raise RecipeError(f"a judge is needed; name one with --judge ({kinds}).")
    if judge.scores and "against" not in more:
        advice = "name a language model with --judge"
        raise RecipeError(f"{judge.label}: a reward model gives no grades; {advice}.")
    by = {"judge": judge.label, "verdict": verdict}
    if judge.scores:
        by = {"reward_model": judge.label}
    return {**by, **{key: value for key, value in more.items() if value}}


def gold(
    model: ModelArgument, pairs: list[str], *, limit: int | None, verdict: str, reference: str
) -> Keys:
    """The keys of `reward_bench` and, for what can be a judge, `judge_card`."""
    if not pairs:
        return {}
    more = {"pairs": pairs, "limit": limit}
    repeats = 1 if verdict != "logprob" and not model.scores else 0
    return {
        "reward_bench": {**more, "verdict": verdict, "reference": reference},
        "judge_card": {} if reference else {**more, "verdict": verdict, "repeats": repeats},
    }
