import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bezoar.errors import DataError, RecipeError
from bezoar.report.components import row_card
from bezoar.report.html import write_report
from bezoar.report.markup import Markup, escape, h
from tests.helpers.fake_run import HOSTILE, MODELS, edit_json, load

Build = Callable[..., Path]


class Reader(HTMLParser):
    """Collects the tags with their attributes, the texts, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "hr", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def read(run_dir: Path) -> tuple[str, Reader]:
    text = write_report(*load(run_dir)).read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.open == []
    return text, reader


def section_ids(reader: Reader) -> list[str | None]:
    """The sections in their order."""
    return [attributes.get("id") for tag, attributes in reader.tags if tag == "section"]


def check_self_contained(text: str, reader: Reader) -> None:
    """Nothing to load, nothing to run, and a policy that would stop both."""
    assert {tag for tag, _ in reader.tags} <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "nav",
        "main",
        "footer",
        "section",
        "article",
        "p",
        "h1",
        "h2",
        "h3",
        "ul",
        "ol",
        "li",
        "figure",
        "figcaption",
        "wbr",
        "a",
        "b",
        "i",
        "small",
        "span",
        "div",
        "code",
        "pre",
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "svg",
        "line",
        "text",
        "circle",
        "polygon",
        "path",
        "rect",
    }
    for tag, attributes in reader.tags:
        assert not {"src", "srcset", "style", "action", "data", "xlink:href"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "a" or str(attributes["href"]).startswith("#")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|http", style[1])
    policy = next(
        str(a["content"])
        for t, a in reader.tags
        if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert (
        policy
        == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_the_report_is_one_file_that_loads_nothing(whole: Path) -> None:
    check_self_contained(*read(whole))


def test_the_report_holds_the_numbers(whole: Path) -> None:
    _, reader = read(whole)
    text = reader.text
    for folder in whole.glob("*-eval_*"):
        stored = json.loads((folder / "scores.json").read_text())
        assert stored["label"] in text
        for score in stored["scores"]:
            assert f"[{score['low']:.3g}"[:5] in text
    assert "DPO is best on" in text
    assert "kept 66 of 96 (69 %) left out: 24 reject, 6 unparsed" in text
    assert (
        "kept 96 of 137 (70 %), from 40 seeds left out: 21 near duplicate, 14 unparsed, 6 too short"
        in text
    )
    assert "957" in text  # requests in all
    assert "123,000" in text  # trained tokens in all
    assert "The whole OpenBezoar recipe in small." in text
    assert "Which one do you mean?" in text  # a turn of a comparison
    assert "The answer is about bread" in text  # why a row was turned down


def test_the_bill_adds_up(whole: Path) -> None:
    stats = [json.loads(path.read_text()) for path in whole.glob("*/stats.json")]
    _, reader = read(whole)
    bill = reader.text.partition("Money and time")[2].partition("Failures")[0].partition("Total")[2]
    usd = sum(s.get("calls", {}).get("cost_usd", 0) for s in stats)
    written = sum(s.get("calls", {}).get("completion_tokens", 0) for s in stats)
    whole_s = round(sum(s["seconds"] for s in stats))
    assert f"{whole_s // 60} min {whole_s % 60:02d} s" in bill
    assert f"${usd:.2f}" in bill
    assert f"{written:,}" in bill


def test_a_kept_row_costs_what_making_and_judging_it_cost(fresh: Build) -> None:
    run_dir = fresh()
    edit_json(run_dir / "05-lamini" / "stats.json", calls={"asked": 10, "cost_usd": 3.0})
    edit_json(
        run_dir / "06-lamini_ok" / "stats.json", calls={"asked": 10, "cost_usd": 0.30}, rows_out=66
    )
    _, reader = read(run_dir)
    assert "$0.050" in reader.text


def test_hostile_text_stays_text(fresh: Build) -> None:
    run_dir = fresh(hostile=True)
    text, reader = read(run_dir)
    check_self_contained(text, reader)
    assert "<script>alert(1)</script>" in reader.text
    assert "\u202e" not in text
    assert "\x00" not in text
    assert HOSTILE.split("\x00")[0] in reader.text


@pytest.mark.parametrize(
    "until",
    [
        "seeds",
        "pairs",
        "lamini",
        "orca_ok",
        "sft_lamini",
        "dpo",
        "eval_base",
        "eval_hh_sft",
        "eval_dpo",
    ],
)
def test_a_partial_run_says_what_is_absent(fresh: Build, until: str) -> None:
    run_dir = fresh(until=until)
    text, reader = read(run_dir)
    check_self_contained(text, reader)
    assert "This run is not finished" in reader.text
    assert until in reader.text
    if until in ("pairs", "lamini", "orca_ok"):
        assert "Not run yet" in reader.text
    if until == "eval_hh_sft":
        assert "nothing to compare" not in reader.text
        assert "Not run yet: eval_hh_sft, eval_dpo." in reader.text


def test_one_scored_model_is_compared_with_nothing(fresh: Build) -> None:
    _, reader = read(fresh(until="eval_sft_evol"))
    assert "Only Base is scored; there is nothing to compare it with." in reader.text


def test_a_half_written_line_of_metrics_is_told(fresh: Build) -> None:
    run_dir = fresh()
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.write('{"time_s": 1, "stage": "dp')
    _, reader = read(run_dir)
    assert "1 line(s) of metrics.jsonl cannot be read" in reader.text


def test_values_that_are_no_numbers_are_counted(fresh: Build) -> None:
    run_dir = fresh()
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "dpo", "step": 61, "loss": NaN}\n')
    text, reader = read(run_dir)
    assert "1 values are not finite" in reader.text
    assert "nan" not in re.sub(r"[^<>]*finance[^<>]*", "", text.lower())


def test_sets_without_rows_and_missing_files(fresh: Build) -> None:
    from bezoar.parquet import write_parquet

    run_dir = fresh()
    write_parquet(run_dir / "06-lamini_ok" / "rows.parquet", [])
    for name in (
        "05-lamini/rows.parquet",
        "05-lamini/failures.jsonl",
        "07-orca/stats.json",
        "recipe.yaml",
        "metrics.jsonl",
        "16-eval_base/items.jsonl",
    ):
        (run_dir / name).unlink()
    _, reader = read(run_dir)
    assert "The stage kept no row." in reader.text
    assert "recipe" not in section_ids(reader)
    assert "No curve yet for" in reader.text


def test_without_resolved_json_the_folders_speak(fresh: Build) -> None:
    run_dir = fresh()
    (run_dir / "resolved.json").unlink()
    _, reader = read(run_dir)
    assert "resolved.json is absent" in reader.text
    assert "DPO is best" in reader.text


def test_no_run_directory_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RecipeError, match="run directory"):
            write_report(*load(path))


def test_a_broken_parquet_file_is_named(fresh: Build) -> None:
    run_dir = fresh()
    (run_dir / "05-lamini" / "rows.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"05-lamini/rows\.parquet.*run its stage again"):
        write_report(*load(run_dir))


def test_the_same_run_gives_the_same_bytes(whole: Path) -> None:
    first = write_report(*load(whole)).read_bytes()
    assert write_report(*load(whole)).read_bytes() == first


def test_every_model_answers_the_same_questions(whole: Path) -> None:
    _, reader = read(whole)
    part = reader.text.partition("Examples side by side")[2].partition("Scores")[0]
    for label, _ in MODELS.values():
        assert part.count(f" {label} ") >= 8
    assert "unparsed" in part  # the rating that could not be read


def test_escape_and_elements() -> None:
    assert (
        h("p", "<b>", Markup("<i></i>"), None, ["a", 3], cls="x", data_y='"', open=True, gone=False)
        == '<p class="x" data-y="&quot;" open>&lt;b&gt;<i></i>a3</p>'
    )
    assert escape("\ud800\u0000ok") == "\ufffd\ufffdok"


def test_a_row_with_odd_contents_is_shown() -> None:
    card = row_card(
        {
            "id": None,
            "messages": [{"role": "tool", "content": None, "tool_calls": '[{"name": "f"}]'}],
            "meta": "no json",
        }
    )
    assert "no json" in card
    assert "&quot;name&quot;" in card
