"""Answers of a form from servers that hold to it, by either key, and from those that do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Message
from bezoar.errors import BudgetError, EndpointError, RecipeError, UnfinishedError
from bezoar.llm.budget import Budget, Prices
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.types import Request
from bezoar.model.structured_output import StructuredOutput
from bezoar.progress import Progress
from tests.helpers.server import Behaviour, answer, serving

QUESTION = Request((Message("user", "Is it good?"),), max_tokens=40)
FORMS = {
    "json": StructuredOutput.schema({"type": "object", "properties": {"a": {"enum": ["x"]}}}),
    "regex": StructuredOutput(regex="Accept|Reject"),
    "choice": StructuredOutput(choice=("Accept", "Reject")),
}


def asked(form: StructuredOutput) -> Request:
    return Request(QUESTION.messages, max_tokens=40, form=form)


def an_example(schema: dict[str, Any]) -> str:
    return json.dumps({name: inner["enum"][0] for name, inner in schema["properties"].items()})


def vllm(body: dict[str, Any], seen: int) -> Any:
    """Holds to every form, by its own key."""
    form = body.get("structured_outputs", {})
    if "json" in form:
        return answer(an_example(form["json"]))
    return answer(form.get("choice", [form.get("regex", "Well.").split("|")[0]])[0])


def openai(body: dict[str, Any], seen: int) -> Any:
    """Holds to schemas alone, and refuses keys that it does not know."""
    if "structured_outputs" in body:
        return 400, {}, json.dumps({"error": {"message": "Unrecognized argument"}})
    form = body.get("response_format")
    return answer(an_example(form["json_schema"]["schema"]) if form else "Well.")


def deaf(body: dict[str, Any], seen: int) -> Any:
    """Passes over what it does not know."""
    return answer("The Rhine.")


def pool(url: str, journal: Journal) -> Pool:
    return Pool(Endpoint(url=url, model="m", backoff_s=0.01).open(), journal, Budget(), Progress())


@pytest.mark.parametrize(
    ("server", "kind", "key"),
    [
        (vllm, "json", "structured_outputs"),
        (vllm, "regex", "structured_outputs"),
        (vllm, "choice", "structured_outputs"),
        (openai, "json", "response_format"),
    ],
)
def test_the_key_is_found_out_once(server: Behaviour, kind: str, key: str, tmp_path: Path) -> None:
    with serving(server) as served, Journal(tmp_path / "j.sqlite") as journal:
        reply = pool(served.url, journal).ask_all([asked(FORMS[kind]), QUESTION])
        assert reply[0].text == ('{"a": "x"}' if kind == "json" else "Accept")
        held = [key in body for body in served.bodies]
        assert held[-2:] in ([True, False], [False, True])
        num = len(served.bodies)
        again = pool(served.url, journal).ask_all([asked(FORMS[kind])])
        assert again == reply[:1]
        assert len(served.bodies) == num


@pytest.mark.parametrize(("server", "kind"), [(openai, "regex"), (deaf, "json"), (deaf, "choice")])
def test_a_server_that_does_not_hold_to_it_is_refused(
    server: Behaviour, kind: str, tmp_path: Path
) -> None:
    now = [server]
    behaviour: Behaviour = lambda body, seen: now[0](body, seen)  # noqa: E731
    with serving(behaviour) as served, Journal(tmp_path / "j.sqlite") as journal:
        for _ in range(2):
            with pytest.raises(EndpointError, match="does not hold answers to a form") as raised:
                pool(served.url, journal).ask_all([asked(FORMS[kind])])
            assert kind in str(raised.value)
            assert not any("Is it good" in str(body["messages"]) for body in served.bodies)
        # a server that was started anew is asked anew
        now[0] = vllm
        assert pool(served.url, journal).ask_all([asked(FORMS[kind])])[0].finish == "stop"


def test_a_probe_without_an_answer_says_nothing_of_the_server(tmp_path: Path) -> None:
    prices = Prices(1.0, 1e6)
    with serving(vllm) as served, Journal(tmp_path / "j.sqlite") as journal:
        backend = Endpoint(url=served.url, model="m", prices=prices).open()
        poor = Pool(backend, journal, Budget(0.01), Progress())
        with pytest.raises(BudgetError, match="1 of 1 requests were not asked"):
            poor.ask_all([asked(FORMS["regex"])])
        assert not served.bodies
    cold: Behaviour = lambda body, seen: (503, {}, "starting")  # noqa: E731
    with serving(cold) as served, Journal(tmp_path / "k.sqlite") as journal:
        backend = Endpoint(url=served.url, model="m", backoff_s=0.01, retries=0).open()
        with pytest.raises(UnfinishedError, match="the server answered 503"):
            Pool(backend, journal, Budget(), Progress()).ask_all([asked(FORMS["regex"])])


def test_a_backend_that_holds_to_no_form_is_refused(tmp_path: Path) -> None:
    class Program:
        identity = "a program"

    with Journal(tmp_path / "j.sqlite") as journal:
        asking = Pool(Program(), journal, Budget(), Progress())  # type: ignore[arg-type]
        with pytest.raises(RecipeError, match="a program holds answers to no form"):
            asking.ask([asked(FORMS["regex"])])
