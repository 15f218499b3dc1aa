"""The report in a real browser, at the width of a desk and of a phone, light and dark."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bezoar.report.html import write_report
from tests.helpers.fake_run import build_run, data_stages, edit_json, load, reward_stages
from tests.helpers.page_check import GEOMETRY, chromium, serious

pytestmark = pytest.mark.browser


def with_failures(path: Path) -> Path:
    """Hostile texts, an unfinished evaluation, failed requests and a judge that cannot judge."""
    run_dir = build_run(path, hostile=True, until="eval_dpo")
    calls = {"asked": 96, "failed": 31, "refused_by_budget": 7, "cost_usd": 0.2}
    edit_json(run_dir / "05-lamini" / "stats.json", calls=calls)
    return run_dir


def crowded(path: Path) -> Path:
    """Nine models and stages with long names; one score has a reason in place of a number."""
    run_dir = build_run(path)
    resolved = json.loads((run_dir / "resolved.json").read_text())
    for number in range(20, 25):
        name = f"eval-of_a_model_with_a_rather_long_name_{number}"
        folder = run_dir / f"{number}-{name}"
        shutil.copytree(run_dir / "19-eval_dpo", folder)
        resolved["stages"][name] = resolved["stages"]["eval_dpo"] | {"model": name}
        edit_json(folder / "key.json", stage=name)
        scores = json.loads((folder / "scores.json").read_text())["scores"]
        nothing = {"value": None, "low": None, "high": None, "reason": REASON}
        scores[0] |= nothing
        label = "last" if number == 24 else f"{name}_again"
        edit_json(folder / "scores.json", model=name, label=label, scores=scores)
    edit_json(run_dir / "resolved.json", stages=resolved["stages"])
    lines = (run_dir / "metrics.jsonl").read_text().replace('"sft_orca"', '"sft_lamini"')
    (run_dir / "metrics.jsonl").write_text(lines)
    return run_dir


RUNS: dict[str, Callable[[Path], Path]] = {
    "demo": build_run,
    "data": lambda path: build_run(path, table=data_stages()),
    "rewards": lambda path: build_run(path, table=reward_stages()),
    "failures": with_failures,
    "crowd": crowded,
}
REASON = "by definition: over itself a model has no reward, so that each of its pairs is a tie"
OPEN_ALL = "document.querySelectorAll('details').forEach(part => part.open = true)"
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def report(name: str) -> Path:
        if name not in made:
            made[name] = write_report(*load(RUNS[name](tmp_path_factory.mktemp(name) / "run")))
        return made[name]

    return report


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", RUNS)
def test_a_person_can_read_it(
    browser: Any, reports: Callable[[str], Path], name: str, size: str, theme: str
) -> None:
    width, height = SIZES[size]
    view = {"width": width, "height": height}
    page = browser.new_page(viewport=view, color_scheme=theme)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(reports(name).as_uri())
    assert page.evaluate(GEOMETRY) == []
    page.evaluate(OPEN_ALL)
    assert page.evaluate(GEOMETRY) == []
    # The colours differ by theme and the layout by width: two of the four show both.
    if (size, theme) in (("desk", "dark"), ("phone", "light")) and name != "crowd":
        assert serious(page) == []
    assert told == []
    page.close()


def test_what_cannot_be_read_is_found(browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_content(
        "<div style='width:60px;overflow:hidden;white-space:nowrap'>this is cut off here</div>"
        "<p style='position:absolute;left:330px;white-space:nowrap'>out of the window</p>"
        "<p style='margin:0'>one text</p><p style='margin:-1.1em 0 0'>over another</p>"
        "<p style='color:#bbb'>pale</p><p style='width:9px;overflow-wrap:anywhere'>letters</p>"
    )
    faults = " ".join(page.evaluate(GEOMETRY))
    for fault in (
        "cut off: this is",
        "off the screen: out of",
        "overlap: one text | over another",
        "broken into letters: letters",
    ):
        assert fault in faults
    assert [fault for fault in serious(page) if fault.startswith("color-contrast")]
    page.close()
