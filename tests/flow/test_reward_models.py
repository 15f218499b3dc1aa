"""The stages of reward models in one recipe, as helpsteer2.yaml names them: what each gives to the
next."""

import json
from pathlib import Path

from bezoar.flow.recipe import load_recipe
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import read_json

NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LEVELS = {"good": 4, "poor": 0}


def test_a_judge_labels_and_reward_models_learn_from_it(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"say {n}", "response": f"a {word} answer {n}", **dict.fromkeys(NAMES, 1)}
        for n in range(4)
        for word in LEVELS
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = [
        {
            "pattern": f"a {word} answer",
            "reply": "\n".join(f"{n}: {level if n == 'helpfulness' else 2}" for n in NAMES),
        }
        for word, level in LEVELS.items()
    ]
    (tmp_path / "judge.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in script))
    (tmp_path / "recipe.yaml").write_text(f"""
name: rewards
models: {{base: {{path: {tiny_model}, dtype: float32}}}}
backends: {{judge: {{kind: scripted, script: judge.jsonl}}}}
stages:
  rows: {{kind: helpsteer2, path: rows.jsonl}}
  judged: {{kind: attributes, rows: rows, judge: judge, repeats: 2}}
  pairs: {{kind: attribute_pairs, rows: judged}}
  helpfulness: &rm {{kind: train, model: base, rows: judged, objective: {{kind: regression, attributes: [helpfulness]}}, max_steps: 2, validation: 0}}
  scaled: {{<<: *rm, model: helpfulness, rows: pairs, objective: {{kind: bradley_terry, loss_type: scaled, output: helpfulness}}}}
  labelled: {{kind: label, rows: rows, model: helpfulness}}
  eval: {{kind: evaluate, model: scaled, reward_bench: {{rows: pairs}}}}
""")  # noqa: E501
    run = RunDir(tmp_path / "runs" / "rewards")
    stats = run_recipe(load_recipe(tmp_path / "recipe.yaml"), run)
    assert [row.meta["attributes"]["helpfulness"] for row in run.items("judged")] == [4, 0] * 4
    found = {score["name"]: score["value"] for score in stats["judged"]["agreement"]}
    assert found["kappa/helpfulness"] == 1.0
    assert [(pair.chosen[:6], pair.meta["strength"]) for pair in run.items("pairs")] == [
        ("a good", 4.0)
    ] * 4  # type: ignore[union-attr]
    assert all(list(row.meta["attributes"]) == ["helpfulness"] for row in run.items("labelled"))
    folder = run.stage_dir("scaled")
    assert folder is not None
    assert read_json(folder / "adapter" / "score_head.json") == {"outputs": ["helpfulness"]}
    scored = run.stage_dir("eval")
    assert scored is not None
    assert [score["name"] for score in read_json(scored / "scores.json")["scores"]] == [
        "RewardBench/pairs"
    ]
