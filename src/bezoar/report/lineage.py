"""Where a stage's output comes from: the stages, models and language models behind it."""

from pathlib import PurePath

from bezoar.data.licences import LicenceTerms, joint_licence, model_terms, seed_terms
from bezoar.io import Row
from bezoar.report.run import Run, StageRecord

BASES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Names of packaged models -> their ids on the Hub."""


def ancestors(run: Run, stage: StageRecord) -> list[StageRecord]:
    """The stages whose rows or models this one is made from, the farthest first, itself last."""
    seen: dict[str, StageRecord] = {}

    # Depth first, so that what a stage reads stands before it.
    def visit(current: StageRecord) -> None:
        for name in current.inputs.values():
            earlier = run.stage(name)
            if earlier is not None and earlier.name not in seen and earlier is not current:
                visit(earlier)
        seen[current.name] = current

    visit(stage)
    return list(seen.values())


def backends(run: Run, stages: list[StageRecord]) -> dict[tuple[str, str], str]:
    """(role, backend's name) -> the model behind it, for the backends that these stages asked."""
    settings: dict[str, Row] = run.resolved.get("backends") or {}
    models = {}
    for stage in stages:
        for path, name in stage.inputs.items():
            # A name can stand for a stage and for a backend; inputs mean the stage first.
            if name in settings and run.stage(name) is None:
                # The path of a nested setting ends with the role: "mt_bench.judge".
                role = path.split(".")[-1]
                models[role, name] = _backend_model(settings[name])
    return models


def _backend_model(settings: Row) -> str:
    model = settings.get("model")
    return public_name(str(model)) if model else f"a {settings.get('kind', 'backend')} backend"


def public_name(path: str) -> str:
    """A Hub id as it is; only the last part of a folder, whose path tells about this machine."""
    return PurePath(path).name if path.startswith(("/", "~", ".")) or "\\" in path else path


def models_below(run: Run, stage: StageRecord) -> list[str]:
    """The models below a training stage, the nearest first, the untrained one last."""
    names: list[str] = []
    current: StageRecord | None = stage
    while current is not None and current.category == "train":
        name = str(current.inputs.get("model", ""))
        # a damaged run may name a model as its own base
        if not name or name in names:
            break
        names.append(name)
        current = run.stage(name)
    return names


def base_model(run: Run, stage: StageRecord) -> str:
    """The name or Hub id of the model under a training stage's adapters."""
    name = next((name for name in models_below(run, stage) if run.stage(name) is None), "")
    settings = (run.resolved.get("models") or {}).get(name) or {}
    path = str(settings.get("path", name))
    return BASES.get(path, public_name(path)) or "unknown"


def terms_of(run: Run, stages: list[StageRecord]) -> dict[str, LicenceTerms]:
    """What the rows or weights of these stages are made of -> its licence terms."""
    terms: dict[str, LicenceTerms] = {}
    for stage in stages:
        if stage.category == "source":
            rows = f"rows of {stage.name} ({stage.kind})"
            terms[rows] = seed_terms(str(stage.fields.get("path") or ""))
        if stage.category == "train":
            base = base_model(run, stage)
            terms[f"base model {base}"] = model_terms(base)
    for (role, _), model in backends(run, stages).items():
        # A judge accepts or rejects rows; its answers are no part of them.
        if role != "judge":
            terms[f"{role} {model}"] = model_terms(model)
    return terms


def licence(terms: dict[str, LicenceTerms]) -> str:
    """The licence identifier of the whole."""
    return joint_licence(terms.values())
