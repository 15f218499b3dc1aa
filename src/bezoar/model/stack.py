"""One base model and the adapters on it: the lower ones frozen, the top one trained or switched
off, and the merge of all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bezoar.chat.tokenizer import HubTokenizer
from bezoar.errors import DataError, RecipeError
from bezoar.io import cached_hash, content_hash, sync
from bezoar.model.adapter import keyed, read_adapter, save_adapter
from bezoar.model.folder import named
from bezoar.model.layer import fast_layers, trims
from bezoar.model.linear import LoRAWeights, StackedLinear, linear_names, replace
from bezoar.model.load import DTYPES, load_net, load_tokenizer
from bezoar.model.packed import PackedBatch
from bezoar.model.resolve import resolve_model, weights_identity
from bezoar.model.score_head import ScoreHead, load_head
from bezoar.model.spec import LoRA, ModelSpec


class Stack:
    """A base model with adapters, lowest first.

    "Reference" is the stack without the top adapter: `without_top()` makes every forward pass
    inside it that of the stack below, to the bit. `net` is the transformers model itself; adapters
    are inside its linear layers.
    """

    def __init__(
        self, spec: ModelSpec, adapters: Sequence[Path] = (), *, device: str | None = None
    ) -> None:
        self.spec, self.adapters = spec, [Path(a) for a in adapters]
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.net = load_net(spec, device=str(self.device))
        self.net.requires_grad_(False)
        self.top: LoRA | None = None
        self._head_trains = False
        size = int(self.head_weight.shape[1])
        self.score_head = load_head(resolve_model(spec.path), size=size)
        for folder in self.adapters:
            self._load(folder)
            self.score_head = load_head(folder, size=size) or self.score_head
        if self.score_head is not None:
            self.score_head.to(self.device)

    @cached_property
    def tokenizer(self) -> HubTokenizer:
        """The base model's tokenizer. DataError when it writes tokens that the model has no
        embedding for."""
        tokenizer, num = (
            load_tokenizer(self.spec.path),
            int(self.net.get_input_embeddings().weight.shape[0]),
        )
        pad = tokenizer.inner.pad_token  # never fed; many a tokenizer got it later than its model
        if beyond := [
            token for token, at in tokenizer.inner.get_vocab().items() if at >= num and token != pad
        ]:
            raise DataError(
                f"{self.spec.path}: the tokenizer has {named(beyond)}, and the model {num}"
                " embeddings; save the tokenizer that belongs to it."
            )
        return tokenizer

    @cached_property
    def identity(self) -> str:
        """16 hex digits that name the base weights, their precision and the adapters by content."""
        return content_hash(
            weights_identity(self.spec), [cached_hash(folder) for folder in self.adapters]
        )

    def backbone(
        self, input_ids: Tensor, position_ids: Tensor, layout: Any, read: Tensor | None = None
    ) -> Tensor:
        """The last hidden states [B, T, E] of token ids [B, T], or of one row those at the
        positions `read`, [1, A, E].

        Who sees whom is `layout`'s.
        """
        trimmed = {"read": read} if read is not None and trims(self.net) else {}
        out = self.net.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            layout=layout,
            use_cache=False,
            **trimmed,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden if read is None or trimmed else hidden.index_select(1, read)

    def hidden(self, batch: PackedBatch) -> Tensor:
        """The hidden states [A, E] at the positions of a flat row that predict its trained
        tokens."""
        return self.backbone(batch.tokens[None], batch.positions[None], batch.layout, batch.index)[
            0
        ]

    @property
    def head_weight(self) -> Tensor:
        """The output embedding [V, E]."""
        weight: Tensor = self.net.get_output_embeddings().weight
        return weight

    def layers(self) -> Iterator[tuple[str, StackedLinear]]:
        """(name, layer) of the linear layers that carry adapters or are in 4 bits."""
        yield from (
            (name, m) for name, m in self.net.named_modules() if isinstance(m, StackedLinear)
        )

    def add_adapter(
        self, lora: LoRA | None, *, seed: int, outputs: tuple[str, ...] = ()
    ) -> dict[str, nn.Parameter]:
        """Put a fresh top adapter on the stack, which changes nothing until it trains, or (None)
        make all weights train.

        With `outputs` a score head trains too: the one that the stack has where it gives the same
        outputs, else a fresh one. Returns the parameters that train, by the names under which they
        are saved.
        """
        self.top = lora
        self._head_trains = bool(outputs)
        if outputs and (self.score_head is None or self.score_head.outputs != outputs):
            self.score_head = ScoreHead(outputs, self.net.config.hidden_size, seed=seed).to(
                self.device
            )
        if lora is None:
            if self.adapters or self.spec.quantize != "none":
                raise RecipeError(
                    "adapter: null trains all weights, which a 4-bit model or one with adapters"
                    " cannot; export it first."
                )
            self.net = self.net.float().requires_grad_(True)
            for plain in fast_layers(self.net):
                plain.fast = False
            return self._trained()
        generator = torch.Generator().manual_seed(seed)
        for _, layer in self._targets(lora):
            # the uniform bound of peft's and nn.Linear's initialisation
            bound = layer.in_features**-0.5
            down = (torch.rand(lora.r, layer.in_features, generator=generator) * 2 - 1) * bound
            up = torch.zeros(layer.out_features, lora.r)
            layer.top = LoRAWeights(down, up, scale=lora.alpha / lora.r, dropout=lora.dropout).to(
                self.device
            )
        return self._trained()

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Forward passes inside are those of the reference."""
        layers = [layer for _, layer in self.layers()]
        for layer in layers:
            layer.use_top = False
        try:
            yield
        finally:
            for layer in layers:
                layer.use_top = True

    def _trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train: the whole net's or the top adapter's, under the names that
        peft gives them, and the head's."""
        named = dict(self.net.named_parameters()) if self.top is None else self._top()
        if self._head_trains and self.score_head is not None:
            self.score_head.requires_grad_(True)
            named |= {f"score_head.{name}": p for name, p in self.score_head.named_parameters()}
        return named

    def _top(self) -> dict[str, nn.Parameter]:
        return {
            key: parameter
            for name, top in self._tops().items()
            for key, parameter in keyed(name, top).items()
        }

    def _tops(self) -> dict[str, LoRAWeights]:
        return {name: layer.top for name, layer in self.layers() if layer.top is not None}

    def trained_state(self) -> dict[str, Tensor]:
        """The weights that train, by the names that `add_adapter` gave them."""
        return {name: parameter.detach() for name, parameter in self._trained().items()}

    def set_trained(self, state: dict[str, Tensor]) -> None:
        """The inverse of `trained_state`."""
        for name, tensor in self.trained_state().items():
            tensor.copy_(state[name])

    def save_trained(self, folder: Path) -> None:
        """Write the top adapter into `folder`/adapter in peft's format, or, where all weights
        train, a model into `folder`/model."""
        if self.top is None:
            self.net.to(DTYPES[self.spec.dtype]).save_pretrained(folder / "model")
            self.tokenizer.inner.save_pretrained(folder / "model")
            sync(folder / "model")
        else:
            save_adapter(folder / "adapter", self.top, self._tops(), base=self.spec.path)
        if self._head_trains and self.score_head is not None:
            self.score_head.save(folder / ("model" if self.top is None else "adapter"))

    def _targets(self, lora: LoRA) -> list[tuple[str, StackedLinear]]:
        found = [
            (name, self._stacked(name, module))
            for name, module in list(linear_names(self.net, lora.targets))
        ]
        if not found:
            raise RecipeError(
                f"adapter.targets: the model {self.spec.path} has no linear layer named"
                f" {lora.targets}; use all-linear."
            )
        return found

    def _load(self, folder: Path) -> None:
        for name, adapter in read_adapter(folder, self.net).items():
            self._stacked(name, self.net.get_submodule(name)).freeze(
                adapter.to(self.device).requires_grad_(False)
            )

    def _stacked(self, name: str, module: nn.Module) -> StackedLinear:
        """The layer with that name as one that can carry adapters."""
        layer = module if isinstance(module, StackedLinear) else StackedLinear(module)  # type: ignore[arg-type]
        if layer is not module:
            replace(self.net, name, layer)
        return layer
