"""Language models: one question, one reply, each journalled before it is read."""

from bezoar.llm.endpoint import Endpoint
from bezoar.llm.local import Local
from bezoar.llm.openvino import Openvino
from bezoar.llm.scripted import Scripted
from bezoar.llm.vllm import Vllm

OneBackend = Endpoint | Local | Openvino | Vllm | Scripted
BACKENDS: dict[str, type] = {
    "endpoint": Endpoint,
    "local": Local,
    "openvino": Openvino,
    "vllm": Vllm,
    "scripted": Scripted,
}
