"""Muon, multiplying in a type that the device is fast in.

`torch.optim.Muon` orthogonalises in bfloat16 on every device; a CPU without bfloat16 products takes many times as
long for that as in float32, most of a training step. In bfloat16 both are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration (Jordan et al. 2024, Muon: an optimizer for hidden layers)."""
ITERATIONS = 5
SMALLEST = 1e-7
"""Norm below which a gradient is not scaled up further."""


class Muon(torch.optim.Optimizer):
    """Momentum with Nesterov's look ahead, orthogonalised, for matrices inside layers; no weight decay.

    Args:
        params: matrices.
        lr: learning rate; an update of a matrix of A rows and B columns is scaled by sqrt(max(1, A/B)).
        momentum: share of the running mean of gradients that stays.
        dtype: in which the orthogonalisation multiplies.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, *, dtype: torch.dtype, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        if closure is not None:
            raise ValueError("Muon takes one gradient a step: call it without a closure")
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group["lr"], group["momentum"])
        return None

    def _update(self, param: Tensor, rate: float, momentum: float) -> None:
        state: dict[str, Any] = self.state[param]
        slope = param.grad
        assert slope is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(slope)
        mean = state["momentum_buffer"].lerp_(slope, 1 - momentum)
        rows, columns = param.shape
        step = orthogonalised(slope.lerp(mean, momentum), self.dtype)
        param.add_(step, alpha=-rate * max(1.0, rows / columns) ** 0.5)


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """U V^T of the matrix's singular value decomposition, roughly: its singular values come to lie in 0.5 to 1.5."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.to(dtype, copy=True)
    found = found.T if tall else found
    found.div_(found.norm().clamp(min=SMALLEST))
    for _ in range(ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found
