"""The subject model: load it, read its activations, put others in their place."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.errors import UserError
from monosem.subject import builtin
from monosem.subject.hookpoints import Replacement, expand_hookpoints, find_block_list, has_hooks, recorder, replaced
from monosem.subject.side_by_side import side_by_side


@dataclass(frozen=True, kw_only=True)
class SubjectConfig:
    """Which language model is studied, where in it, and how text is fed to it."""

    subject: str = builtin.BUILTIN
    """A hub id, a local directory, or 'builtin'."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the subject runs; auto: CUDA, else mps, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The subject's precision; auto: bfloat16 on CUDA, whose matrix units are made for it and where memory is short;
    float32 elsewhere, where any processor computes it well, and which is exact for weights stored in half precision."""
    layer: int | None = None
    """Read the residual stream after this block, counted from 0; default three quarters of the way, ⌈¾L⌉ − 1."""
    hookpoint: tuple[str, ...] = ()
    """Instead of a layer: module paths (their output), with ':in' after them (their input), or globs of both."""
    target: str | None = None
    """Reconstruct the activations at this hookpoint from those that are read: a transcoder."""
    context_length: int = 64
    """Tokens in a block."""
    bos: Literal["auto", "always", "never"] = "auto"
    """Whether a BOS token stands in front of each block; auto: if the tokenizer puts one there by itself."""
    keep_special: bool = False
    """Train and evaluate on BOS, EOS, padding and other special positions too."""
    subject_batch: int | None = None
    """Blocks in one forward pass; by default as many as have 1,024 tokens for each thread of a CPU, so that what
    the pass holds stays in its caches, or 8,192 tokens elsewhere."""

    def __post_init__(self) -> None:
        if self.layer is not None and self.hookpoint:
            raise UserError(f"layer={self.layer} and hookpoint={self.hookpoint[0]} exclude each other; give only one.")
        if self.layer is not None and self.layer < 0:
            raise UserError(f"layer={self.layer} is below 0; layers count from 0, the first block.")
        if self.context_length < 2:
            raise UserError(
                f"context_length={self.context_length} is below 2; a block needs a token and its successor."
            )
        if self.subject_batch is not None and self.subject_batch < 1:
            raise UserError(f"subject_batch={self.subject_batch} is below 1; a forward pass needs a block.")
        if self.revision is not None and self.subject == builtin.BUILTIN:
            raise UserError(
                f"revision={self.revision} is for models of the hub; leave it out with the builtin subject."
            )


@runtime_checkable
class Steerable(Protocol):
    """What ``SubjectModel.steer`` needs of an autoencoder."""

    def intervene(
        self, activations: Tensor, latents: Mapping[int, Any], *, keep_error: bool = True, target: Tensor | None = None
    ) -> Tensor:
        """Raw activations, or a transcoder's target, with some latents at other values."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectModel:
    """A causal language model of ``transformers`` with its tokenizer, read-only and in evaluation mode."""

    model: Any
    """A ``transformers`` model with a language-modelling head."""
    tokenizer: Any
    """Its tokenizer."""
    name: str
    """The hub id, the directory, or 'builtin'."""
    revision: str | None = None
    """The commit of a hub model, or the checksum of a directory's weights."""
    bos_id: int | None = None
    """The token to put in front of each block; None: blocks start with text."""
    subject_batch: int = 64
    """Blocks in one forward pass of ``capture``."""

    def __post_init__(self) -> None:
        self.model.eval()
        self.model.requires_grad_(False)
        self.model.config.use_cache = False

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def _text_config(self) -> Any:
        return self.model.config.get_text_config(decoder=True)

    @property
    def n_layers(self) -> int:
        return self._text_config.num_hidden_layers

    @property
    def d_model(self) -> int:
        return self._text_config.hidden_size

    @property
    def n_parameters(self) -> int:
        """Parameters, embeddings included; those that are shared count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def max_context_length(self) -> int | None:
        """The most tokens a block may have; None where the architecture sets no limit."""
        return getattr(self._text_config, "max_position_embeddings", None)

    @cached_property
    def _block_list(self) -> str:
        return find_block_list(self.model, self.n_layers)

    def layer_hookpoint(self, layer: int | None = None) -> str:
        """The hookpoint of the residual stream after a block, counted from 0; by default block ⌈¾L⌉ − 1.

        Raises:
            UserError: the model has no such block.
        """
        last = self.n_layers - 1
        if layer is None:
            layer = -(-3 * self.n_layers // 4) - 1
        if not 0 <= layer <= last:
            raise UserError(f"layer={layer} is out of range; {self.name} has layers 0 … {last}.")
        return f"{self._block_list}.{layer}"

    def hookpoints(self, patterns: Sequence[str]) -> list[str]:
        """The hookpoints that patterns name: see ``expand_hookpoints``."""
        return expand_hookpoints(self.model, patterns)

    def resolve(self, config: SubjectConfig) -> list[str]:
        """The hookpoints that a configuration asks to read: those of ``hookpoint``, else the one of ``layer``.

        Raises:
            UserError: one is unknown, or the target is none, or one that is read.
        """
        read = self.hookpoints(config.hookpoint) if config.hookpoint else [self.layer_hookpoint(config.layer)]
        if config.target is not None:
            found = self.hookpoints([config.target])
            if found != [config.target]:
                raise UserError(f"target={config.target} names several hookpoints: {', '.join(found)}; give one.")
            if config.target in read:
                raise UserError(
                    f"target={config.target} is read too; leave the target out for an autoencoder, or read another."
                )
        return read

    @torch.no_grad()
    def capture(
        self, tokens: Int[Tensor, "blocks length"], hookpoints: Sequence[str]
    ) -> dict[str, Float[Tensor, "blocks length _"]]:
        """The activations at hookpoints, all from one forward pass that stops at the last one needed.

        The pass runs ``subject_batch`` blocks at a time; the result lies on the subject's device, in its dtype.

        Raises:
            UserError: a hookpoint is unknown, never runs, or holds something else than a vector for each token.
        """
        assert tokens.numel() > 0, "there is nothing to run"
        captured: dict[str, Tensor] = {}

        def keep(where: slice, hookpoint: str, value: Tensor) -> None:
            batch = tokens[where]
            if value.shape[:2] != batch.shape:
                raise UserError(
                    f"Hookpoint {hookpoint} holds a tensor {list(value.shape)} for tokens {list(batch.shape)}; "
                    "choose a hookpoint whose value has one vector for each token."
                )
            if hookpoint not in captured:  # of two passes that come here at once the first one's stays
                captured.setdefault(hookpoint, value.new_empty(*tokens.shape, value.shape[-1]))
            # The one copy both joins the batches and saves the value from what the pass may write over it later.
            captured[hookpoint][where] = value

        batches = [slice(start, start + self.subject_batch) for start in range(0, len(tokens), self.subject_batch)]
        # A hook of somebody else may not be made for two passes at once.
        in_turn = self.device.type != "cpu" or len(batches) == 1 or has_hooks(self.model)
        with recorder(self.model, hookpoints) as record:

            def run(where: slice) -> None:
                record(lambda: self._forward(tokens[where]), partial(keep, where))

            if in_turn:
                for where in batches:
                    run(where)
            else:
                side_by_side(run, batches)
        return {hookpoint: captured[hookpoint] for hookpoint in dict.fromkeys(hookpoints)}

    @contextmanager
    def replace(
        self, hookpoint: str, function: Replacement, where: Bool[Tensor, "blocks length"] | None = None
    ) -> Generator[None]:
        """Within the block, every forward pass continues with ``function(value)`` at the hookpoint.

        An autoencoder is such a function: raw activations in, raw activations out. Its result is cast to the subject's
        dtype. ``where`` marks the positions to replace; the others pass through bit for bit. Blocks may be nested.

        Raises:
            UserError: the hookpoint is unknown, or a shape does not fit the pass.
        """
        with replaced(self.model, hookpoint, function, where):
            yield

    @contextmanager
    def steer(
        self,
        hookpoint: str,
        sae: Steerable,
        latents: Mapping[int, Any],
        *,
        target: str | None = None,
        keep_error: bool = True,
        positions: slice = slice(None),
    ) -> Generator[None]:
        """Within the block, every forward pass continues with some latents at other values.

        ``subject.steer(hookpoint, sae, {123: 0.8})`` adds 0.8 to latent 123 at every token, in the latent's own units;
        ``Intervention("clamp", 0.8)`` in the place of the number, or ``add``, ``ablate``, ``scale``, says what to do.
        Blocks may be nested.

        Args:
            hookpoint: what the autoencoder reads, and unless there is a target changes.
            target: what a transcoder changes.
            keep_error: change the activations themselves; otherwise the autoencoder's reconstruction of them.
            positions: those of each block to change. Let an added BOS pass: autoencoders are not trained on it.

        Raises:
            UserError: the hookpoint is unknown, a latent does not exist, or the pass comes to the target first.
        """
        read: list[Tensor] = []

        def see(value: Tensor) -> Tensor:
            read[:] = [value]
            return value

        def change(value: Tensor) -> Tensor:
            if target is None:
                see(value)
            if not read:
                raise UserError(f"The pass comes to target={target} before {hookpoint}; a transcoder reads first.")
            part, wanted = read[0][:, positions], value[:, positions]
            new = sae.intervene(part, latents, keep_error=keep_error, target=wanted if target else None)
            read.clear()
            changed = value.clone()
            changed[:, positions] = new.to(value)
            return changed

        with ExitStack() as hooks:
            if target is not None:
                hooks.enter_context(self.replace(hookpoint, see))
            hooks.enter_context(self.replace(target or hookpoint, change))
            yield

    def logits(
        self, tokens: Int[Tensor, "blocks length"], *, differentiable: bool = False
    ) -> Float[Tensor, "blocks length vocabulary"]:
        """The model's logits of each next token, all blocks in one forward pass.

        Args:
            differentiable: keep what gradients of replaced activations need; the model itself never has any.
        """
        with torch.set_grad_enabled(differentiable):
            return self._forward(tokens).logits

    def _forward(self, tokens: Tensor) -> Any:
        return self.model(input_ids=tokens.to(device=self.device, dtype=torch.long), use_cache=False)
