"""Licences of data sets, teachers and base models by their names; any other is unknown."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

UNKNOWN = "unknown"


@dataclass(frozen=True)
class LicenceTerms:
    """`licence` is an identifier of the Hub, "other" or "unknown"; `note` a sentence about it."""

    licence: str = UNKNOWN
    note: str = "The licence is not known; find it out before you share what was made from this."
    english: bool = False


class _Dataset(NamedTuple):
    """`pattern` finds copies by path; rows that are read by `hub_id` have `licence` in meta."""

    hub_id: str
    pattern: str
    licence: str
    note: str

    @property
    def terms(self) -> LicenceTerms:
        """The same licence in the Hub's spelling: "CC BY 4.0" is cc-by-4.0 there."""
        identifier = self.licence.partition(" (")[0].lower().replace(" ", "-")
        return LicenceTerms(identifier, self.note, english=True)


# the first pattern that matches counts
LICENCES = (
    _Dataset("bezoar:", r"^bezoar:", "Apache-2.0", "Written for bezoar and shipped with it."),
    _Dataset(
        "databricks/databricks-dolly-15k",
        r"databricks-dolly-15k",
        "CC BY-SA 3.0",
        "databricks-dolly-15k is CC BY-SA 3.0: name Databricks, and share what is derived alike.",
    ),
    _Dataset(
        "Anthropic/hh-rlhf",
        r"hh-rlhf",
        "MIT",
        "Anthropic's HH-RLHF is MIT. Some of its rows are offensive on purpose.",
    ),
    _Dataset(
        "HuggingFaceH4/ultrafeedback_binarized",
        r"ultrafeedback",
        "MIT",
        "UltraFeedback is MIT; its answers were written by many models, each with its provider's"
        " terms.",
    ),
    _Dataset(
        "llamafactory/glaive_toolcall_en",
        r"glaive_toolcall",
        "Apache-2.0",
        "The repository is Apache-2.0; its conversations were written by a model.",
    ),
    _Dataset(
        "nvidia/HelpSteer2", r"helpsteer", "CC BY 4.0", "HelpSteer is CC BY 4.0: name NVIDIA."
    ),
    _Dataset(
        "kowndinya23/flan2022",
        r"(^|[/_-])flan(20\d\d|_?v2)?([/_.-]|$)|super_ni|natural.?instructions|_submix",
        "Apache-2.0 (sources vary)",
        "The collection is Apache-2.0; the data sets gathered in it have terms of their own.",
    ),
    _Dataset("allenai/ai2_arc", r"ai2_arc", "CC BY-SA 4.0", "ARC is CC BY-SA 4.0: name AI2."),
)
_PROVIDER = (
    "The provider's terms of use bind what is made from its answers; some forbid training models"
    " that compete."
)
_META = "Meta's Llama community licence applies to the model and to models trained on its answers."
_MODELS = (
    (r"smollm2", LicenceTerms("apache-2.0", "SmolLM2 is Apache-2.0.", english=True)),
    (r"open_llama", LicenceTerms("apache-2.0", "OpenLLaMA is Apache-2.0.", english=True)),
    (r"falcon-40b", LicenceTerms("apache-2.0", "Falcon-40B is Apache-2.0.", english=True)),
    (r"\b(gpt-|o[134]-|claude|gemini)", LicenceTerms("other", _PROVIDER)),
    (r"llama-?[234]", LicenceTerms("other", _META)),
)
_SHARE_ALIKE = ("cc-by-sa-3.0", "cc-by-sa-4.0")


def row_licence(hub_id: str) -> str:
    """The licence in the meta of rows of a Hub dataset, or of `bezoar:`; empty if not known."""
    return next((data.licence for data in LICENCES if data.hub_id == hub_id), "")


def seed_terms(path: str) -> LicenceTerms:
    """The terms of a source, by its path or its id on the Hub."""
    return _look_up(((data.pattern, data.terms) for data in LICENCES), path)


def model_terms(name: str) -> LicenceTerms:
    """The terms of a model, by its name."""
    return _look_up(_MODELS, name)


def _look_up(table: Iterable[tuple[str, LicenceTerms]], name: str) -> LicenceTerms:
    matches = (terms for pattern, terms in table if re.search(pattern, name, re.IGNORECASE))
    return next(matches, LicenceTerms())


def joint_licence(terms: Iterable[LicenceTerms]) -> str:
    """The licence identifier of what is made from several: the one that binds the others."""
    licences = {part.licence for part in terms}
    # one part of unknown licence makes the whole unknown, whatever the others allow
    if not licences or UNKNOWN in licences:
        return UNKNOWN
    # two share-alike licences each ask for themselves
    if "other" in licences or len(licences & set(_SHARE_ALIKE)) > 1:
        return "other"
    by_strength = (*_SHARE_ALIKE, "cc-by-4.0", "apache-2.0", "mit")
    return next((name for name in by_strength if name in licences), "other")
