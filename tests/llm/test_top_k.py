"""top_k on the way from a recipe to a server and to a model of our own."""

from bezoar.chat.types import Message
from bezoar.llm.openai_format import to_body
from bezoar.llm.types import Request
from bezoar.model.spec import Sampling

ASKED = (Message("user", "Which?"),)


def test_it_is_sent_and_keyed_where_it_is_set() -> None:
    plain = Request.sampled(ASKED, Sampling(), 3)
    narrow = Request.sampled(ASKED, Sampling(top_k=50), 3)
    assert narrow.top_k == 50
    assert plain.key("m") != narrow.key("m")
    assert to_body(narrow)["top_k"] == 50
    assert "top_k" not in to_body(plain)


def test_without_it_requests_have_the_keys_of_older_journals() -> None:
    request = Request(ASKED, 0.7, 0.9, 64, ("x",), "<", (), 5)
    assert "top_k" not in request.content()
    assert list(request.content()) == [
        *("messages", "temperature", "top_p", "max_tokens", "stop", "prefill", "choices", "seed")
    ]
    assert request.key("a model") == "8fa3704246d2b617"
