#!/usr/bin/env python3
"""Is started, answers and ends as vLLM does, as a process of its own: BEZOAR_VLLM names this file.

FAKE_VLLM holds what goes wrong: `dies` as it starts, or a number of answers after which it ends;
FAKE_WORDS what it answers, one by the seed of the request; FAKE_FAULTS, a list in JSON, what comes
for the first ones: [status, body], null where the connection ends, or true for an answer.
Standard output, which becomes the log, has a line of JSON for its arguments and each request.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

ORDERS = os.environ.get("FAKE_VLLM", "")
WORDS = os.environ.get("FAKE_WORDS", "yes").split()
faults = json.loads(os.environ.get("FAKE_FAULTS", "[]"))
LENGTH = dict(pairwise(sys.argv)).get("--max-model-len", "64")
answers = 0


def tell(*what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        return

    def do_GET(self) -> None:
        known = {"/health": {}, "/v1/models": {"data": [{"max_model_len": int(LENGTH)}]}}
        self.reply(200 if self.path in known else 404, known.get(self.path))

    def do_POST(self) -> None:
        global answers
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self.reply(401, {"error": "unauthorized"})
        tell(self.path, body)
        if self.path.endswith("lora_adapter"):
            known = os.path.isdir(body.get("lora_path", "/"))
            return self.reply(200 if known else 404, {"message": "no such adapter"})
        if answers == int(ORDERS or -1):
            tell("out of memory")
            os._exit(1)
        fault = faults.pop(0) if faults else True
        if fault is not True:
            self.close_connection = fault is None
            return self.send(*fault) if fault else None
        answers += 1
        if "prompt_logprobs" in body:
            # the longer a prompt, the less likely each of its tokens
            places = [[{str(i): {"logprob": -len(p)}} for i in p] for p in body["prompt"]]
            choices = [{"index": i, "prompt_logprobs": p} for i, p in enumerate(places)]
            return self.reply(200, {"choices": choices, "usage": {"prompt_tokens": 1}})
        if self.path == "/v1/completions":
            # as the tokenizers of test models number them
            word = WORDS[body.get("seed", 0) % len(WORDS)]
            ids = [ord(letter) - ord("!") for letter in word] + body["stop_token_ids"][:1]
            choice = {"index": 0, "token_ids": ids, "finish_reason": "stop", "text": word}
            choice["logprobs"] = {"token_logprobs": [-0.5] * len(ids)}
        else:
            text = body["messages"][-1]["content"].upper()
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.reply(
            200, {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        )

    def reply(self, status: int, body: object) -> None:
        self.send(status, json.dumps(body))

    def send(self, status: int, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    tell(*sys.argv[1:])
    if ORDERS == "dies":
        sys.exit("ValueError: no such model architecture")
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
