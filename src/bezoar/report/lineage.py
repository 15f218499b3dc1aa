"""Where a stage's output comes from: the stages, models and language models behind it."""

from pathlib import PurePath
from typing import Any

from bezoar.data.licences import LicenceTerms, joint_licence, model_terms, seed_terms
from bezoar.report.run import Run, StageRecord

BASES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Names of packaged models -> their ids on the Hub."""


def ancestors(run: Run, stage: StageRecord) -> list[StageRecord]:
    """The stages whose rows or models this one is made from, the farthest first, itself last."""
    found: dict[str, StageRecord] = {}

    def visit(at: StageRecord) -> None:
        for name in at.inputs.values():
            before = run.stage(name)
            if before is not None and before.name not in found and before is not at:
                visit(before)
        found[at.name] = at

    visit(stage)
    return list(found.values())


def backends(run: Run, stages: list[StageRecord]) -> dict[tuple[str, str], str]:
    """(role, backend's name) -> the model that stands behind it, for the language models that these
    stages asked."""
    table = run.resolved.get("backends") or {}
    found = {}
    for stage in stages:
        for path, name in stage.inputs.items():
            if name in table and run.stage(name) is None:
                found[path.split(".")[-1], name] = backend_model(table[name])
    return found


def backend_model(fields: Any) -> str:
    """The name of a backend's model without the folders above it."""
    model = fields.get("model") if isinstance(fields, dict) else None
    return (
        public_name(str(model))
        if model
        else f"a {fields.get('kind', 'backend')} backend"
        if isinstance(fields, dict)
        else "unknown"
    )


def public_name(path: str) -> str:
    """A Hub id as it is; of a folder of this machine the last part alone."""
    return PurePath(path).name if path.startswith(("/", "~", ".")) or "\\" in path else path


def base_model(run: Run, stage: StageRecord) -> str:
    """The name or Hub id of the model under a training stage's adapters."""
    at: StageRecord | None = stage
    name = stage.name
    while at is not None and at.category == "train":
        name = at.inputs.get("model", "")
        at = run.stage(name)
    fields = (run.resolved.get("models") or {}).get(name)
    path = str(fields.get("path", name)) if isinstance(fields, dict) else name
    return BASES.get(path, public_name(path)) or "unknown"


def terms_of(run: Run, stages: list[StageRecord]) -> dict[str, LicenceTerms]:
    """What the rows or weights of these stages stand on: shown name -> terms. A judge's answers are
    not part of the rows."""
    found: dict[str, LicenceTerms] = {}
    for stage in stages:
        if stage.category == "source":
            found[f"rows of {stage.name} ({stage.kind})"] = seed_terms(
                str(stage.fields.get("path") or "")
            )
        if stage.category == "train":
            base = base_model(run, stage)
            found[f"base model {base}"] = model_terms(base)
    for (role, _), model in backends(run, stages).items():
        if role != "judge":
            found[f"{role} {model}"] = model_terms(model)
    return found


def licence(found: dict[str, LicenceTerms]) -> str:
    """The licence identifier of the whole."""
    return joint_licence(found.values())
