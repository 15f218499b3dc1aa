"""What would stop a run for sure, found before its first stage: files, models, rows, keys, tokens.

No language model is asked here, and of the Hub a model's config.json alone is fetched.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bezoar.chat.templates import Template
from bezoar.chat.types import Message
from bezoar.data.files import HUB_PREFIX, locate_file, mirrored
from bezoar.data.source import Source
from bezoar.errors import BezoarError, RecipeError
from bezoar.evals.choose import Choose
from bezoar.flow.engine_key import asks_engine
from bezoar.flow.reach import check_hub, hub_names, silent_endpoints
from bezoar.flow.recipe import Recipe, base_of
from bezoar.flow.references import refs
from bezoar.flow.rehearsal_record import advice
from bezoar.flow.row_types import misfits, row_types
from bezoar.flow.training_plan import KnownRows, shortest
from bezoar.flow.yaml_document import KeyPath
from bezoar.io import failure
from bezoar.launch import INSTALL_RAY, Ray
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.local import Local
from bezoar.llm.openvino import Openvino, OpenvinoBackend, check_installed
from bezoar.llm.servers import vllm_command
from bezoar.llm.vllm import Vllm
from bezoar.model.architectures import ARCHITECTURES, refuse_unfit
from bezoar.model.find import local_config, local_folder
from bezoar.model.spec import ModelSpec, unknown_targets
from bezoar.model.tokenizer import shared_tokenizer
from bezoar.synth.drawn_rows import DrawnRows
from bezoar.terminal import plain
from bezoar.train import Training
from bezoar.train.stages import Train

_HELLO = (Message("user", "Hello."), Message("assistant", "Hello."))


def check_files(recipe: Recipe) -> None:
    """RecipeError for files and models of a recipe that are not there or cannot be read."""
    faults: list[str] = []
    stages = [(("stages", name), stage) for name, stage in recipe.stages.items()]
    backends = [(("backends", name), backend) for name, backend in recipe.backends.items()]
    for at, component in (*stages, *backends):
        for ref in refs(component):
            if ref.kind == "file":
                place = recipe.at(*at, *ref.path.split("."))
                with _collected(faults, place):
                    _read_file(ref.name, recipe.path.parent, place)
        if isinstance(component, Source):
            with _collected(faults, recipe.at(*at, "path")):
                _open(component.files())
    for key, path in _models(recipe):
        with _collected(faults, recipe.at(*key)):
            local_folder(path)
    for at, backend in backends:
        if isinstance(backend, Openvino):
            with _collected(faults, recipe.at(*at, "model")):
                backend.check()
    _refuse(faults)


def check_rows(known: KnownRows) -> None:
    """RecipeError for rows of the wrong type, or all of them too long, in the stages that are to
    run."""
    recipe, stale = known.recipe, known.stale
    current = recipe.stages.keys() - stale
    _refuse(list(_no_checkpoints(recipe)))
    _refuse(list(misfits(recipe, row_types(recipe, known.run, current), stale)))
    _refuse(list(_too_long(known)))


def _no_checkpoints(recipe: Recipe) -> Iterator[str]:
    """A sentence for every choice among checkpoints that were never kept."""
    for name, stage in recipe.stages.items():
        below = recipe.stages.get(stage.model) if isinstance(stage, Choose) else None
        if isinstance(stage, Choose) and not (isinstance(below, Train) and below.keep == "all"):
            where = recipe.at("stages", name, "model")
            yield f"{where}: {stage.model} keeps no checkpoints; name a training with `keep: all`"


def _too_long(known: KnownRows) -> Iterator[str]:
    """A sentence for every training stage whose `max_length` drops all of its rows."""
    recipe, stale = known.recipe, known.stale
    for name, stage in recipe.stages.items():
        if name not in stale or not isinstance(stage, Train) or stage.too_long != "drop":
            continue
        source = recipe.stages[stage.rows]
        # of large files and of rows to be drawn only some are read here, and others may be shorter
        is_large = isinstance(source, Source) and source.files() and not source.is_small()
        if (is_large or isinstance(source, DrawnRows)) and stage.rows in stale:
            continue
        rows = known[stage.rows]
        least = shortest(recipe, stage, rows) if rows else 0
        if least > stage.max_length:
            where = recipe.at("stages", name, "max_length")
            yield f"{where}: all rows of {stage.rows} are longer (the shortest: {least}); raise it."


def check_machine(recipe: Recipe, stale: set[str], console: Any = None) -> None:
    """RecipeError for what the stages that are to run lack here: an API key, a name that the Hub
    does not give, a tokenizer that can write the template. Endpoints that accept no connection are
    told on the console alone: they can be started while earlier stages run."""
    faults: list[str] = []
    asked = _asked(recipe, stale)
    for name in asked:
        backend = recipe.backends[name]
        if isinstance(backend, Endpoint):
            with _collected(faults, recipe.at("backends", name, "key_env")):
                backend.open()
        if isinstance(backend, Openvino):
            with _collected(faults, recipe.at("backends", name)):
                check_installed()
        if isinstance(backend, Vllm):
            with _collected(faults, recipe.at("backends", name)):
                vllm_command()
    if recipe.engine and any(asks_engine(recipe.stages[name]) for name in stale):
        with _collected(faults, recipe.at("engine")):
            vllm_command()
    models = [(key, path) for key, path in _models(recipe) if _is_used(recipe, key, stale)]
    for name in recipe.stages:
        launch = recipe.launch_of(name)
        if name in stale and isinstance(launch, Ray) and find_spec("ray") is None:
            own = getattr(recipe.stages[name], "launch", None)
            place = ("stages", name, "launch") if own else ("launch",)
            faults.append(f"{recipe.at(*place)}: {INSTALL_RAY}.")
    for key, kind, name in hub_names(recipe, stale, models):
        with _collected(faults, recipe.at(*key)):
            check_hub(kind, name)
    _check_templates(recipe, stale, faults)
    _unfit_models(recipe, stale, faults)
    _refuse(faults)
    if console is None:
        return
    warned = [*silent_endpoints(recipe, asked), *_half_free(recipe, asked)]
    warned += _beyond_positions(recipe, stale)
    for sentence in (*warned, *advice(recipe)):
        console.print(plain(f"warning: {sentence}"))


def _half_free(recipe: Recipe, asked: Iterable[str]) -> Iterator[str]:
    """A sentence for each endpoint that names one price, which leaves the other at 0."""
    for name in asked:
        prices = getattr(recipe.backends[name], "prices", None)
        for side in ("input", "output") if prices else ():
            if not getattr(prices, f"{side}_usd_per_million"):
                key = f"{recipe.at('backends', name, 'prices')}.{side}_usd_per_million"
                yield f"{key} is 0: {side} tokens are counted as free"


def _unfit_models(recipe: Recipe, stale: set[str], faults: list[str]) -> None:
    """Models whose config alone says that they cannot be computed, and adapters that name layers
    which their model lacks."""
    known = dict[str, tuple[str, ...]]()
    for key, path in _models(recipe):
        with _collected(faults, recipe.at(*key)):
            config = local_config(path) if _is_used(recipe, key, stale) else None
            if config is None:
                continue
            parts = ARCHITECTURES.get(config["model_type"])
            file = Path(path if local_folder(path) else f"model {path}") / "config.json"
            refuse_unfit(config, file)
            if parts is None and find_spec("torch") and find_spec("transformers"):
                from bezoar.model.stand_in import examine_config

                known[path] = examine_config(config, file)
            elif parts is not None:
                known[path] = parts.linear
    for name, stage in recipe.stages.items():
        if name not in stale or not isinstance(stage, Training):
            continue
        path = recipe.models[base_of(recipe, stage.model)].path
        if stage.adapter is None or path not in known:
            continue
        if fault := unknown_targets(stage.adapter, known[path], path):
            faults.append(f"{recipe.at('stages', name, 'adapter', 'targets')}: {fault}")


def _beyond_positions(recipe: Recipe, stale: set[str]) -> Iterator[str]:
    """A sentence for each training stage whose rows may be longer than its model can see."""
    for name, stage in recipe.stages.items():
        if name not in stale or not isinstance(stage, Training):
            continue
        config = local_config(recipe.models[base_of(recipe, stage.model)].path) or {}
        most = config.get("max_position_embeddings")
        if isinstance(most, int) and stage.max_length > most:
            yield (
                f"{recipe.at('stages', name, 'max_length')}: {stage.max_length} is more than the"
                f" {most} tokens that the model sees: it never learnt the positions behind them,"
                f" and evaluations leave such rows out; set {most} or less."
            )


def _check_templates(recipe: Recipe, stale: set[str], faults: list[str]) -> None:
    """Write a chat with each template and the tokenizer of each model that it is used with."""
    # the core package has no tokenizer, and its stages render nothing
    if find_spec("transformers") is None:
        return
    models = dict.fromkeys(
        base_of(recipe, ref.name)
        for name, stage in recipe.stages.items()
        if name in stale and stage.renders
        for ref in recipe.inputs(name)
        if ref.kind == "model"
    )
    uses: list[tuple[KeyPath, ModelSpec, Template]] = [
        (("template",), recipe.models[name], recipe.template) for name in models
    ]
    where = {id(recipe.models[name]): ("models", name, "add_tokens") for name in models}
    for name in _asked(recipe, stale):
        backend = recipe.backends[name]
        if isinstance(backend, Local):
            spec = ModelSpec(backend.model)
            uses.append((("backends", name, "template"), spec, backend.template))
        if isinstance(backend, Openvino):
            with _collected(faults, recipe.at("backends", name, "template")):
                backend.template.render(_HELLO, OpenvinoBackend(backend).tokenizer)
    for at, spec, template in uses:
        folder, tokenizer = local_folder(spec.path), None
        if folder is None:
            continue
        with _collected(faults, recipe.at(*(where.get(id(spec), at) if spec.add_tokens else at))):
            tokenizer = shared_tokenizer(str(folder), spec.add_tokens)
        with _collected(faults, recipe.at(*at)):
            try:
                if tokenizer is not None:
                    template.check(tokenizer)
                    template.render(_HELLO, tokenizer)
            except BezoarError as error:
                raise type(error)(f"the model {spec.path}: {error}") from None


def _models(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """The key and the path of every model that is loaded on this machine."""
    for name, spec in recipe.models.items():
        yield ("models", name, "path"), spec.path
    for name, backend in recipe.backends.items():
        if isinstance(backend, Local | Vllm):
            yield ("backends", name, "model"), backend.model


def _asked(recipe: Recipe, stale: set[str]) -> list[str]:
    """The language models that the stages which are to run ask."""
    names = [ref.name for stage in stale for ref in recipe.inputs(stage) if ref.kind == "backend"]
    return [name for name in recipe.backends if name in names]


def _is_used(recipe: Recipe, key: KeyPath, stale: set[str]) -> bool:
    """Whether a stage that is to run uses a model of the recipe, also below a trained one."""
    if key[0] == "backends":
        return key[1] in _asked(recipe, stale)
    names = [ref.name for name in stale for ref in recipe.inputs(name) if ref.kind == "model"]
    return key[1] in {base_of(recipe, name) for name in names}


def _read_file(name: str, folder: Path, place: str) -> None:
    # a file of the Hub is fetched when its stage runs
    if not name.startswith(HUB_PREFIX) or mirrored(name) is not None:
        _open([locate_file(name, folder, place)])


def _open(files: list[Path]) -> None:
    for file in files:
        with file.open("rb"):
            pass


@contextmanager
def _collected(faults: list[str], place: str) -> Iterator[None]:
    """Note an error as a sentence that begins with its place in the recipe."""
    try:
        yield
    except (BezoarError, OSError) as error:
        text = failure(error) if isinstance(error, OSError) else str(error)
        faults.append(text if text.startswith(place) else f"{place}: {text}")


def _refuse(faults: list[str]) -> None:
    if faults:
        raise RecipeError(" ".join(dict.fromkeys(faults)))
