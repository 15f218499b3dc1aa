"""A whole recipe as it is written, at toy size, before anything is spent.

The stages run through `run_recipe` in a folder of their own, one process each. Only sizes are
smaller: sources read their first rows, models are random ones of the same class, trainings take two
steps with a kill between them, language models answer by a script (flow/toy_size.py,
model/stand_in.py, llm/rehearsed.py).
"""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from bezoar.chat.templates import Template
from bezoar.errors import TrainingError
from bezoar.evals.evaluate import Evaluate
from bezoar.flow.own_process import Done, in_own_process
from bezoar.flow.reach import check_hub
from bezoar.flow.recipe import AnyBackend, Recipe, base_of
from bezoar.flow.run import run_recipe
from bezoar.flow.run_context import summary
from bezoar.flow.rundir import RunDir
from bezoar.flow.toy_size import STEPS, toy_size
from bezoar.io import Row, read_json, read_jsonl
from bezoar.launch import OneProcess
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.local import Local
from bezoar.llm.openvino import Openvino
from bezoar.llm.rehearsed import RehearsedEndpoint, RehearsedLocal, RehearsedOpenvino, RehearsedVllm
from bezoar.llm.vllm import Vllm
from bezoar.model.find import local_folder
from bezoar.model.resolve import PACKAGED
from bezoar.model.spec import ModelSpec
from bezoar.progress import MetricSink
from bezoar.terminal import Console
from bezoar.train import Training
from bezoar.train.stages import Train

NUM_QUESTIONS = 2
"""That an endpoint is really asked."""


class Line(NamedTuple):
    """What a part of the recipe proved or what is wrong with it; `needs` names a part that failed,
    without which it could not be tried."""

    name: str
    proved: str = ""
    fault: str = ""
    seconds: float = 0.0
    needs: str = ""


@dataclass
class Rehearsal:
    """The rehearsal of a recipe in the folder `place`, `offline` without its endpoints."""

    recipe: Recipe
    place: Path
    offline: bool
    report: Callable[[Path], None]
    lines: list[Line] = field(default_factory=list)

    @property
    def run_dir(self) -> RunDir:
        """Of the rehearsal, with its journal beside it."""
        return RunDir(self.place / "runs" / self.recipe.name)

    def run(self) -> Iterator[Line]:
        """Every model, every stage and the report; after a fault, all that does not need it."""
        recipe = self.recipe
        for name, spec, template in self._models():
            yield self._tried(name, partial(self._make, name, spec, template))
        for name in recipe.stages:
            asked = [f"backend {r.name}" for r in recipe.inputs(name) if r.kind == "backend"]
            models = [r.name for r in recipe.inputs(name) if r.kind == "model"]
            bases = [f"model {base_of(recipe, model)}" for model in models]
            needs = [*bases, *asked, *recipe.upstream(name)]
            yield self._tried(name, partial(self._stage, name), needs)
        yield self._tried("report", partial(self.alone, self._report), [next(iter(recipe.stages))])

    def alone(self, work: Callable[[], str], **environment: str) -> Done:
        """Some work in a process of its own."""
        return in_own_process(work, environment)

    def _tried(self, name: str, work: Callable[[], Done], needs: list[str] | None = None) -> Line:
        failed = {line.name for line in self.lines if not line.proved}
        line = Line(name, needs=next((need for need in needs or () if need in failed), ""))
        if not line.needs:
            started = monotonic()
            done = work()
            line = Line(name, done.result, done.fault, monotonic() - started)
        self.lines.append(line)
        return line

    # -- models -----------------------------------------------------------------------------------

    def _models(self) -> Iterator[tuple[str, ModelSpec, Template]]:
        """By line of the table, the models that are computed on this machine."""
        for name, spec in self.recipe.models.items():
            yield f"model {name}", spec, self.recipe.template
        for name, backend in self.recipe.backends.items():
            if isinstance(backend, Local):
                spec = ModelSpec(backend.model, backend.quantize, backend.dtype)
                yield f"backend {name}", spec, backend.template

    def _folder(self, line: str) -> str:
        """Of a model's stand-in."""
        return str(self.place / "models" / line.replace(" ", "-"))

    def _make(self, line: str, spec: ModelSpec, template: Template) -> Done:
        def make() -> str:
            from bezoar.model.stand_in import make_stand_in

            if spec.path not in PACKAGED and local_folder(spec.path) is None:
                check_hub("model", spec.path)
            return make_stand_in(spec, template, Path(self._folder(line)))

        section, name = line.split(" ")
        return self._placed(self.alone(make), self.recipe.at(f"{section}s", name))

    def _placed(self, done: Done, place: str) -> Done:
        """A fault with its place in the recipe, and with the names of the real models."""
        text = done.fault
        for line, spec, _ in self._models():
            text = text.replace(self._folder(line), spec.path)
        known = not text or text.startswith(str(self.recipe.path))
        return done._replace(fault=text if known else f"{place}: {text}")

    # -- stages -----------------------------------------------------------------------------------

    def _stage(self, name: str) -> Done:
        """One stage; a training is killed after its first checkpoint and goes on."""
        trains = isinstance(self.recipe.stages[name], Training)
        cache = str(self.place / "cache")
        sinks = [_end_in_second_step] if trains else []
        done = self.alone(lambda: self._told(name, *sinks), BEZOAR_CACHE=cache)
        if trains and done.killed:
            done = self.alone(partial(self._resume, name), BEZOAR_CACHE=cache)
        elif trains and done.result:
            done = Done(fault="it ended before its second step, with nothing to resume.")
        # the folder that a fault names will be gone
        fault = done.fault.removeprefix(f"stage {name}: ").partition(f"; see {self.place}")[0]
        return self._placed(done._replace(fault=fault), self.recipe.at("stages", name))

    def _resume(self, name: str) -> str:
        """The rest of a training that was killed, and its result as other tools read it."""
        steps: list[int] = []
        told = self._told(name, lambda stage, step, numbers: steps.append(step))
        if min(steps, default=0) != STEPS:
            raise TrainingError("the checkpoint of the killed training was not used.")
        stage = self.recipe.stages[name]
        if isinstance(stage, Train) and "scores" in stage.objective.needs:
            return f"{told}; killed and resumed"
        from bezoar.flow.export import export
        from bezoar.model.stack import Stack

        out, quiet = self.place / "exported" / name, Console(quiet=True)
        how = {"adapter": False, "check": True}
        export(self._part(name), self.run_dir, name, out, **how, card=str, console=quiet)
        _ = Stack(ModelSpec(str(out))).tokenizer
        return f"{told}; killed and resumed, exported and read back"

    def _told(self, name: str, *sinks: MetricSink) -> str:
        """Run one stage; what it did, in words."""
        stage, told = self.recipe.stages[name], ""
        if isinstance(stage, Evaluate):
            for part in stage.named.values():
                # all questions that would be asked, of which two will be
                getattr(part, "load", lambda: None)()
        stats = run_recipe(self._part(name), self.run_dir, log=sinks)[name]
        if stage.gives == "scores":
            scores = read_json(self.run_dir.output_dir(name) / "scores.json")["scores"]
            told = f"{len(scores)} scores; "
        return (told + summary(stats)).rpartition("; ")[0]

    def _part(self, name: str) -> Recipe:
        """The recipe up to a stage, at toy size."""
        recipe, needed = self.recipe, {name}
        for each in reversed(recipe.stages):
            needed |= set(recipe.upstream(each)) if each in needed else set()
        models = {
            each: replace(spec, path=self._folder(f"model {each}"))
            for each, spec in recipe.models.items()
        }
        return replace(
            recipe,
            stages={n: toy_size(stage) for n, stage in recipe.stages.items() if n in needed},
            models=models,
            backends={each: self._backend(each, name) for each in recipe.backends},
            launch=OneProcess(),
            engine=None,
        )

    def _backend(self, name: str, stage: str) -> AnyBackend:
        """A language model as the stage sees it."""
        backend = self.recipe.backends[name]
        if isinstance(backend, Local):
            return RehearsedLocal(**{**vars(backend), "model": self._folder(f"backend {name}")})
        if isinstance(backend, Openvino):
            return RehearsedOpenvino(**vars(backend))
        if isinstance(backend, Vllm):
            return RehearsedVllm(**vars(backend))
        if not isinstance(backend, Endpoint):
            return backend
        num = 0 if self.offline else self._num_questions(name, stage)
        return RehearsedEndpoint(**vars(backend), num_real=num, asked=str(self.place))

    def _num_questions(self, backend: str, stage: str) -> int:
        """Of those that an endpoint is really asked: the first stage leaves one to others that may
        ask in another form."""
        asking = [
            (name, each.kind)
            for name, each in self.recipe.stages.items()
            if any(r.kind == "backend" and r.name == backend for r in self.recipe.inputs(name))
        ]
        shares = len({kind for _, kind in asking}) > 1 and stage == asking[0][0]
        return NUM_QUESTIONS - len(self.questions(backend)) - shares

    def questions(self, backend: str) -> list[Row]:
        """What an endpoint was really asked, with its price."""
        file, identity = self.place / "asked.jsonl", self.recipe.backends[backend].identity
        rows = [row for _, row in read_jsonl(file)] if file.is_file() else []
        return [row for row in rows if row["identity"] == identity]

    def _report(self) -> str:
        self.report(self.run_dir.path)
        return "report and cards written"


def _end_in_second_step(stage: str, step: int, numbers: dict[str, float]) -> None:
    """End the process as a power cut would, behind the first checkpoint."""
    if step == STEPS:
        os.kill(os.getpid(), signal.SIGKILL)
