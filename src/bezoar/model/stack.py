"""One base model and the adapters on it: the lower ones frozen, the top one trained or off.

B rows, T tokens, A positions that are read, E hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.chat.tokenizer import HubTokenizer
from bezoar.errors import DataError, RecipeError
from bezoar.io import sync
from bezoar.model.adapter import (
    one_adapter,
    peft_parameters,
    read_adapter,
    read_rows,
    rows_key,
    save_adapter,
)
from bezoar.model.added_rows import AddedRows
from bezoar.model.architectures import ARCHITECTURES
from bezoar.model.attention import Layout
from bezoar.model.chunked_logprobs import OutputLayer
from bezoar.model.examine import refuse_unlike
from bezoar.model.layer import fast_layers, trims
from bezoar.model.linear import LoRAWeights, StackedLinear, linear_layers
from bezoar.model.load import DTYPES, load_net
from bezoar.model.packed import PackedBatch
from bezoar.model.resolve import public_path, resolve_model, some_of, stack_identity
from bezoar.model.save_net import save_net
from bezoar.model.score_head import ScoreHead, load_head
from bezoar.model.spec import LoRA, ModelSpec, unknown_targets
from bezoar.model.tensors import refuse_not_finite
from bezoar.model.tokenizer import load_tokenizer


class Stack:
    """A base model with adapters, lowest first. `net` is the transformers model.

    The "reference" of a policy is its stack without the top adapter: inside `disable_adapter()`
    every forward pass is that of the stack below, to the bit.
    """

    net: Any
    score_head: ScoreHead | None

    def __init__(
        self,
        spec: ModelSpec,
        adapters: Sequence[Path] = (),
        *,
        device: str | None = None,
        mapped: bool = False,
    ) -> None:
        """`mapped` leaves the weights in their files until `shard` takes a part of them."""
        self.spec, self.adapters, self.mapped = spec, [Path(f) for f in adapters], mapped
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.net = load_net(spec, device=str(self.device), mapped=mapped).requires_grad_(False)
        self.top: LoRA | None = None
        self.sharded, self.whole = False, dict[str, Tensor]()
        self._head_trains = False
        self.added: AddedRows | None = None
        if self.net.config.model_type not in ARCHITECTURES:
            refuse_unlike(self.net, self.output, resolve_model(spec.path) / "config.json")
        if spec.add_tokens:
            ids = self.tokenizer.inner.convert_tokens_to_ids(list(spec.add_tokens))
            self.added = AddedRows(self.net, ids, self.device)
        size = int(self.head_weight.shape[1])
        self.score_head = load_head(resolve_model(spec.path), size=size)
        for folder in self.adapters:
            # anew for each folder: the adapters below replaced the layers that they are on
            layers = dict(linear_layers(self.net))
            for name, adapter in read_adapter(folder, self.net).items():
                frozen = adapter.to(self.device).requires_grad_(False)
                self._stacked(name, layers[name]).freeze(frozen)
            rows = read_rows(folder, self.added)
            if self.added is not None:
                self.added.set_lower(rows)
            # the head of the highest adapter that has one
            self.score_head = load_head(folder, size=size) or self.score_head
        if self.score_head is not None:
            self.score_head.to(self.device)

    @cached_property
    def tokenizer(self) -> HubTokenizer:
        """The base model's tokenizer. DataError if the model lacks embeddings for its tokens."""
        tokenizer = load_tokenizer(self.spec.path, self.spec.add_tokens)
        num = int(self.net.get_input_embeddings().weight.shape[0])
        # padding is never fed, and many tokenizers got it later than their model
        pad = tokenizer.inner.pad_token
        beyond = [t for t, id in tokenizer.inner.get_vocab().items() if id >= num and t != pad]
        if beyond:
            fault = f"the tokenizer has {some_of(beyond)}, and the model {num} embeddings"
            raise DataError(f"{self.spec.path}: {fault}; save the tokenizer that belongs to it.")
        return tokenizer

    @cached_property
    def identity(self) -> str:
        """16 hex digits that name the base weights, their precision and the adapters by content."""
        return stack_identity(self.spec, self.adapters)

    @property
    def context_length(self) -> int:
        """The most tokens that the model can see; DataError if its config does not say."""
        length = getattr(self.net.config, "max_position_embeddings", None)
        if not length:
            file = f"{self.spec.path}/config.json"
            raise DataError(f"{file}: no max_position_embeddings; add the length of the context.")
        return int(length)

    def backbone(
        self, input_ids: Tensor, position_ids: Tensor, layout: Layout, read: Tensor | None = None
    ) -> Tensor:
        """Last hidden states [B, T, E] of ids [B, T]; of one row, [1, A, E] at positions `read`."""
        trimmed = {"read": read} if read is not None and trims(self.net) else {}
        options = {"layout": layout, "use_cache": False, **trimmed}
        body = self.net.states if self.sharded else self.net.base_model
        out = body(input_ids=input_ids, position_ids=position_ids, **options)
        hidden: Tensor = out.last_hidden_state
        return hidden if read is None or trimmed else hidden.index_select(1, read)

    def hidden(self, batch: PackedBatch) -> Tensor:
        """The hidden states [A, E] that predict the trained tokens of a packed row."""
        tokens, positions = batch.tokens[None], batch.positions[None]
        return self.backbone(tokens, positions, batch.layout, batch.index)[0]

    @property
    def head_weight(self) -> Tensor:
        """The output embedding [V, E]."""
        if self.added is not None:
            self.added.write()
        weight: Tensor = self.net.get_output_embeddings().weight
        return weight

    @property
    def output(self) -> OutputLayer:
        """From last hidden states to logits."""
        softcap = getattr(self.net.config, "final_logit_softcapping", None)
        rows = self.added.output() if self.added is not None else None
        return OutputLayer(self.head_weight, self.net.get_output_embeddings().bias, softcap, rows)

    def layers(self) -> Iterator[tuple[str, StackedLinear]]:
        """(name, layer) of the linear layers that carry adapters or are in 4 bits."""
        for name, module in self.net.named_modules():
            if isinstance(module, StackedLinear):
                yield name, module

    def add_adapter(
        self, lora: LoRA | None, *, seed: int, outputs: tuple[str, ...] = ()
    ) -> dict[str, nn.Parameter]:
        """Add a top adapter, which changes nothing until it trains; None makes all weights train.

        With `outputs` a score head trains too: the stack's own if it has these outputs, else a new
        one. Returns the parameters that train, by the names under which they are saved.
        """
        self.top, self._head_trains = lora, bool(outputs)
        if outputs and (self.score_head is None or self.score_head.outputs != outputs):
            head = ScoreHead(outputs, self.net.config.hidden_size, seed=seed)
            self.score_head = head.to(self.device)
        if lora is None:
            self._train_all_weights()
            return self._trained()
        generator = torch.Generator().manual_seed(seed)
        for _, layer in self._targets(lora):
            # the uniform bound of peft's and nn.Linear's initialisation
            bound = layer.in_features**-0.5
            down = (torch.rand(lora.r, layer.in_features, generator=generator) * 2 - 1) * bound
            up = torch.zeros(layer.out_features, lora.r)
            top = LoRAWeights(down, up, scale=lora.alpha / lora.r, dropout=lora.dropout)
            layer.top = top.to(self.device)
        if self.added is not None:
            self.added.add_top()
        return self._trained()

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Forward passes inside are those of the reference."""
        layers = [layer for _, layer in self.layers()]

        def use_top(value: bool) -> None:
            for layer in layers:
                layer.use_top = value
            if self.added is not None:
                self.added.use_top = value
                self.added.write()

        use_top(False)
        try:
            yield
        finally:
            use_top(True)

    def trained_state(self) -> dict[str, Tensor]:
        """The weights that train, by the names that `add_adapter` gave them."""
        return {name: parameter.detach() for name, parameter in self._trained().items()}

    def set_trained(self, state: dict[str, Tensor]) -> None:
        """The inverse of `trained_state`."""
        for name, tensor in self.trained_state().items():
            tensor.copy_(state[name])

    def save_trained(self, folder: Path) -> Path:
        """Write and return `folder`/adapter, all adapters as one in peft's format, or
        `folder`/model if all weights train."""
        target = folder / ("model" if self.top is None else "adapter")
        if self.top is None:
            save_net(self.net, self.whole or self.net.state_dict(), DTYPES[self.spec.dtype], target)
            self.whole = {}
            self.tokenizer.inner.save_pretrained(target)
            sync(target)
            if self.score_head is not None:
                self.score_head.save(target)
        else:
            self.save_adapter(target)
        return target

    def save_adapter(self, folder: Path) -> None:
        """Write all adapters as one, in peft's format, with the score head if there is one."""
        # the top one alone would load on the base without those below it, and compute nonsense
        base = public_path(self.spec.path)
        save_adapter(folder, one_adapter(self.net), base=base, added=self.added)
        if self.added is not None:
            self.tokenizer.inner.save_pretrained(folder)
        if self.score_head is not None:
            self.score_head.save(folder)

    def _train_all_weights(self) -> None:
        if self.adapters or self.spec.quantize != "none":
            fault = "a 4-bit model or one with adapters cannot train all weights"
            raise RecipeError(f"adapter: null: {fault}; export it first.")
        if self.added is not None:
            self.added.release()
            self.added = None
        self.net = (self.net if self.mapped else self.net.float()).requires_grad_(True)
        # fast layers form no gradients for the weights of norms
        for layer in fast_layers(self.net):
            layer.fast = False

    def shard(self) -> dict[str, nn.Parameter]:
        """Keep one rank's part of all weights but an adapter's; returns those that train anew.

        DataError if a weight of a mapped file is not finite.
        """
        from bezoar.model.shard import local, shard

        dtype = DTYPES[self.spec.dtype] if self.mapped or self.top else torch.float32
        shard(self.net, self.device, dtype, {*self._trained().values()} if self.top else set())
        self.sharded = True
        refuse_not_finite({n: local(p) for n, p in self.net.named_parameters()}, self.spec.path)
        return self._trained()

    def gather(self, folder: Path, *, keep: bool) -> None:
        """Put weights in parts together for `save_trained`, in a nameless file of the folder; all
        ranks do, and one keeps them."""
        from bezoar.model.shard import gathered

        if self.sharded and self.top is None:
            self.net.reshard()
            self.whole = gathered(self.net, folder, DTYPES[self.spec.dtype], keep=keep)

    def _trained(self) -> dict[str, nn.Parameter]:
        parameters: dict[str, nn.Parameter] = {}
        if self.sharded:
            self.net.reshard()  # between passes some weights are whole
        if self.top is None:
            parameters |= self.net.named_parameters()
        else:
            for name, top in self._top_weights().items():
                parameters |= peft_parameters(name, top)
            if self.added is not None:
                parameters |= {rows_key(n): rows for n, rows in self.added.top.items()}
        if self._head_trains and self.score_head is not None:
            self.score_head.requires_grad_(True)
            head = self.score_head.named_parameters()
            parameters |= {f"score_head.{name}": parameter for name, parameter in head}
        return parameters

    def _top_weights(self) -> dict[str, LoRAWeights]:
        return {name: layer.top for name, layer in self.layers() if layer.top is not None}

    def _targets(self, lora: LoRA) -> list[tuple[str, StackedLinear]]:
        names = dict.fromkeys(name.rpartition(".")[2] for name, _ in linear_layers(self.net))
        if fault := unknown_targets(lora, tuple(names), self.spec.path):
            raise RecipeError(f"adapter.targets: {fault}")
        layers = list(linear_layers(self.net, lora.targets))
        return [(name, self._stacked(name, layer)) for name, layer in layers]

    def _stacked(self, name: str, layer: nn.Linear | StackedLinear) -> StackedLinear:
        """The layer as one that can carry adapters."""
        if isinstance(layer, StackedLinear):
            return layer
        stacked = StackedLinear(layer)
        self.net.set_submodule(name, stacked)
        return stacked
