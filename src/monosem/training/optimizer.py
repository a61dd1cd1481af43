"""The optimiser's step and the constraint on the decoder (Gao et al. 2024, §A.1).

Before the step the gradient's component along each decoder row is removed, so Adam's moments never see it; after the
step every decoder row has unit length again.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

BETAS, EPSILON = (0.9, 0.999), 6.25e-10

_MOMENTS = {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}


def new_adam(parameters: Mapping[str, nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam over the trainable parameters, without weight decay."""
    trainable = [parameter for parameter in parameters.values() if parameter.requires_grad]
    fused = trainable[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(trainable, lr=learning_rate, betas=BETAS, eps=EPSILON, fused=fused)


def set_learning_rate(optimizer: torch.optim.Adam, learning_rate: float) -> None:
    """The rate of the next step, for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@torch.no_grad()
def project_out_parallel_gradient(
    gradient: Float[Tensor, "n_latents d_model"], rows: Float[Tensor, "n_latents d_model"]
) -> None:
    """Remove, in place, each gradient row's component along its (unit) decoder row."""
    along = (gradient * rows).sum(dim=1, keepdim=True)
    gradient.addcmul_(along, rows, value=-1)


@torch.no_grad()
def normalize_rows(rows: Float[Tensor, "n_latents d_model"]) -> None:
    """Scale each row to unit length, in place."""
    rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny))


def moments(optimizer: torch.optim.Adam, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """Adam's two moments by name of parameter, for a checkpoint; empty before the first step."""
    return {
        moment: {
            name: optimizer.state[parameter][key]
            for name, parameter in parameters.items()
            if key in optimizer.state[parameter]
        }
        for moment, key in _MOMENTS.items()
    }


def restore_moments(
    optimizer: torch.optim.Adam,
    parameters: Mapping[str, nn.Parameter],
    saved: Mapping[str, Mapping[str, Tensor]],
    steps: int,
) -> None:
    """Put a checkpoint's moments back, after ``steps`` steps."""
    for name, parameter in parameters.items():
        if name not in saved["first_moment"]:
            continue
        state = optimizer.state[parameter]
        state["step"] = torch.tensor(float(steps), device=parameter.device)
        for moment, key in _MOMENTS.items():
            state[key] = saved[moment][name].to(parameter).clone()
