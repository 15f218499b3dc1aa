"""Servers that refuse, fail for a while, leak the key, or answer oddly."""

import base64
import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from hostile.command import Place, Row, place
from hostile.server import serving

KEY = "sk-Lm4Nb7Vc2Xz9As6Df3Gh8"
STRANGERS = {
    "OPENAI_ORG_ID": "org-stranger",
    "OPENAI_PROJECT_ID": "proj-stranger",
    "OPENAI_CUSTOM_HEADERS": "X-Stranger: custom-stranger",
}


def refused(num: int) -> Row:
    """13 rows are refused for good."""
    with (
        place() as folder,
        serving(
            {"kind": "fail", "status": 400, "numbers": list(range(100, 113)), "said": "no"}
        ) as server,
    ):
        folder.rows(num)
        folder.filter(server, concurrency=16)
        first, asked = folder.run(), server.status()["count"]
        again, later = folder.run(), server.status()["count"]
    ok = (
        first.code == again.code == 0
        and asked == later == num
        and "13 unparsed" in first.said.replace("\n", " ")
    )
    return Row(
        f"13 of {num} rows always get 400: their rows' failure, counted; the stage ends, and a"
        " second run asks nothing",
        f"exit code {first.code}, {asked} asked; again: exit code {again.code}, {later - asked}"
        " asked",
        ok,
        {"asked": asked, "asked_again": later - asked},
    )


def passes(what: str, num: int, plan: dict[str, Any], failed: int) -> Row:
    """A failure that passes: unfinished, then the same command asks for what `failed` and no more.
    `failed` 0 is all of them."""
    with place() as folder, serving(plan) as server:
        folder.rows(num)
        folder.filter(server, retries=0)
        first, asked = folder.run(), server.status()["count"]
        keyed = len(list(folder.path.glob("runs/toy/*-kept/key.json")))
        server.now({"kind": "fine"})
        then, later = folder.run(), server.status()["count"]
    wanted = failed or num
    ok = (
        first.code == 3
        and not keyed
        and then.code == 0
        and later - asked == wanted
        and f"of {num}" in then.said
        and "the same command" in first.said
    )
    return Row(
        f"{what}: exit code 3 and no key; once mended the same command asks for the {wanted} that"
        " failed alone",
        f"{asked} asked, exit code {first.code}; mended: {later - asked} asked, exit code"
        f" {then.code}",
        ok,
        {"asked": asked, "asked_when_mended": later - asked},
    )


def leaked(folder: Place, said: str) -> list[str]:
    """The parts of the key, in any form, that are in a file of the run or in what was said."""
    text = said + "".join(
        p.read_bytes().decode("latin-1") for p in folder.path.rglob("*") if p.is_file()
    )
    raw = KEY.encode()
    forms = {
        KEY,
        quote(KEY, safe=""),
        raw.hex(),
        *(base64.b64encode(b"\0" * n + raw).decode()[2:-2] for n in range(3)),
    }
    return sorted(
        {form[i : i + 8] for form in forms for i in range(len(form) - 7) if form[i : i + 8] in text}
    )


def secret(num: int) -> Row:
    """The server sends the key back in every form and place."""
    raw = KEY.encode()
    forms = [
        KEY,
        KEY[:20],
        KEY[2:10],
        quote(KEY, safe=""),
        base64.b64encode(raw).decode(),
        base64.b64encode(b"u:" + raw).decode(),
        raw.hex(),
        "y" * 185 + KEY,
    ]
    bodies: list[tuple[int, str | None]] = [(200, None)]
    for form in forms:
        answer = json.dumps({"choices": [{"message": {"content": f"Reject: {form}"}}]})
        bodies += [
            (400, form),
            (500, form),
            (200, json.dumps({"error": {"message": form}})),
            (200, answer),
            (200, '{"choices": [{"message": {"content": "' + form),
        ]
    found, sent, asked = list[str](), True, 0
    with place() as folder, serving({"kind": "say", "bodies": bodies}) as server:
        folder.rows(num)
        for value in (f" {KEY}\n", f"{KEY}\r\n\t"):
            folder.filter(server, key_env="THE_KEY", retries=1, concurrency=1)
            done = folder.run(env={"THE_KEY": value, **STRANGERS})
            sent = (
                sent
                and f"Bearer {KEY}\r\n" in server.status()["headers"]
                and "stranger" not in server.status()["headers"].lower()
            )
            found += leaked(folder, done.said)
        asked = server.status()["count"]
    ok = not found and sent and asked > num and done.code in (0, 3)
    return Row(
        "the key, echoed whole, cut, in base64, quoted and in hex, by 400, 500 and 200: in no file"
        " and on no screen; nothing of OPENAI_* is sent",
        f"{asked} replies, {len(bodies) - 1} forms; {len(found)} parts of at least 8 characters"
        " found",
        ok,
        {"replies": asked, "found": len(found)},
    )


def advised() -> Row:
    """Keys that cannot be sent or stand where they are stored are refused with advice before
    anything is asked."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, f"{KEY}ü"),
        ({}, f"{KEY} {KEY}"),
        ({}, f"{KEY}\n{KEY}"),
        ({"url_more": f"?api_key={KEY}"}, KEY),
        ({"url_more": f"?x={KEY}"}, KEY),
        ({"extra": {"api_key": KEY}}, KEY),
        ({"extra": {"deep": [{"headers": {"Authorization": f"Bearer {KEY}"}}]}}, KEY),
        ({"extra": {"x": KEY}}, KEY),
    ]
    held = found = 0
    for more, value in wrong:
        with place() as folder, serving({"kind": "fine"}) as server:
            folder.rows(3)
            folder.filter(
                server, key_env="THE_KEY", **{k: v for k, v in more.items() if k != "url_more"}
            )
            recipe = (folder.path / "toy.yaml").read_text()
            (folder.path / "toy.yaml").write_text(
                recipe.replace(server.url, server.url + more.get("url_more", ""))
            )
            done = folder.run(env={"THE_KEY": value})
            (folder.path / "toy.yaml").unlink()  # where the person has written the key
            held += (
                done.code == 2
                and ("copy it again" in done.said or "key_env" in done.said)
                and server.status()["count"] == 0
            )
            found += bool(leaked(folder, done.said))
    return Row(
        "a key with a letter beyond ASCII or a space, and one in the url or in extra: refused with"
        " advice, unseen",
        f"{held} of {len(wrong)} refused, {found} shown",
        held == len(wrong) and not found,
        {"refused": held, "of": len(wrong), "shown": found},
    )


def odd() -> list[tuple[int, str | None]]:
    """Answers of odd shapes; two of three are proper ones."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    messages: list[Any] = [
        {"content": [{"type": "text", "text": "Accept: "}, {"type": "text", "text": "in parts"}]},
        {"content": None, "refusal": "I will not"},
        {"content": [{"type": "refusal", "refusal": "no"}]},
        {
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"content": None, "reasoning_content": "hm"},
        {"content": 7},
        {"content": {"text": "Accept"}},
        {"content": [{"type": "image_url"}]},
        None,
        [],
        "Accept",
        {},
        {"content": ["Accept: ", "b"]},
        {"content": "\ud800 Accept"},
        {"content": "Accept: \x1b]52;c;x\x07"},
    ]
    bodies = [
        json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})
        for message in messages
    ]
    proper = {"choices": [{"message": {"content": "Accept: fine"}}]}
    bodies += [
        json.dumps({**proper, "usage": value})
        for value in (
            [],
            "many",
            None,
            {"prompt_tokens": -1, "completion_tokens": True},
            {"completion_tokens": 1e308},
        )
    ]
    bodies += [
        json.dumps(
            {"choices": [{"message": {"content": "Ac"}, "finish_reason": "content_filter"}]}
        ),
        "null",
        "[]",
        "7",
        '{"choices": {}}',
        '{"choices": [[]]}',
    ]
    return [item for body in bodies for item in ((200, body), (200, None), (200, None))]


def read_once() -> Row:
    """Whatever a 200 holds is stored and not asked for again, also when the stage is made anew."""
    bodies = odd()
    with place() as folder, serving({"kind": "say", "bodies": bodies}) as server:
        folder.rows(len(bodies))
        folder.filter(server, retries=2)
        first, asked = folder.run(), server.status()["count"]
        shutil.rmtree(next(folder.path.glob("runs/toy/*-kept")))
        again, later = folder.run(), server.status()["count"]
    # a body without any choice in it may be asked for another time at once
    ok = (
        first.code == again.code == 0
        and asked == later <= len(bodies) + 2 * 6
        and "Traceback" not in first.said + again.said
    )
    return Row(
        f"{len(bodies) // 3} odd answers (parts, refusals, tool calls, numbers, usage of every"
        " kind): read or a typed failure, never asked for again",
        f"{asked} asked for {len(bodies)} rows, exit code {first.code}; the stage made anew:"
        f" {later - asked} asked, exit code {again.code}",
        ok,
        {"rows": len(bodies), "asked": asked, "asked_again": later - asked},
    )


def rows(quick: bool) -> Iterator[Row]:
    """The scenarios of this file."""
    yield refused(120 if quick else 500)
    yield passes("402 on everything", 60, {"kind": "fail", "status": 402, "said": "pay first"}, 0)
    yield passes(
        "a key that is refused (401)", 60, {"kind": "fail", "status": 401, "said": "who are you"}, 0
    )
    yield passes(
        "503 on 7 of 60",
        60,
        {"kind": "fail", "status": 503, "numbers": [3, 9, 17, 18, 19, 40, 59]},
        7,
    )
    yield secret(82)
    yield advised()
    yield read_once()
