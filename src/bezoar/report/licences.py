"""Under what terms seeds, teachers and bases stand, as far as their names tell; what is not known
is called unknown."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN = "unknown"


@dataclass(frozen=True)
class LicenceTerms:
    """`licence` is an identifier of the Hub ("other" and "unknown" included), `note` a sentence
    about it."""

    licence: str = UNKNOWN
    note: str = "The licence is not known; find it out before you share what was made from this."
    english: bool = False


_OWN = "Written for bezoar and shipped with it."
_SEEDS: tuple[tuple[str, LicenceTerms], ...] = (
    (r"^bezoar:", LicenceTerms("apache-2.0", _OWN, True)),
    (
        r"databricks-dolly-15k",
        LicenceTerms(
            "cc-by-sa-3.0",
            "databricks-dolly-15k is CC BY-SA 3.0: name Databricks, and share what is derived"
            " alike.",
            True,
        ),
    ),
    (
        r"hh-rlhf",
        LicenceTerms(
            "mit", "Anthropic's HH-RLHF is MIT. Some of its rows are offensive on purpose.", True
        ),
    ),
    (
        r"ultrafeedback",
        LicenceTerms(
            "mit",
            "UltraFeedback is MIT; its answers were written by many models, each with its"
            " provider's terms.",
            True,
        ),
    ),
    (
        r"glaive_toolcall",
        LicenceTerms(
            "apache-2.0",
            "The repository is Apache-2.0; its conversations were written by a model.",
            True,
        ),
    ),
    (r"helpsteer", LicenceTerms("cc-by-4.0", "HelpSteer is CC BY 4.0: name NVIDIA.", True)),
    (
        r"(^|[/_-])flan(20\d\d|_?v2)?([/_.-]|$)|super_ni|natural.?instructions|_submix",
        LicenceTerms(
            "apache-2.0",
            "The collection is Apache-2.0; the data sets gathered in it have terms of their own.",
            True,
        ),
    ),
)
_MODELS: tuple[tuple[str, LicenceTerms], ...] = (
    (r"smollm2", LicenceTerms("apache-2.0", "SmolLM2 is Apache-2.0.", True)),
    (r"open_llama", LicenceTerms("apache-2.0", "OpenLLaMA is Apache-2.0.", True)),
    (
        r"h2ogpt.*falcon-40b|falcon-40b",
        LicenceTerms("apache-2.0", "Falcon-40B is Apache-2.0.", True),
    ),
    (
        r"\b(gpt-|o[134]-|claude|gemini)",
        LicenceTerms(
            "other",
            "The provider's terms of use bind what is made from its answers; some forbid training"
            " models that compete.",
        ),
    ),
    (
        r"llama-?[234]",
        LicenceTerms(
            "other",
            "Meta's Llama community licence applies to the model and to models trained on its"
            " answers.",
        ),
    ),
)
_SHARE_ALIKE = ("cc-by-sa-3.0", "cc-by-sa-4.0")


def seed_terms(path: str) -> LicenceTerms:
    """The terms of a source, by its path or its id on the Hub."""
    return _look_up(_SEEDS, path)


def model_terms(name: str) -> LicenceTerms:
    """The terms of a model, by its name."""
    return _look_up(_MODELS, name)


def _look_up(table: tuple[tuple[str, LicenceTerms], ...], name: str) -> LicenceTerms:
    return next(
        (terms for pattern, terms in table if re.search(pattern, name, re.IGNORECASE)),
        LicenceTerms(),
    )


def joint_licence(terms: Iterable[LicenceTerms]) -> str:
    """The licence identifier of what is made from several: unknown or other where one is, else the
    one that binds the others."""
    licences = {t.licence for t in terms}
    if not licences or UNKNOWN in licences:
        return UNKNOWN
    if "other" in licences or len(licences & set(_SHARE_ALIKE)) > 1:
        return "other"
    binding = [
        name for name in (*_SHARE_ALIKE, "cc-by-4.0", "apache-2.0", "mit") if name in licences
    ]
    return binding[0] if binding else "other"
