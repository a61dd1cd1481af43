"""Which tokens a latent promotes and suppresses: its direct effect on the logits, along the residual stream.

One unit of a latent's activation adds s · d to the site's activations, with d its decoder row and s what undoes the
preprocessing: the token's norm, or a transcoder's target_scale. As far as that reaches the last residual x unchanged it
changes the logits, to first order, by W_U J(x) s d, with J the Jacobian of the final norm and W_U the unembedding. The
effect is the mean of this over a sample of tokens: W_U M d with M = mean of s J(x). It leaves out what later blocks
make of the latent, and whatever stands behind the unembedding, such as a soft cap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from monosem.sae.autoencoder import Autoencoder
from monosem.subject.blocks import Blocks
from monosem.subject.hookpoints import hookable_modules
from monosem.subject.model import SubjectModel

# Kept tokens, about, that the Jacobian is a mean over.
SAMPLE_TOKENS = 1024
# Numbers held at once, several times: gradients in the sample, effects on a part of the vocabulary; 32 MB in float32.
_ELEMENTS = 1 << 23


class Effects(NamedTuple):
    """For each latent of a range the tokens whose logits it raises most and lowers most, strongest first."""

    promoted: Int64[Tensor, "latents shown"]
    raised: Float[Tensor, "latents shown"]
    """Logits for one unit of the latent's activation."""
    suppressed: Int64[Tensor, "latents shown"]
    lowered: Float[Tensor, "latents shown"]


class DirectPath(NamedTuple):
    """The linear map from the site's activations, in units of latents, to logits."""

    to_head: Float[Tensor, "d_head d_model"]
    """M."""
    unembedding: Float[Tensor, "vocabulary d_head"]


def why_no_effects(sae: Autoencoder, subject: SubjectModel) -> str | None:
    """Why there is no direct path from the autoencoder's output to the logits; None where there is one."""
    assert sae.provenance is not None
    output, *others = sae.provenance.site.outputs
    if others:
        return "the autoencoder gives activations of several hookpoints"
    if sae.d_target != subject.d_model:
        return f"{output} is {sae.d_target} wide and the residual stream {subject.d_model}"
    if final_norm(subject) is None:
        return f"{subject.name} has no module between its last residual and its unembedding"
    return None


def final_norm(subject: SubjectModel) -> str | None:
    """Path of the last module that makes, of a residual, what the unembedding reads; None where there is none."""
    head = subject.model.get_output_embeddings()
    if head is None:
        return None
    seen: list[tuple[str, Any]] = []
    found: list[str] = []

    def note(path: str) -> Callable[..., None]:
        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            is_map = bool(args) and isinstance(args[0], Tensor) and args[0].is_floating_point()
            # A dropout that passes on what it got is no map.
            if is_map and args[0].shape[-1] == subject.d_model and not _are_one(output, args[0]):
                seen.append((path, output))

        return after

    def at_head(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.extend(path for path, output in seen if args and _are_one(output, args[0]))

    modules = {path: each for path, each in hookable_modules(subject.model).items() if each is not head}
    handles = [each.register_forward_hook(note(path)) for path, each in modules.items()]
    handles.append(head.register_forward_pre_hook(at_head))
    try:
        subject.logits(torch.tensor([[0, 1]]))
    finally:
        for handle in handles:
            handle.remove()
    return found[-1] if found else None


def _are_one(first: Any, second: Any) -> bool:
    """Whether two things are tensors, and the same memory seen alike."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    return first.shape == second.shape and first.data_ptr() == second.data_ptr()


def find_direct_path(sae: Autoencoder, subject: SubjectModel, blocks: Blocks) -> DirectPath:
    """The direct path, as the mean over the kept tokens of some blocks."""
    assert sae.provenance is not None
    site, path = sae.provenance.site, final_norm(subject)
    assert path is not None
    captured = subject.capture(blocks.tokens, [*site.inputs, f"{path}:in"])
    kept = blocks.kept.to(subject.device)
    norms = sae.encode(site.read(captured)[kept]).norm
    scales = sae.target_scale.detach().expand(len(norms)) if sae.is_transcoder else norms
    residuals = captured[f"{path}:in"][kept].float()
    norm = hookable_modules(subject.model)[path]
    to_head = mean_jacobian(norm, residuals, scales.to(residuals))
    return DirectPath(to_head, subject.model.get_output_embeddings().weight.detach())


def mean_jacobian(
    module: nn.Module, x: Float[Tensor, "tokens d_model"], weights: Float[Tensor, " tokens"]
) -> Float[Tensor, "d_out d_model"]:
    """The mean over tokens of a module's Jacobian, each token's times its weight; in float32."""
    parameters = {name: each.detach().float() for name, each in module.state_dict().items()}

    def forward(x: Tensor) -> Tensor:
        return functional_call(module, parameters, (x,))

    rows: list[Tensor] = []
    for directions in torch.eye(forward(x[None]).shape[-1], device=x.device).split(max(1, _ELEMENTS // x.numel())):
        with torch.enable_grad():
            copies = x.expand(len(directions), *x.shape).clone().requires_grad_()
            pulls = weights[:, None] * directions[:, None, :]
            (gradients,) = torch.autograd.grad(forward(copies), copies, pulls)
        rows.append(gradients.sum(dim=1) / len(x))
    return torch.cat(rows)


class _Best(NamedTuple):
    """For each latent the tokens with the largest numbers so far."""

    tokens: Int64[Tensor, "latents some"]
    numbers: Float[Tensor, "latents some"]

    def merged(self, numbers: Float[Tensor, "latents here"], first: int, count: int) -> "_Best":
        """With those of the tokens from ``first`` on; at most so many."""
        largest, places = numbers.topk(min(count, numbers.shape[1]), dim=1)
        both = torch.cat([self.numbers, largest], dim=1)
        best, order = both.topk(min(count, both.shape[1]), dim=1)
        return _Best(torch.cat([self.tokens, places + first], dim=1).gather(1, order), best)


@torch.no_grad()
def find_effects(W_dec: Float[Tensor, "latents d_model"], path: DirectPath, count: int) -> Effects:
    """The strongest effects of some latents, a part of the vocabulary at a time; of equal ones any."""
    at_head = W_dec.to(path.to_head) @ path.to_head.T
    none = _Best(at_head.new_empty(len(W_dec), 0, dtype=torch.int64), at_head.new_empty(len(W_dec), 0))
    promoted, suppressed, first = none, none, 0
    for piece in path.unembedding.split(max(1, _ELEMENTS // max(1, len(W_dec)))):
        effects = at_head @ piece.float().T
        promoted = promoted.merged(effects, first, count)
        suppressed = suppressed.merged(-effects, first, count)
        first += len(piece)
    return Effects(*(each.cpu() for each in (*promoted, suppressed.tokens, -suppressed.numbers)))
