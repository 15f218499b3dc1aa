"""Runs in the Python of an environment with xllamacpp: llama.cpp's server with a chat template.

Standard input is {model, template, bodies, prompts}; standard output the lists of the replies to
`bodies` (chat completions) and of the texts that the template makes of `prompts`.
"""

import json
import sys
import urllib.request

import xllamacpp  # type: ignore[import-not-found]

asked = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = asked["model"]
params.chat_template = asked["template"]
params.use_jinja = True
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 4096, 1, 2
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)


def post(path: str, body: object) -> object:
    """The reply of the server, an error too."""
    request = urllib.request.Request(
        server.listening_address + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)


replies = [post("/v1/chat/completions", body) for body in asked["bodies"]]
texts = [post("/apply-template", body) for body in asked["prompts"]]
print("\n" + json.dumps([replies, texts]))
