"""Matrices in float8: a byte per number, and a float32 scale for each row.

The largest number of a row is scaled to 448, the maximum of float8_e4m3fn. A large weight or activation therefore costs
precision only in its own row. On a GPU, products use fast accumulation, which is less precise than float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capsfusion_tasks.errors import InputError

DTYPE = torch.float8_e4m3fn
LARGEST = 448.0
SMALLEST_SCALE = 1e-12  # smallest scale of a row; prevents a division by zero for a row of zeros
MULTIPLE = 16  # torch._scaled_mm needs weights whose numbers of rows and columns are multiples of this
MIN_CAPABILITY = (8, 9)  # Ada and newer, because older GPUs have no float8 products


def require(device: torch.device) -> None:
    """Raise InputError if ``device`` cannot multiply float8 matrices."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= MIN_CAPABILITY:
            return
        found = f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
    else:
        found = "torch finds no GPU here"
    raise InputError(
        f"float8 needs a GPU of compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or higher (Ada, Hopper or"
        f" newer), but {found}: choose --dtype bfloat16"
    )


@dataclass(frozen=True)
class Float8:
    """A matrix: ``values`` [R, K] in float8, and a scale per row, ``scales`` [R, 1] in float32.

    In a weight, a row belongs to one output feature. In activations, a row belongs to one token.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    def weight(cls, rows: int, columns: int, device: torch.device) -> Float8:
        """Allocate a weight that is loaded later. Raises InputError for sizes that float8 products do not support."""
        if rows % MULTIPLE or columns % MULTIPLE:
            raise InputError(
                f"float8 needs matrices whose numbers of rows and columns are multiples of {MULTIPLE}, and this model"
                f" has a matrix of {rows} x {columns}: choose --dtype bfloat16"
            )
        return cls.empty(rows, columns, device)

    @classmethod
    def empty(cls, rows: int, columns: int, device: torch.device) -> Float8:
        scales = torch.empty(rows, 1, device=device, dtype=torch.float32)
        return cls(torch.empty(rows, columns, device=device, dtype=DTYPE), scales)

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def split(self, rows: list[int]) -> list[Float8]:
        """The matrix cut into consecutive parts; part i has ``rows[i]`` rows. The parts are views."""
        return [
            Float8(*part) for part in zip(torch.split(self.values, rows), torch.split(self.scales, rows), strict=True)
        ]

    def copy_(self, source: Tensor) -> None:
        """Quantise ``source`` [R, K] into this matrix. The computation runs on the device of this matrix."""
        quantised = quantise(source.to(self.values.device, torch.bfloat16))
        self.values.copy_(quantised.values)
        self.scales.copy_(quantised.scales)


def quantise(x: Tensor) -> Float8:
    """``x`` [R, K] in float8, with a scale for each row."""
    x = x.float()
    scales = (x.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)  # [R, 1]
    return Float8((x / scales).to(DTYPE), scales)


def product(x: Float8, weight: Float8) -> Tensor:
    """``x`` [T, K] times ``weight`` [O, K] transposed: [T, O] in bfloat16."""
    return torch._scaled_mm(
        x.values,
        weight.values.t(),
        scale_a=x.scales,
        scale_b=weight.scales.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=x.values.is_cuda,
    )
