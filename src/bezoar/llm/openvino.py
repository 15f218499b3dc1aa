"""OpenVINO as a language model of a recipe: a fixed model in this process, on the CPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bezoar.bounds import Count, NotNegative
from bezoar.chat.pieces import cut_at_stop
from bezoar.chat.templates import HubTemplate, Template
from bezoar.errors import DataError, RecipeError
from bezoar.io import cached_hash, canonical, content_hash, read_object
from bezoar.llm.gguf_head import check_gguf
from bezoar.llm.types import Backend, Reply, Request
from bezoar.model.resolve import reason
from bezoar.reading import user_path

_BESIDE = ("config.json", "tokenizer.json", "tokenizer_config.json")
_READ = (".json", ".jinja", ".txt", ".model", ".xml", ".bin")
_PRECISIONS: dict[str, dict[str, Any]] = {
    # not the CPU's own choice, by which answers would depend on the machine
    "int8": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "u8"},
    "float32": {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    },
}


@dataclass(frozen=True)
class Openvino:
    """A fixed language model that OpenVINO computes in this process, on the CPU.

    `pip install 'bezoar[openvino]'`. Take a GGUF file in Q8_0: of Q4_1 OpenVINO rounds the offsets,
    and answers are worse than the file's. config.json, tokenizer.json and tokenizer_config.json of
    the model lie beside it; they write the prompts, and the GGUF's own template is not read.

    Source: https://github.com/openvinotoolkit/openvino.genai
    Example: {kind: openvino, model: models/Qwen3-8B/Qwen3-8B-Q8_0.gguf}
    """

    model: str
    """A GGUF file, or a folder with openvino_model.xml; both with the tokenizer's files beside."""
    precision: Literal["int8", "float32"] = "int8"
    """int8 rounds the inputs of linear layers and the KV cache to 8 bits, in half of the time."""
    template: Annotated[Template, Field(discriminator="kind")] = field(default_factory=HubTemplate)
    """The chat template that writes its prompts; by default the tokenizer's own."""
    slots: Count = 64
    """Answers that are drawn side by side."""
    group: Count = 256
    """Requests that are answered and journalled together."""
    usd_per_hour: NotNegative = 0.0
    """US dollars for an hour of this machine: the time of its answers is on the bill and counts
    against the budget."""
    kind: Literal["openvino"] = "openvino"

    @property
    def identity(self) -> str:
        """The files (or the name of what is not there), the precision and the template."""
        path = user_path(self.model)
        is_there = self.folder.is_dir()
        files = sorted(p for p in self.folder.iterdir() if p.is_file()) if is_there else []
        # the model in other sizes and a recipe may lie in the same folder
        used = [p for p in files if p.suffix in _READ or p == path]
        model = content_hash([(p.name, cached_hash(p)) for p in used]) if used else self.model
        how = {"precision": self.precision, "template": asdict(self.template)}
        return canonical({"kind": self.kind, "model": model, **how})

    @property
    def folder(self) -> Path:
        """Where the tokenizer's files lie."""
        path = user_path(self.model)
        return path.parent if path.suffix == ".gguf" else path

    def check(self) -> None:
        """RecipeError unless all files are there."""
        path = user_path(self.model)
        if not (
            path.is_file() if path.suffix == ".gguf" else (path / "openvino_model.xml").is_file()
        ):
            what = "neither a GGUF file nor a folder with openvino_model.xml"
            raise RecipeError(f"model {self.model}: {what}; check the path.")
        if missing := [name for name in _BESIDE if not (self.folder / name).is_file()]:
            fix = f"copy {', '.join(_BESIDE)} there from the model that it was made of"
            raise RecipeError(f"model {self.model}: no {missing[0]} in {self.folder}; {fix}.")
        _ = self.context

    @property
    def context(self) -> int:
        """The most tokens that the model can see. DataError where config.json does not say it."""
        file = self.folder / "config.json"
        length = read_object(file).get("max_position_embeddings")
        if not isinstance(length, int):
            fix = "add the length of the context"
            raise DataError(f"{file}: no max_position_embeddings; {fix}.")
        return length

    def open(self) -> Backend:
        """The backend; the model is loaded by the first question that the journal cannot answer."""
        return OpenvinoBackend(self)


def check_installed() -> None:
    """RecipeError without OpenVINO."""
    if find_spec("openvino_genai") is None:
        raise RecipeError("OpenVINO is not installed; run `pip install 'bezoar[openvino]'`.")


@contextmanager
def _told(model: str) -> Iterator[None]:
    """DataError in place of an error of OpenVINO, which names places in its source."""
    try:
        yield
    except RuntimeError as error:
        raise DataError(f"model {model}: OpenVINO cannot compute it ({reason(error)}).") from None


class OpenvinoBackend:
    """An `Openvino` model, loaded when needed."""

    def __init__(self, openvino: Openvino) -> None:
        self.openvino, self.identity = openvino, openvino.identity
        self.usd_per_hour = openvino.usd_per_hour

    @cached_property
    def tokenizer(self) -> Any:
        # imported here: transformers takes seconds, and the journal may know all answers
        from bezoar.model.tokenizer import read_tokenizer

        self.openvino.check()
        tokenizer = read_tokenizer(self.openvino.folder)
        self.openvino.template.check(tokenizer)
        return tokenizer

    @cached_property
    def context(self) -> int:
        """The most tokens that the model can see."""
        return self.openvino.context

    @cached_property
    def pipeline(self) -> Any:
        check_installed()
        from openvino_genai import ContinuousBatchingPipeline, SchedulerConfig

        scheduling = SchedulerConfig()
        scheduling.max_num_seqs = self.openvino.slots
        path, how = user_path(self.openvino.model), _PRECISIONS[self.openvino.precision]
        if path.suffix == ".gguf":
            check_gguf(path)
        with _told(self.openvino.model):
            return ContinuousBatchingPipeline(str(path), scheduling, "CPU", how)

    def prompt(self, request: Request) -> list[int]:
        template = self.openvino.template
        return template.prompt(request.messages, self.tokenizer, prefill=request.prefill)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """`group` requests, the longest first."""
        lengths = [len(self.prompt(request)) for request in requests]
        order, size = (
            sorted(range(len(requests)), key=lambda i: (-lengths[i], i)),
            self.openvino.group,
        )
        return [order[start : start + size] for start in range(0, len(order), size)]

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Reply]]]:
        """One yield: all of `requests`, those with choices by their log-probabilities."""
        import numpy as np
        from openvino import Tensor

        pipeline, asked, number = self.pipeline, list[tuple[Request, list[int], list[Any]]](), 0
        with _told(self.openvino.model):
            for request in requests:
                prompt, handles = self.prompt(request), list[Any]()
                for tokens in self._sequences(request, prompt):
                    sent = Tensor(np.array([tokens], dtype=np.int64))
                    config = self._config(request, len(tokens))
                    handles.append(pipeline.add_request(number, sent, config))
                    number += 1
                asked.append((request, prompt, handles))
            # step by step, so that Ctrl-C is heard
            while pipeline.has_non_finished_requests():
                pipeline.step()
            replies = [self._reply(*one) for one in asked]
        yield list(enumerate(replies))

    def _sequences(self, request: Request, prompt: list[int]) -> list[list[int]]:
        """What is read for a request; nothing if one does not fit into the context."""
        encode = self.tokenizer.encode
        sequences = [prompt + encode(choice) for choice in request.choices] or [prompt]
        # OpenVINO draws one token behind everything
        return sequences if max(map(len, sequences)) < self.context else []

    def _config(self, request: Request, num_tokens: int) -> Any:
        from openvino_genai import GenerationConfig

        config, template = GenerationConfig(), self.openvino.template
        if request.choices:
            # echo: the log-probabilities of what was read
            config.max_new_tokens, config.echo, config.logprobs = 1, True, 1
            return config
        ends = self._ends()
        config.set_eos_token_id(ends[0])
        config.stop_token_ids = set(ends)
        config.stop_strings = set(request.stops(template.stops()))
        config.include_stop_str_in_output = True
        config.max_new_tokens = min(request.max_tokens, self.context - num_tokens)
        if request.temperature > 0:
            config.do_sample = True
            config.temperature, config.top_p = request.temperature, request.top_p
            config.top_k = request.top_k or self.tokenizer.size
            # by content, so that a draw does not depend on its neighbours or on the order
            config.rng_seed = int(content_hash(request.content()), 16) % 2**32
        return config

    def _ends(self) -> list[int]:
        """The tokens that end an answer."""
        return [self.openvino.template.end(self.tokenizer), self.tokenizer.eos_id]

    def _reply(self, request: Request, prompt: list[int], handles: list[Any]) -> Reply:
        from openvino_genai import GenerationFinishReason, GenerationStatus

        num = len(prompt)
        if not handles:
            why = f"the prompt has {num} tokens and leaves no room in the model's context"
            return Reply(finish="error", error=why, prompt_tokens=num, failure="refused")
        if any(handle.get_status() != GenerationStatus.FINISHED for handle in handles):
            return Reply(finish="error", error="OpenVINO had no memory for it", prompt_tokens=num)
        outputs = [handle.read_all()[0] for handle in handles]
        if request.choices:
            # the last is of a token that was drawn behind the choice
            totals = tuple(sum(output.generated_log_probs[num:-1]) for output in outputs)
            likeliest = request.choices[totals.index(max(totals))]
            return Reply(likeliest, logprobs=totals, prompt_tokens=num)
        tokens = list(outputs[0].generated_ids)
        if tokens and tokens[-1] in self._ends():
            tokens.pop()
        stops = request.stops(self.openvino.template.stops())
        text = cut_at_stop(self.tokenizer.decode(tokens), stops)
        cut = outputs[0].finish_reason == GenerationFinishReason.LENGTH
        return Reply(text, "length" if cut else "stop", (), num, len(tokens))
