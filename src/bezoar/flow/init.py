"""A first recipe for what a person has: files of rows, a model, a server; commented, and small."""

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.chat.messages import offered
from bezoar.errors import RecipeError
from bezoar.flow.look import FoundRows, look_at
from bezoar.flow.model_argument import has_template
from bezoar.flow.recipe import load_recipe
from bezoar.io import atomic_write
from bezoar.model.resolve import PACKAGED, check_folder, check_hub_id, read_config
from bezoar.reading import read_text, user_path

DEFAULT_MODEL = "smollm2-135m-instruct"
NOTHING_NAMED = """\
bezoar init looks at what you have and writes a commented recipe for it. Name, in any order:
  files or folders of rows   chats, pairs, Alpaca, CSV, Parquet: bezoar init chats.jsonl pairs.csv
  a model                    its folder, or a name with --model: bezoar init pairs.jsonl my-model/
  a server                   NAME@URL, as teacher: bezoar init my-model@http://localhost:8000/v1
Without data of your own: bezoar run recipes/demo.yaml, on rows that ship with bezoar."""
_LONGEST = 1024
_NO_SCHEME = re.compile(
    r"(?:(?P<name>[^@]*)@)?"
    r"(?P<address>(?:localhost|[\w.-]+(?=:\d)|\[[\da-f:]+\]|\d+(?:\.\d+){3})(?::\d+)?(?:/\S*)?)"
)


@dataclass(frozen=True)
class Things:
    """What was found: rows, a model's path ("" for none) and a server (name, URL)."""

    rows: tuple[FoundRows, ...]
    model: str = ""
    server: tuple[str, str] | None = None

    def sources(self, what: str) -> dict[str, FoundRows]:
        """Stage -> its rows, of all "chats" or all "pairs"."""
        alike = [found for found in self.rows if found.are_pairs == (what == "pairs")]
        return {what + (f"-{i + 1}" if i else ""): found for i, found in enumerate(alike)}


def init(paths: list[str], out: Path, *, model: str = "", key_env: str = "") -> list[str]:
    """Write a recipe for `paths` to `out`; sentences about what was found and what to do next.

    RecipeError for what is nothing of use, and when `out` is there already.
    """
    if out.exists():
        raise RecipeError(f"{out}: the file is there already; name another with --out.")
    things = _find(paths, model)
    if key_env and things.server is None:
        raise RecipeError("--key-env has no effect without a server; name one as NAME@URL.")
    text, sentences = _recipe(things, out, key_env)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.draft")
    atomic_write(draft, text.encode())
    try:
        # what is written loads, or nothing is
        load_recipe(draft)
        draft.rename(out)
    finally:
        draft.unlink(missing_ok=True)
    return [*sentences, f"wrote {out}; next: bezoar plan {out}, then bezoar run {out}"]


def _find(paths: list[str], model: str) -> Things:
    rows: list[FoundRows] = []
    server: tuple[str, str] | None = None
    for path in paths:
        name, is_server, url = path.partition("@http")
        if is_server or path.startswith(("http://", "https://")):
            if not is_server or server:
                fault = "one server is written NAME@URL, with the name of the model on it"
                raise RecipeError(f"{path}: {fault}; name one.")
            server = (name, f"http{url}")
        elif (bare := _NO_SCHEME.fullmatch(path)) and not user_path(path).exists():
            fix = f"write {bare['name'] or 'NAME'}@http://{bare['address']}, or https://"
            raise RecipeError(f"{path}: the address of a server begins with http://; {fix}.")
        elif path in PACKAGED or (user_path(path) / "config.json").is_file():
            if model:
                raise RecipeError(f"{path}: a second model beside {model}; name one.")
            model = path
        else:
            rows.append(look_at(path))
            if any(found.path == rows[-1].path for found in rows[:-1]):
                raise RecipeError(f"{path}: the file is named twice; name it once.")
    chats = [found for found in rows if not found.are_pairs]
    if server and len(chats) > 1:
        fault = "beside a server one file of chats is read, as seeds"
        raise RecipeError(f"{chats[1].path}: {fault}; name one, or leave the server out.")
    return Things(tuple(rows), model, server)


def _recipe(things: Things, out: Path, key_env: str) -> tuple[str, list[str]]:
    """The text of the recipe, and a sentence about each thing that was found."""
    chats, pairs = things.sources("chats"), things.sources("pairs")
    named = re.sub(r"\W+", "-", out.stem).strip("-_") or "mine"
    sentences = [_about(found) for found in things.rows]
    parts = [
        f"# Written by bezoar init. `bezoar explain KIND` says what a key means.\nname: {named}"
    ]
    trains = bool(things.rows and not things.server) or bool(things.model)
    if trains:
        prompts = [row.prompt for found in things.rows for row in found.taken.rows]
        length, lines, sentence = _model(things.model, tools=any(map(offered, prompts)))
        parts.append(lines)
        sentences.append(sentence)
    if things.server:
        parts.append(_server(*things.server, key_env))
        sentences.append(f"{things.server[0]} at {things.server[1]} is the teacher and the judge")
    stages = ["stages:"]
    stages += [_source(name, found, out) for name, found in (chats | pairs).items()]
    if things.server:
        stages.append(_synthesis("chats" if chats else "pairs" if pairs else ""))
    if trains:
        stages.append(_training(things, chats, pairs, length))
    return "\n".join([*parts, *stages]) + "\n", sentences


def _about(found: FoundRows) -> str:
    reasons = Counter(item.reason for item in found.taken.dropped).most_common()
    dropped = "".join(f", {num} dropped as {reason}" for reason, num in reasons)
    what = "pairs" if found.are_pairs else "chats"
    share, num = found.held_out
    part = f"{num} of them held out" if share else "too few conversations to hold any out"
    columns = f"read by kind {found.source.kind}, columns {', '.join(found.columns)}"  # type: ignore[attr-defined]
    ignored = f"; text left out: {', '.join(found.source.ignore)}" if found.source.ignore else ""
    return f"{found.path}: {len(found.taken.rows)} {what}, {part}{dropped}; {columns}{ignored}"


def _source(name: str, found: FoundRows, out: Path) -> str:
    path = os.path.relpath(found.path, out.resolve().parent)
    keys = {"kind": found.source.kind, "path": f"./{path}", **found.keys}  # type: ignore[attr-defined]
    comment = ""
    if found.held_out[0]:
        keys["held_out"] = found.held_out[0]
        comment = f"   # {name}.held_out has the rest, which nothing is trained on"
    left = "  # ignore: columns with text that is not trained on; name them by keys to use them\n"
    return (left if found.source.ignore else "") + f"  {name}: {_flow(keys)}{comment}"


def _flow(keys: dict[str, Any]) -> str:
    """A table on one line; JSON texts are YAML texts."""
    plain = re.compile(r"[A-Za-z_][\w.-]*")
    values = {
        key: value if isinstance(value, str) and plain.fullmatch(value) else json.dumps(value)
        for key, value in keys.items()
    }
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


def _model(path: str, *, tools: bool) -> tuple[int, str, str]:
    """The longest row, the lines `template` and `models`, and a sentence."""
    length, template, why = _LONGEST, "chatml", "the package's own"
    if path and path not in PACKAGED and user_path(path).is_dir():
        folder = user_path(path)
        check_folder(path, folder)
        most = read_config(folder).get("max_position_embeddings")
        length = min(_LONGEST, most) if isinstance(most, int) else _LONGEST
        template, why = _template(folder)
    elif path and path not in PACKAGED:
        check_hub_id(path)
        template, why = "hub", "its folder is not here; chatml or openbezoar if it has none"
    if tools and template == "chatml":
        template, why = "hermes", "rows have tools"
    shown = path or DEFAULT_MODEL
    note = "" if path else "   # a small one to begin with; name a folder or a Hub id"
    lines = (
        f"template: {{kind: {template}}}   # {why}\n"
        f"models:\n"
        f"  base: {{path: {json.dumps(shown)}}}{note}\n"
        f"  # with quantize: nf4 it takes a quarter of the memory"
    )
    return length, lines, f"model {shown}: template {template} ({why})"


def _template(folder: Path) -> tuple[str, str]:
    if has_template(folder):
        return "hub", "the tokenizer's own"
    file = folder / "tokenizer.json"
    if file.is_file() and '"<|im_end|>"' in read_text(file):
        return "chatml", "the tokenizer has its marks"
    return "openbezoar", "plain words, for the tokenizer has no chat template and no <|im_end|>"


def _server(name: str, url: str, key_env: str) -> str:
    key = (
        f"key_env: {key_env}" if key_env else "# key_env: MY_KEY   # the variable with the API key"
    )
    return f"""\
backends:
  teacher:
    kind: endpoint
    url: {json.dumps(url)}
    model: {json.dumps(name)}
    {key}
    # prices: {{input_usd_per_million: 1, output_usd_per_million: 4}}   # for bill and budget
# budget_usd: 1   # requests that could pass it are not sent; it needs the prices"""


def _synthesis(rows: str) -> str:
    seeds = rows or "seeds"
    own = "" if rows else '  seeds: {kind: dolly, path: "bezoar:instructions.jsonl"}\n'
    return (
        f"{own}"
        f"  # the teacher writes new instructions after examples from the seeds and answers them\n"
        f"  made: {{kind: lamini, seeds: {seeds}, teacher: teacher, num_rows: 100}}\n"
        f"  # a judge accepts or rejects each row with a reason\n"
        f"  made-kept: {{kind: filter, rows: made, judge: teacher}}"
    )


def _training(
    things: Things, chats: dict[str, FoundRows], pairs: dict[str, FoundRows], length: int
) -> str:
    """Training and evaluation of what there is; several files of a kind train one after another."""
    answers = ["made-kept"] if things.server else list(chats or pairs)
    why = "learn to answer" + ("" if chats or things.server else " as the chosen answers do")
    prefer = "prefer the chosen answer to the rejected one, more than the model below"
    models, stages = ["base"], list[str]()
    for words, kind, more, lr, sources in (
        (why, "sft", "", "2e-4", answers),
        (prefer, "dpo", ", beta: 0.1", "1e-4", list(pairs)),
    ):
        stages += [f"  # {words}"] if sources else []
        for rows in sources:
            name = kind if rows == sources[-1] else f"{kind}-{rows}"
            stages.append(
                f"  {name}: {{kind: train, model: {models[-1]}, rows: {rows},"
                f" objective: {{kind: {kind}{more}}}, lr: {lr}, epochs: 2, batch_size: 8,"
                f" max_length: {length}}}"
            )
            models.append(name)
    sections = []
    if rows := _most_held_out(pairs):
        sections.append(f"preferences: {{rows: {rows}.held_out}}")
    if rows := _most_held_out(chats):
        sections.append(f"overlap: {{rows: {rows}.held_out, max_tokens: 128, limit: 20}}")
    if things.server:
        judged = 'judge: teacher, questions: "bezoar:questions.jsonl", limit: 16'
        sections.append(f"mt_bench: {{{judged}, max_tokens: 256}}")
    if not sections:
        return "\n".join([*stages, "  # too few rows to hold some out: nothing is evaluated"])
    stages += [
        "  # the same questions to each model, so that the report can compare them",
        "  eval-base: &eval",
        *(f"    {line}" for line in ("kind: evaluate", "model: base", *sections)),
        *(f"  eval-{name}: {{<<: *eval, model: {name}}}" for name in models[1:]),
    ]
    return "\n".join(stages)


def _most_held_out(sources: dict[str, FoundRows]) -> str:
    """The stage that holds out the most rows, "" if none does."""
    most = max(sources, key=lambda name: sources[name].held_out[1], default="")
    return most if most and sources[most].held_out[0] else ""
