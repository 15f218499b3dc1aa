"""What numbers of a recipe may be: refused with line and key, and known to tables and schema."""

from pathlib import Path
from typing import Any

import pytest

from bezoar.data.dolly import Dolly
from bezoar.data.flan import Flan
from bezoar.errors import RecipeError
from bezoar.evals.revision import Revision
from bezoar.flow.explain import find_kinds
from bezoar.flow.recipe import load_recipe
from bezoar.flow.recipe_reference import recipe_schema
from bezoar.model.spec import LoRA, RewardWeights, Sampling
from bezoar.reading import Limits
from bezoar.train.objectives import OBJECTIVES
from bezoar.train.objectives.sft import SFT
from bezoar.train.stages import PPO, Train
from tests.helpers.loaded import loaded

RECIPE = """\
name: tiny
models: {{base: {{path: smollm2-135m-instruct}}}}
backends: {{judge: {{kind: endpoint, url: "http://localhost:1", model: m}}}}
stages:
  pairs: {{kind: hh_rlhf, path: "bezoar:preferences_test.jsonl"}}
  measured:
    kind: evaluate
    model: base
    {section}:
      rows: pairs
      {key}
"""


@pytest.mark.parametrize(
    ("section", "key"),
    [
        # rows[:0] would be none, rows[:-1] all but the last
        ("preferences", "limit: 0"),
        ("preferences", "limit: -1"),
        ("overlap", "max_tokens: 0"),
        ("over_rows", "judge_tokens: 0"),
        ("judge_card", "min_kappa: 2.0"),
        ("preferences", "beta: 0.0"),
    ],
)
def test_a_number_out_of_bounds_is_refused_with_its_line(
    section: str, key: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(section=section, key=key))
    name, _, value = key.partition(": ")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    place = f"{path}:11: stages.measured.{section}.{name}: must be "
    assert str(error.value).startswith(place)
    assert str(error.value).endswith(f"but is {value}; change the value.")


def test_the_tables_and_the_schema_say_what_a_number_may_be() -> None:
    (kind,) = find_kinds("lamini")
    types = {key.name: key.type for key in kind.keys}
    assert types["topic_share"] == "number ≥ 0 and ≤ 1"
    assert types["num_examples"] == "integer ≥ 1"
    share = recipe_schema()["$defs"]["LaMini"]["properties"]["topic_share"]
    assert (share["minimum"], share["maximum"]) == (0, 1)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        *((kind, "beta", 0.0) for kind in ("asft", "dpo", "hinge", "ipo", "kto", "orpo", "simpo")),
        *((kind, "sft_weight", -0.1) for kind in ("asft", "dpo", "hinge", "orpo")),
        *(("kto", f"{side}desirable_weight", 0.0) for side in ("", "un")),
        *(("dpo", "label_smoothing", share) for share in (-0.01, 0.5)),
        ("orpo", "odds_weight", 0.0),
        ("simpo", "gamma", -0.5),
    ],
)
def test_numbers_of_objectives(kind: str, key: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: must be (greater|less) than"):
        loaded(OBJECTIVES[kind](**{key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, 0) for key in ("lr", "epochs", "max_steps", "batch_size", "max_length", "clip")),
        *((key, 1.0) for key in ("validation", "warmup_ratio")),
        *((key, -1) for key in ("weight_decay", "neftune", "eval_every", "patience")),
    ],
)
def test_numbers_of_a_training(key: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: must be (greater|less) than"):
        loaded(Train("base", "rows", SFT(), **{key: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"), [("reset", 1.5), ("max_tokens", 1), ("updates", 0), ("kl", -0.1)]
)
def test_numbers_of_ppo(key: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: must be (greater|less) than"):
        loaded(PPO("base", "reward", "rows", **{key: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("component", "key"),
    [
        (Dolly("x.jsonl", limit=0), "limit"),
        (Dolly("x.jsonl", skip=-1), "skip"),
        (Dolly("x.jsonl", held_out=1.0), "held_out"),
        (Flan("x.jsonl", per_submix=0), "per_submix"),
        (Dolly("x.jsonl", limits=Limits(rows=0)), "limits.rows"),
        (Dolly("x.jsonl", limits=Limits(row_mb=2.0**63)), "limits.row_mb"),
        (LoRA(r=0), "r"),
        (LoRA(dropout=1.0), "dropout"),
        (Sampling(top_p=0.0), "top_p"),
        (Sampling(temperature=-0.1), "temperature"),
        (RewardWeights(std=0.0), "std"),
    ],
)
def test_numbers_of_sources_and_models(component: Any, key: str) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: must be (greater|less) than"):
        loaded(component)


@pytest.mark.parametrize("key", ["times", "limit", "first_tokens"])
def test_numbers_of_revisions(key: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: must be greater than or equal to 1 but is 0"):
        loaded(Revision(judge="judge", **{key: 0}))  # type: ignore[arg-type]
