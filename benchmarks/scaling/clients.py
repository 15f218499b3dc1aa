"""The same questions to the same server by bezoar and by others, each in a process of its own.

    python benchmarks/scaling/clients.py NAME URL NUM CONCURRENCY

Prints {"wall_s", "cpu_s"} of the asking alone, without imports; exit code 4 where the client is not
installed.
"""

import asyncio
import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT = "Ask number {}. Answer in a few words."
MAX_TOKENS = 200
Ask = Callable[[], Any]


def bezoar(url: str, num: int, concurrency: int) -> Ask:
    """Every reply in the journal, on the disk, before it is read."""
    from bezoar.chat.types import Message
    from bezoar.llm.budget import Budget
    from bezoar.llm.endpoint import Endpoint
    from bezoar.llm.journal import Journal
    from bezoar.llm.pool import Pool
    from bezoar.llm.types import Request
    from bezoar.progress import Progress

    requests = [
        Request((Message("user", PROMPT.format(i)),), max_tokens=MAX_TOKENS) for i in range(num)
    ]
    how = {"concurrency": concurrency, "timeout_s": float(os.environ.get("TIMEOUT_S", 60))}
    backend = Endpoint(url, "m", backoff_s=0.1, retries=8, **how).open()

    def ask() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            Journal(Path(folder) / "journal.sqlite") as journal,
        ):
            replies = Pool(backend, journal, Budget(), Progress()).ask_all(requests)
            assert len(journal.get_many(r.key(backend.identity) for r in requests)) == num
        assert all(reply.finish == "stop" for reply in replies)

    return ask


def openai(url: str, num: int, concurrency: int) -> Ask:
    """A bare asyncio loop with OpenAI's client; nothing is written down."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    # its HTTP library has changed its name; with its own limits it would connect again and again
    library = sys.modules[DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]]
    limits = library.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)

    async def ask_all() -> None:
        http, numbers = DefaultAsyncHttpxClient(limits=limits, timeout=60), iter(range(num))
        async with AsyncOpenAI(base_url=url, api_key="none", http_client=http) as client:

            async def worker() -> None:
                for number in numbers:
                    turn: Any = {"role": "user", "content": PROMPT.format(number)}
                    reply = await client.chat.completions.create(
                        model="m", messages=[turn], max_tokens=MAX_TOKENS, temperature=0.0
                    )
                    assert reply.choices[0].message.content

            await asyncio.gather(*(worker() for _ in range(concurrency)))

    return lambda: asyncio.run(ask_all())


def aiohttp(url: str, num: int, concurrency: int) -> Ask:
    """A bare aiohttp loop; nothing is written down."""
    import aiohttp as library

    async def ask_all() -> None:
        numbers = iter(range(num))
        async with library.ClientSession(connector=library.TCPConnector(limit=0)) as session:

            async def worker() -> None:
                for number in numbers:
                    turn = {"role": "user", "content": PROMPT.format(number)}
                    body = {"model": "m", "messages": [turn], "max_tokens": MAX_TOKENS}
                    async with session.post(url + "/chat/completions", json=body) as answer:
                        assert json.loads(await answer.read())["choices"]

            await asyncio.gather(*(worker() for _ in range(concurrency)))

    return lambda: asyncio.run(ask_all())


def curator(url: str, num: int, concurrency: int) -> Ask:
    """Bespoke Curator with its cache, which is its journal."""
    os.environ |= {"OPENAI_API_KEY": "none", "TELEMETRY_ENABLED": "0"}
    # without a network it finds the tokenizer that another of its libraries ships
    spec = importlib.util.find_spec("litellm")
    for folder in spec.submodule_search_locations or () if spec else ():
        place = Path(folder) / "litellm_core_utils" / "tokenizers"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(place))
    from bespokelabs import curator as library
    from datasets import Dataset

    class Asking(library.LLM):
        def prompt(self, row: dict[str, Any]) -> str:
            return str(row["prompt"])

        def parse(self, row: dict[str, Any], reply: str) -> list[dict[str, Any]]:
            return [{"reply": reply}]

    params = {
        "base_url": url,
        "max_concurrent_requests": concurrency,
        "max_requests_per_minute": 10**6,
        "max_tokens_per_minute": 10**9,
        "max_retries": 8,
    }
    sampling = {"max_tokens": MAX_TOKENS, "temperature": 0.0}
    asking = Asking("m", backend="openai", backend_params=params, generation_params=sampling)
    rows = Dataset.from_list([{"prompt": PROMPT.format(i)} for i in range(num)])

    def ask() -> None:
        with tempfile.TemporaryDirectory() as folder:
            assert len(asking(rows, working_dir=folder).dataset) == num

    return ask


CLIENTS: dict[str, Callable[[str, int, int], Ask]] = {
    "bezoar": bezoar,
    "aiohttp": aiohttp,
    "openai": openai,
    "curator": curator,
}


def main() -> None:
    name, url, num, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    try:
        ask = CLIENTS[name](url, num, concurrency)
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(4)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    ask()
    wall_s, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
