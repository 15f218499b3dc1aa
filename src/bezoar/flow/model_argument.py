"""What a name on the command line stands for: a model, an endpoint, a file of answers."""

from dataclasses import dataclass, field
from pathlib import Path

from bezoar.chat.templates import ChatML, Hermes, HubTemplate, OpenBezoarTemplate, Template
from bezoar.data.rows import suffix
from bezoar.errors import RecipeError
from bezoar.evals.answer_files import columns
from bezoar.flow.inspect_run import find_run, tell_earlier
from bezoar.flow.recipe import AnyBackend, lineage
from bezoar.flow.references import located
from bezoar.flow.rundir import RunDir
from bezoar.flow.yaml_document import read_yaml
from bezoar.flow.yaml_loader import build
from bezoar.io import cached_hash, content_hash, read_object
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.engine import Engine
from bezoar.llm.scripted import Scripted
from bezoar.model.find import added_names
from bezoar.model.resolve import adapter_identity, resolve_model, weights_identity
from bezoar.model.spec import ModelSpec
from bezoar.reading import user_path
from bezoar.stage import TrainedStage
from bezoar.terminal import Console

TEMPLATES: dict[str, Template] = {
    "chatml": ChatML(),
    "hermes": Hermes(),
    "openbezoar": OpenBezoarTemplate(),
    "hub": HubTemplate(),
}


@dataclass(frozen=True)
class ModelArgument:
    """A model with weights (`spec`, `adapters`), a language model that is asked (`backend`), or a
    file of `answers`."""

    label: str
    template: Template = field(default_factory=ChatML)
    spec: ModelSpec | None = None
    adapters: tuple[Path, ...] = ()
    backend: AnyBackend | None = None
    answers: Path | None = None
    lineage: tuple[TrainedStage, ...] = ()
    """Of a model of a run the training stages, lowest first."""
    run: RunDir | None = None
    """The run of the model, which has the rows of these stages."""
    engine: Engine | None = None
    """What draws the answers of a model with weights in place of this process."""
    rank: int = 0
    """The largest of the adapters that the engine is to serve."""

    @property
    def identity(self) -> str:
        """Names all that changes what it says."""
        if self.spec:
            return content_hash(
                weights_identity(self.spec),
                [adapter_identity(a) for a in self.adapters],
                repr(self.template),
                *([self.engine.kind, self.engine.settings] if self.engine else []),
            )
        return str(self.backend.identity) if self.backend else cached_hash(self.answers)  # type: ignore[arg-type]

    @property
    def scores(self) -> bool:
        """Whether it is a reward model."""
        return self.spec is not None and any(
            (folder / "score_head.json").is_file()
            for folder in (Path(self.spec.path), *self.adapters)
        )

    @property
    def own_questions(self) -> str:
        """The file itself where its answers stand beside what was asked, as AlpacaEval's do, else
        ""."""
        return str(self.answers) if self.answers and "instruction" in columns(self.answers) else ""


def find_model(
    name: str, *, base: str = "", dtype: str = "bfloat16", template: str = ""
) -> ModelArgument:
    """`FOLDER` (a model or an adapter), a Hub id or a packaged model, `RUN:STAGE`, `MODEL@URL` or a
    YAML file with a backend's keys, or a file: answers of FastChat or AlpacaEval, or a script of
    pattern and reply.

    `base` is what an adapter stands on, by default what its adapter_config.json says. `template` is
    by default that of the run, else the tokenizer's own, else ChatML. RecipeError for what is none
    of these.
    """
    if template and template not in TEMPLATES:
        names = ", ".join(TEMPLATES)
        raise RecipeError(f"--template {template}: no such template; take one of {names}.")
    run, _, stage = name.rpartition(":")
    if "@http" in name:
        model, _, url = name.partition("@")
        return ModelArgument(name, backend=_endpoint(model, url))
    path = user_path(name)
    if path.suffix in (".yaml", ".yml"):
        value, lines = read_yaml(path)
        backend = build(AnyBackend, value, path=path, lines=lines)
        return ModelArgument(name, backend=located(backend, path.parent))
    if path.is_file() and suffix(path):
        if {"pattern", "reply"} <= columns(path).keys():
            return ModelArgument(name, backend=Scripted(str(path.resolve())))
        return ModelArgument(name, answers=path)
    if run and (Path(run) / "resolved.json").is_file():
        return _of_run(name, Path(run), stage, template)
    if (path / "resolved.json").is_file():
        advice = f"name one of its models as {name}:STAGE (`bezoar ask` puts a prompt to all)"
        raise RecipeError(f"{name}: this is a run directory; {advice}.")
    if (path / "scores.json").is_file():
        advice = "compare it with another one, without --judge"
        raise RecipeError(f"{name}: this is a finished evaluation; {advice}.")
    adapters: tuple[Path, ...] = ()
    if (path / "adapter_config.json").is_file():
        stage_dir = path.resolve().parent
        if not base and (stage_dir.parent / "resolved.json").is_file():
            # it may stand on other adapters, which the run knows
            return _of_run(name, stage_dir.parent, stage_dir.name.partition("-")[2], template)
        config = read_object(path / "adapter_config.json") if not base else {}
        adapters, base = (path,), base or str(config.get("base_model_name_or_path") or "")
        if not base:
            advice = "name it with --base"
            raise RecipeError(f"{name}: its adapter_config.json names no base model; {advice}.")
    if dtype not in ("bfloat16", "float32"):
        raise RecipeError(f"--dtype {dtype}: no such precision; take bfloat16 or float32.")
    added = added_names(adapters[0]) if adapters else ()
    spec = ModelSpec(base or name, dtype=dtype, add_tokens=added)  # type: ignore[arg-type]
    if not template:
        template = "hub" if has_template(resolve_model(spec.path)) else "chatml"
    return ModelArgument(name, TEMPLATES[template], spec, adapters)


def _endpoint(model: str, url: str) -> Endpoint:
    try:
        return Endpoint(url, model)
    except ValueError as error:
        raise RecipeError(f"{model}@{url}: {error}.") from None


def _of_run(name: str, run: Path, stage: str, template: str) -> ModelArgument:
    from bezoar.flow.chat import check_name

    recipe, run_dir = find_run(run)
    check_name(recipe, run_dir, stage)
    tell_earlier(recipe, run_dir, stage, Console(stderr=True))
    spec, adapters = run_dir.model(recipe, stage)
    used = TEMPLATES[template] if template else recipe.template
    trained = [s._replace(folder=run_dir.stage_dir(s.name)) for s in lineage(recipe, stage)]
    return ModelArgument(name, used, spec, tuple(adapters), lineage=tuple(trained), run=run_dir)


def has_template(folder: Path) -> bool:
    """Whether a model's folder holds a chat template."""
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        config.is_file() and bool(read_object(config).get("chat_template"))
    )
