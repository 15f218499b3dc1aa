"""Answers that were begun: right on servers that go on with them, that must be told to, and that
cannot; found out once a run, in requests alone."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Chat, Filtered, Message
from bezoar.errors import UnfinishedError
from bezoar.llm.begun import FLAGS
from bezoar.llm.budget import Budget, Prices
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.types import Reply, Request
from bezoar.progress import Progress
from bezoar.synth.lamini import LaMini
from bezoar.terminal import Console
from tests.helpers.server import Behaviour, answer, serving

NAMES = ("river", "stone", "cloud", "bread", "ship", "moon", "garden", "window")
SEEDS = [
    Chat(f"s{i}", (Message("user", f"Describe a {name} in a few words."),))
    for i, name in enumerate(NAMES)
]


def whole(messages: list[dict[str, Any]]) -> str:
    """What the model behind every server writes from the start of its answer on."""
    asked = next(m["content"] for m in messages if m["role"] == "user")
    if asked.startswith("Repeat this line"):
        return asked.split(": ")[1]
    if "<example>" not in asked:
        return "An answer."
    topics = [f"Why do {word}s matter to sailors?" for word in NAMES]
    return "".join(f"<example>{text}</example>\n" for text in topics)


def continued(messages: list[dict[str, Any]]) -> str:
    begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    text = whole(messages)
    assert text.startswith(begun)
    return text.removeprefix(begun)


def new_turn(messages: list[dict[str, Any]]) -> str:
    asked = " ".join(m["content"] for m in messages if m["role"] == "user")
    preamble = "Sure! Here they are:\n" if "<example>" in asked else ""
    return preamble + whole(messages)


def cut(text: str, body: dict[str, Any]) -> str:
    """So much of it as the tokens allow that were asked for, of four characters each."""
    return text[: 4 * body["max_tokens"]]


def llama_cpp(body: dict[str, Any], seen: int) -> Any:
    """Goes on with a last turn of the assistant, whatever else it is told."""
    return answer(cut(continued(body["messages"]), body))


def llama_cpp_gives_back(body: dict[str, Any], seen: int) -> Any:
    """Gives the beginning back, and what it goes on with."""
    last = body["messages"][-1]
    begun = last["content"] if last["role"] == "assistant" else ""
    return answer(begun + cut(continued(body["messages"]), body))


def vllm(body: dict[str, Any], seen: int) -> Any:
    """Refuses a last turn of the assistant without the flags, and the flags without such a turn."""
    flagged, last = body.get("continue_final_message"), body["messages"][-1]["role"]
    if bool(flagged) != (last == "assistant") or flagged == body.get("add_generation_prompt", True):
        return 400, {}, json.dumps({"object": "error", "message": "bad request", "code": 400})
    return answer(cut(continued(body["messages"]), body))


def vllm_new_turn(body: dict[str, Any], seen: int) -> Any:
    """Without the flags it begins a new turn, as most templates do."""
    if body.get("continue_final_message"):
        return vllm(body, seen)
    return answer(cut(new_turn(body["messages"]), body))


def openai(body: dict[str, Any], seen: int) -> Any:
    """Knows no flags, and begins a new turn behind one of the assistant."""
    if unknown := body.keys() & FLAGS.keys():
        text = {"error": {"message": f"Unrecognized request argument supplied: {unknown}"}}
        return 400, {}, json.dumps(text)
    return answer(cut(new_turn(body["messages"]), body))


def refuses(body: dict[str, Any], seen: int) -> Any:
    """Refuses a last turn of the assistant in any form."""
    if body["messages"][-1]["role"] == "assistant":
        return 400, {}, json.dumps({"error": {"message": "the last message must be the user's"}})
    return openai(body, seen)


def errs(body: dict[str, Any], seen: int) -> Any:
    """Says so inside a 200, in words alone."""
    if body["messages"][-1]["role"] == "assistant":
        return 200, {}, json.dumps({"error": "the last message must be of the user"})
    return openai(body, seen)


SERVERS: dict[str, Behaviour] = {
    "turn": llama_cpp,
    "turn, given back": llama_cpp_gives_back,
    "flags": vllm,
    "flags, by the second probe": vllm_new_turn,
    "words": openai,
    "words, where nothing else is let in": refuses,
}


def pool(url: str, journal: Journal, **more: Any) -> Pool:
    endpoint = Endpoint(url=url, model="m", backoff_s=0.01, **more)
    return Pool(endpoint.open(), journal, Budget(), Progress(), stage="lamini")


def lamini(asked: Pool) -> Filtered[Chat]:
    return LaMini("s", "t", num_rows=6, topic_share=0.0).generate(SEEDS, asked.ask_all, seed=1)


@pytest.mark.parametrize("kind", SERVERS)
def test_lamini_has_the_same_rows_from_every_server(kind: str, tmp_path: Path) -> None:
    with serving(SERVERS[kind]) as server, Journal(tmp_path / "j.sqlite") as journal:
        first = pool(server.url, journal)
        found = lamini(first)
        assert [row.prompt[0].content for row in found.rows] == [
            f"Why do {word}s matter to sailors?" for word in NAMES[:6]
        ]
        assert not [d for d in found.dropped if d.reason != "surplus"]
        assert first.backend.way == kind.split(",")[0]  # type: ignore[union-attr]
        # what was found out is in the journal: neither the next stage nor the next run asks again
        num = len(server.bodies)
        assert lamini(pool(server.url, journal)) == found
        assert len(server.bodies) == num
        again = pool(server.url, journal)
        again.ask_all([Request((Message("user", "<example> more"),), prefill="<example>")])
        assert len(server.bodies) <= num + 1 + (kind.startswith("words, where")) * 2


@pytest.mark.parametrize("kind", SERVERS)
def test_the_setting_is_in_the_requests_that_begin_an_answer_alone(
    kind: str, tmp_path: Path
) -> None:
    with serving(SERVERS[kind]) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(server.url, journal)
        lamini(asked)
        for body in server.bodies:
            is_begun = body["messages"][-1]["role"] == "assistant"
            assert is_begun or not body.keys() & FLAGS.keys()
        # what the probes cost is counted as every other request
        assert asked.counts()["completion_tokens"] == 5 * sum(server.answered.values())


def test_flags_in_extra_neither_break_answers_nor_need_a_probe(tmp_path: Path) -> None:
    with serving(vllm) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(server.url, journal, extra=FLAGS)
        assert len(lamini(asked).rows) == 6
        assert not any(
            m["content"].startswith("Repeat") for b in server.bodies for m in b["messages"]
        )


def test_journals_keep_their_keys(tmp_path: Path) -> None:
    request = Request((Message("user", "hi"),), prefill="<example>")
    # as in journals that were written before servers were asked how they go on
    assert request.key("m") == "42a40860cfc41611"
    # replies of a run from before are found, and nothing is asked, not even a probe
    with serving(openai) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(server.url, journal)
        asked.ask([request])
        num = len(server.bodies)
        assert asked.ask_all([request])[0].finish == "stop"
        assert len(server.bodies) == num


def test_what_was_found_out_is_told_once(tmp_path: Path) -> None:
    for kind, told in (("turn", "goes on with"), ("words", "cannot go on with")):
        out = io.StringIO()
        with serving(SERVERS[kind]) as server, Journal(tmp_path / kind) as journal:
            backend = Endpoint(url=server.url, model="m").open()
            progress = Progress("lamini", console=Console(file=out, width=300))
            asked = Pool(backend, journal, Budget(), progress, "lamini", "05 lamini: {} to teacher")
            for number in range(2):
                message = Message("user", f"<example> {number}")
                asked.ask([Request((message,))])
                asked.ask_all([Request((message,), prefill="<example>")])
        assert out.getvalue().count(f"{server.url} {told}") == 1
        assert out.getvalue().count("05 lamini: 1 request to teacher, 1 at a time") == 1


def test_a_server_that_says_in_a_200_that_it_cannot_is_told_in_words(tmp_path: Path) -> None:
    with serving(errs) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(server.url, journal)
        assert len(lamini(asked).rows) == 6
        assert asked.backend.way == "words"  # type: ignore[union-attr]


def test_a_server_that_is_not_up_yet_is_not_found_to_be_unable(tmp_path: Path) -> None:
    def cold(body: dict[str, Any], seen: int) -> Any:
        # as long as two probes without a retry would be asked
        return (503, {}, "starting") if len(server.bodies) <= 2 else llama_cpp(body, seen)

    begun = Request((Message("user", "<example> 1"),), prefill="<example>")
    with serving(cold) as server, Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(UnfinishedError, match="the server answered 503"):
            pool(server.url, journal, retries=0).ask_all([begun])
        asked = pool(server.url, journal)
        assert asked.ask_all([begun])[0].finish == "stop"
        assert asked.backend.way == "turn"  # type: ignore[union-attr]


def test_no_probe_where_no_answer_is_begun(tmp_path: Path) -> None:
    with serving(llama_cpp) as server, Journal(tmp_path / "j.sqlite") as journal:
        pool(server.url, journal).ask_all([Request((Message("user", "hi"),))])
        assert len(server.bodies) == 1


def test_a_body_that_a_killed_process_left_unread_is_read_as_it_was_asked(tmp_path: Path) -> None:
    from bezoar.llm.journal import Entry

    request = Request((Message("user", "write <example>"),), prefill="<example>")
    with serving(openai) as server, Journal(tmp_path / "j.sqlite") as journal:
        first = pool(server.url, journal)
        first.ask_all([Request((Message("user", "an <example>"),), prefill="<example>")])
        identity = first.backend.identity
        body = answer("Sure!\n<example>Unread</example>")[2]
        journal.put_many([Entry(request.key(identity), request, None, identity, body=body)])
        num = len(server.bodies)
        [reply] = pool(server.url, journal).ask_all([request])
        assert reply.text == "Unread</example>"
        assert len(server.bodies) == num


def top(**chances: float) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": value} for token, value in chances.items()]


def test_a_choice_behind_words_that_the_model_writes_itself(tmp_path: Path) -> None:
    def judge(body: dict[str, Any], seen: int) -> Any:
        if not body.get("logprobs"):
            return openai(body, seen)
        written = [("[[", top(x=-1.0)), ("B", top(A=-2.0, B=-0.1)), ("]]", top(y=-1.0))]
        content = [{"token": token, "top_logprobs": tops} for token, tops in written]
        content = content[: body["max_tokens"]]
        text = "".join(item["token"] for item in content)
        return answer(text, logprobs={"content": content})

    request = Request((Message("user", "A or B?"),), prefill="[[", choices=("A", "B"))
    with serving(judge) as server, Journal(tmp_path / "j.sqlite") as journal:
        asked = pool(server.url, journal, prices=Prices(1.0, 1.0))
        assert asked.ask_all([request])[0].logprobs == (-2.0, -0.1)


def test_an_answer_that_does_not_begin_as_asked_is_no_answer(tmp_path: Path) -> None:
    text = "I would rather not. " * 100

    def stubborn(body: dict[str, Any], seen: int) -> Any:
        return answer(text) if "begin" in str(body).lower() else openai(body, seen)

    request = Request((Message("user", "write"),), prefill="<example>")
    with serving(stubborn) as server, Journal(tmp_path / "j.sqlite") as journal:
        [reply] = pool(server.url, journal).ask_all([request])
    assert (reply.finish, reply.failure) == ("error", "malformed")
    assert reply.error == f"the answer does not hold '<example>': {text[:400]}"
    assert isinstance(reply, Reply)
