"""Data sets in the layout that they have on the Hub: files, splits, subsets, columns, types and odd
rows. The rows were written for these tests.

Sizes are tiny.
"""

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Files = dict[str, bytes]
Splits = Mapping[str, Sequence[Row]]
FRUITS = ("apple", "pear", "plum", "fig", "grape", "lemon", "melon", "cherry", "peach", "quince")
_TOPICS = tuple(f"{how} {fruit}" for how in ("a ripe", "a dried") for fruit in FRUITS)


# -- the forms of files ---------------------------------------------------------------------------


def parquet(rows: Sequence[Row], rows_a_group: int | None = None) -> bytes:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    stream = io.BytesIO()
    write_table(pa.Table.from_pylist(list(rows)), stream, row_group_size=rows_a_group)
    return stream.getvalue()


def lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def packed(rows: Sequence[Row]) -> bytes:
    return gzip.compress(lines(rows), mtime=0)


def array(rows: Sequence[Row]) -> bytes:
    return json.dumps(list(rows), indent=1).encode()


def card(configs: Mapping[str, Mapping[str, str]]) -> bytes:
    """A README whose head maps configurations and their splits to files."""
    head = ["---", "configs:"]
    for name, splits in configs.items():
        head += [f"- config_name: {name}", "  data_files:"]
        for split, path in splits.items():
            head += [f"  - split: {split}", f"    path: {path}"]
    return "\n".join([*head, "---", "# Written for tests", ""]).encode()


def tables(configs: Mapping[str, Splits], rows_a_group: int | None = None) -> Files:
    """Parquet as `push_to_hub` lays it out: data/SPLIT-* or CONFIG/SPLIT-*."""
    files: Files = {}
    paths: dict[str, dict[str, str]] = {}
    for config, splits in configs.items():
        folder = "data" if config == "default" else config
        for split, rows in splits.items():
            files[f"{folder}/{split}-00000-of-00001.parquet"] = parquet(rows, rows_a_group)
            paths.setdefault(config, {})[split] = f"{folder}/{split}-*"
    return files | {"README.md": card(paths)}


def script(name: str, **more: bytes) -> Files:
    """A repository of a loading script, which no reader runs any more."""
    return {f"{name}.py": b"import datasets\n", "README.md": b"# A script\n", **more}


def copies(configs: Mapping[str, Splits]) -> Files:
    """What the Hub's converter wrote: CONFIG/SPLIT/0000.parquet, without a card."""
    return {
        f"{config}/{split}/0000.parquet": parquet(rows)
        for config, splits in configs.items()
        for split, rows in splits.items()
    }


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


# -- rows for training ----------------------------------------------------------------------------


def _dolly() -> Files:
    categories = ("open_qa", "closed_qa", "summarization", "brainstorming", "classification")
    categories += ("creative_writing", "general_qa", "information_extraction")
    rows: list[Row] = []
    for number, topic in enumerate(_TOPICS * 4):
        category = categories[number % len(categories)]
        has_context = category in ("closed_qa", "summarization", "information_extraction")
        told = f"Note {number}. In the market hall {topic} costs {number + 2} cents. "
        rows.append(
            {
                "instruction": f"Say in one sentence what note {number} tells about {topic}.",
                "context": told * 3 if has_context else "",
                "response": f"It tells that {topic} costs {number + 2} cents in the market hall.",
                "category": category,
            }
        )
    # a few rows stand twice
    return {"databricks-dolly-15k.jsonl": lines([*rows, rows[0]]), "README.md": b"# dolly\n"}


FLAN_SOURCES = {
    "flan2021": "Flan2021",
    "t0": "P3",
    "cot": "CoT",
    "niv2": "NIv2",
    "dialog": "Dialog",
}


def flan_rows(split: str, num_tasks: int = 4, rows_a_task: int = 12) -> list[Row]:
    """Rows in the order of their tasks, a third of them few-shot."""
    kinds = ("zs_opt", "fs_noopt", "zs_noopt", "zs_opt", "zs_noopt", "fs_opt")
    rows = []
    for task in range(num_tasks):
        for number in range(rows_a_task):
            kind, topic = kinds[number % len(kinds)], _TOPICS[(task + number) % len(_TOPICS)]
            options = "\nOPTIONS:\n- yes\n- no" if kind.endswith("_opt") else ""
            rows.append(
                {
                    "inputs": f"{split} task {task}, item {number}: is {topic} sweet?{options}",
                    "targets": "yes" if number % 2 else "no",
                    "task_source": FLAN_SOURCES[split],
                    "task_name": f"{split}_{_TOPICS[task % 20].replace(' ', '_')}_{task}:1.0.0",
                    "template_type": kind,
                }
            )
    return rows


def _flan2022() -> Files:
    return tables({"default": {split: flan_rows(split) for split in FLAN_SOURCES}}, 8)


def _transcript(topic: str, number: int, answer: str) -> str:
    more = ""
    if number % 3 == 0:
        more = f" It is fruit number {number}.\n\nHuman: And how do I keep it?\n\nAssistant: Cool."
    return f"\n\nHuman: What can I cook from {topic}?\n\nAssistant:{more} {answer}"


def _hh_rows(folder: str, split: str, num: int) -> list[Row]:
    rows = [
        {
            "chosen": _transcript(
                f"{topic} ({folder} {split})", number, f"Jam, in {number} steps."
            ),
            "rejected": _transcript(f"{topic} ({folder} {split})", number, "I do not care."),
        }
        for number, topic in enumerate((_TOPICS * 4)[:num])
    ]
    # some pairs are equal, some end with an empty turn
    rows[1] = {"chosen": rows[1]["chosen"], "rejected": rows[1]["chosen"]}
    rows[2] = {**rows[2], "rejected": "\n\nHuman: Are you there?\n\nAssistant:"}
    return rows


def _hh_rlhf() -> Files:
    files: Files = {"README.md": b"# pairs\n"}
    folders = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
    for folder in folders:
        for split, num in (("train", 30), ("test", 12)):
            files[f"{folder}/{split}.jsonl.gz"] = packed(_hh_rows(folder, split, num))
    attempts = [{"min_harmlessness_score_transcript": -0.5, "transcript": "\n\nHuman: Hello."}]
    return files | {"red-team-attempts/red_team_attempts.jsonl.gz": packed(attempts)}


def _turns(*texts: str) -> list[Row]:
    roles = ("user", "assistant")
    return [{"content": text, "role": roles[i % 2]} for i, text in enumerate(texts)]


def _ultrafeedback() -> Files:
    rows = []
    for number, topic in enumerate(_TOPICS):
        prompt = f"Give me {number + 2} words about {topic}."
        better, worse = _turns(prompt, f"Round and sweet, {topic}."), _turns(prompt, "No.")
        rows.append(
            {
                "prompt": prompt,
                "prompt_id": _hash(prompt, 64),
                "chosen": better,
                "rejected": worse,
                "messages": better,
                # the first scores tie
                "score_chosen": 8.5 if number < 2 else 7.0,
                "score_rejected": 8.5 if number < 2 else 4.0,
            }
        )
    splits = [f"{part}_{what}" for what in ("prefs", "sft", "gen") for part in ("train", "test")]
    return tables({"default": dict.fromkeys(splits, rows)})


def _ultrachat() -> Files:
    rows = []
    for number, topic in enumerate(_TOPICS):
        prompt = f"Tell me about {topic}."
        more = (f"And number {number}?", "That one is the best of all.") if number % 2 else ()
        turns = _turns(prompt, f"Gladly: {topic} is a fruit.", *more)
        rows.append({"prompt": prompt, "prompt_id": _hash(prompt, 64), "messages": turns})
    splits = ("train_sft", "test_sft", "train_gen", "test_gen")
    return tables({"default": dict.fromkeys(splits, rows)})


ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def _helpsteer_rows(split: str, levels: Callable[[int], Any]) -> list[Row]:
    rows = []
    for number, topic in enumerate(_TOPICS[:12]):
        prompt = f"Describe {topic} ({split})."
        if number % 3 == 0:
            middle = "\n<extra_id_1>Assistant\nDo you mean the fruit?\n<extra_id_1>User\n"
            prompt += middle + "Yes, the fruit."
        # two answers to a prompt stand one behind the other
        for answer in range(2):
            response = f"It is {('small', 'large and heavy')[answer]}, as {topic} is."
            values = {name: levels(number + answer + i) for i, name in enumerate(ATTRIBUTES)}
            rows.append({"prompt": prompt, "response": response, **values})
    return rows


def _helpsteer2() -> Files:
    files: Files = {"README.md": b"# HelpSteer2\n"}
    preferences = [_preference(number, topic) for number, topic in enumerate(_TOPICS)]
    files["preference/preference.jsonl.gz"] = packed(preferences)
    for split in ("train", "validation"):
        files[f"{split}.jsonl.gz"] = packed(_helpsteer_rows(split, lambda n: n % 5))
    differing = _helpsteer_rows("train", lambda n: [n % 5, (n + 1) % 5, n % 5])
    return files | {"disagreements/disagreements.jsonl.gz": packed(differing)}


def _preference(number: int, topic: str) -> Row:
    strength = number % 7 - 3
    view = {"statement": "Response 1 is better.", "elaboration": "It is kinder."}
    return {
        "split": "val" if number % 5 == 4 else "train",
        "prompt": f"Which tree bears {topic}?",
        "response_1": f"A tree in the garden bears {topic}.",
        "response_2": "A bush.",
        "preference_strength": strength,
        "preference_statement": view["statement"],
        "preference_elaboration": view["elaboration"],
        "three_most_similar_preferences": [{**view, "strength": strength}] * 3,
        "all_preferences_unprocessed": [{"strength": strength, "justification": "kind"}] * 4,
    }


def _tldr() -> Files:
    rows = []
    for topic in _TOPICS:
        post = f"SUBREDDIT: r/garden\n\nTITLE: My {topic}\n\nPOST: I found {topic} and ate it."
        rows.append({"prompt": f"{post}\n\nTL;DR:", "completion": f" I ate {topic}."})
    return tables({"default": dict.fromkeys(("train", "validation", "test"), rows)})


def _tldr_preference() -> Files:
    rows = []
    for topic in _TOPICS:
        post = f"SUBREDDIT: r/garden\n\nTITLE: My {topic}\n\nPOST: I found {topic} and ate it."
        row = {"prompt": f"{post}\n\nTL;DR:", "chosen": f" I ate {topic}."}
        rows.append({**row, "rejected": " Nothing happened."})
    return tables({"default": dict.fromkeys(("train", "validation"), rows)})


def _alpaca() -> Files:
    rows = [
        {
            "instruction": f"Name a colour of {topic}.",
            "input": "" if number % 2 else "One word.",
            "output": "Yellow.",
            "text": f"### Instruction:\nName a colour of {topic}.\n\n### Response:\nYellow.",
        }
        for number, topic in enumerate(_TOPICS)
    ]
    return tables({"default": {"train": rows}})


def _code_alpaca() -> Files:
    rows = [{"instruction": f"Print {t}.", "input": "", "output": f"print('{t}')"} for t in _TOPICS]
    return {"code_alpaca_20k.json": array(rows), "README.md": b"# code\n"}


WEATHER = {
    "name": "weather",
    "description": "The weather of a town.",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
}


def hermes_row(number: int) -> Row:
    """A call is text within a turn of gpt, and the tool answers in a turn of its own."""
    call = '<tool_call>\n{"arguments": {"town": "Ulm"}, "name": "weather"}\n</tool_call>'
    turns = [
        ("system", "You call functions. <tools>" + json.dumps([WEATHER]) + "</tools>"),
        ("human", f"What is the weather in Ulm? ({number})"),
        ("gpt", call),
        ("tool", '<tool_response>\n{"name": "weather", "content": "rain"}\n</tool_response>'),
        ("gpt", "It rains in Ulm."),
    ]
    return {
        "id": _hash(f"hermes {number}", 32),
        "conversations": [{"from": who, "value": what} for who, what in turns],
        "tools": json.dumps([{"type": "function", "function": WEATHER}]),
        "category": "Weather",
        "subcategory": "Forecast",
        "task": "Ask for the weather",
    }


def _hermes() -> Files:
    many = [hermes_row(number) for number in range(6)]
    # the first answer of a single turn is the call itself
    single = [{**row, "conversations": row["conversations"][:3]} for row in many]
    schemas = [
        {key: value for key, value in row.items() if key != "tools"} | {"schema": "{}"}
        for row in many
    ]
    names = ("func_calling_singleturn", "func_calling", "glaive_func_calling")
    names += ("json_mode_agentic", "json_mode_singleturn")
    contents = (single, many, many, schemas, schemas)
    files = {f"{name}.json": array(rows) for name, rows in zip(names, contents, strict=True)}
    return files | {"README.md": card({name: {"train": f"{name}.json"} for name in names})}


def _hermes_3() -> Files:
    says = (("system", "You are terse."), ("human", "Name a bird."), ("gpt", "The wren."))
    rows = [
        {"conversations": [{"from": who, "value": f"{what} ({n})"} for who, what in says[n % 2 :]]}
        for n in range(24)
    ]
    return {"hermes-3.json": array(rows), "README.md": b"# Conversations\n"}


def _xlam() -> Files:
    tool = {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"town": {"description": "A town", "type": "str", "default": "Ulm"}},
    }
    rows = [
        {
            "id": number,
            "query": f"What is the weather on day {number}?",
            "answers": json.dumps([{"name": "weather", "arguments": {"town": "Ulm"}}]),
            "tools": json.dumps([tool]),
        }
        for number in range(6)
    ]
    name = "xlam_function_calling_60k.json"
    return {name: array(rows), "README.md": card({"dataset": {"train": name}})}


def _glaive_text() -> Files:
    call = '<functioncall> {"name": "weather", "arguments": \'{"town": "Ulm"}\'}'
    chat = f"USER: Rain?\n\n\nASSISTANT: {call} <|endoftext|>\n\n\nFUNCTION RESPONSE: rain\n\n\n"
    rows = [{"system": "SYSTEM: You help.", "chat": chat + "ASSISTANT: It rains. <|endoftext|>"}]
    return {"glaive-function-calling-v2.json": array(rows * 4), "README.md": b"# calls\n"}


def _glaive_share() -> Files:
    call = json.dumps({"name": "weather", "arguments": {"town": "Ulm"}})
    turns = [("human", "Rain in Ulm?"), ("function_call", call), ("observation", "rain")]
    turns.append(("gpt", "It rains."))
    row = {
        "conversations": [{"from": who, "value": what} for who, what in turns],
        "tools": json.dumps([WEATHER]),
    }
    return {"glaive_toolcall_en.json": array([row] * 4), "README.md": b"# calls\n"}


def _feedback_copy() -> Files:
    def row(number: int, **more: Any) -> Row:
        # a text is a post or an article, and the other columns are null
        post = {"id": f"t{number}", "post": f"I ate {_TOPICS[number]}.", "title": "Fruit"}
        news = {"id": f"c{number}", "article": f"A town ate {_TOPICS[number]}.", "site": "news"}
        empty = dict.fromkeys(("id", "post", "title", "subreddit", "site", "article"))
        return {"info": {**empty, **(news if number % 4 == 3 else post)}, **more}

    def text(words: str) -> Row:
        return {"text": f" {words}", "policy": "sup2", "note": None}

    def pair(number: int) -> Row:
        summaries = [text("Ate fruit."), text("Nothing.")]
        more = {"worker": "w", "batch": "batch3", "split": "train", "extra": {"confidence": 8}}
        return row(number, summaries=summaries, choice=number % 2, **more)

    def rated(number: int) -> Row:
        axes = {"overall": 5, "accuracy": 6, "coverage": 4, "coherence": 7}
        return row(number, summary={**text("Ate fruit."), "axes": axes}, worker="w", batch="b")

    pairs, ratings = [pair(n) for n in range(12)], [rated(n) for n in range(12)]
    return copies(
        {
            "comparisons": {"train": pairs, "validation": pairs},
            "axis": {"test": ratings, "validation": ratings},
        }
    )


def _news() -> Files:
    rows = [
        {
            "article": f"A town in the south grew {topic} this year, its mayor said.",
            "highlights": f"A town grew {topic} .\nIts mayor said so .",
            "id": _hash(topic, 40),
        }
        for topic in _TOPICS
    ]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    return tables(dict.fromkeys(("1.0.0", "2.0.0", "3.0.0"), splits))


ROWS: dict[str, Callable[[], Files]] = {
    "databricks/databricks-dolly-15k": _dolly,
    "kowndinya23/flan2022": _flan2022,
    "Anthropic/hh-rlhf": _hh_rlhf,
    "HuggingFaceH4/ultrafeedback_binarized": _ultrafeedback,
    "HuggingFaceH4/ultrachat_200k": _ultrachat,
    "nvidia/HelpSteer2": _helpsteer2,
    "trl-lib/tldr": _tldr,
    "trl-lib/tldr-preference": _tldr_preference,
    "tatsu-lab/alpaca": _alpaca,
    "sahil2801/CodeAlpaca-20k": _code_alpaca,
    "NousResearch/hermes-function-calling-v1": _hermes,
    "NousResearch/Hermes-3-Dataset": _hermes_3,
    "Salesforce/xlam-function-calling-60k": _xlam,
    "glaiveai/glaive-function-calling-v2": _glaive_text,
    "llamafactory/glaive_toolcall_en": _glaive_share,
    "openai/summarize_from_feedback": lambda: script("summarize_from_feedback"),
    "abisee/cnn_dailymail": _news,
}
GATED = ("Salesforce/xlam-function-calling-60k",)
ROW_COPIES: dict[str, Callable[[], Files]] = {"openai/summarize_from_feedback": _feedback_copy}
