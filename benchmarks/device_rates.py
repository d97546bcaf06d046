"""Measures how fast a device multiplies matrices and copies memory, because no program reaches a data sheet's rates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class DeviceRates:
    """Rates of a device.

    - ``layers``: FLOP/s of the layers' matrix products. ``products``: FLOP/s of all other matrix products.
    - ``memory``: bytes/s. A copied byte counts twice, because it is read and written.
    - ``layer_bytes``: bytes of one weight of the layers. ``bytes``: bytes of any other value, such as a key.

    The values for the layers differ from the values for everything else only with float8, where the vocabulary head,
    attention, keys and values stay in bfloat16.
    """

    layers: float
    products: float
    memory: float
    layer_bytes: int
    bytes: int

    def text(self) -> str:
        layers = f" (layers: {self.layers / 1e12:.4g})" if self.layers != self.products else ""
        return f"measured: {self.products / 1e12:.4g} TFLOP/s{layers}, {self.memory / 1e12:.4g} TB/s"


@torch.inference_mode()
def measure_rates(device: torch.device, dtype: torch.dtype) -> DeviceRates:
    """The device's rates for an engine that computes in ``dtype``. Not every device supports float8."""
    rest = torch.bfloat16 if dtype == FLOAT8 else dtype
    products = _matrix_rate(device, rest)
    layers = _matrix_rate(device, dtype) if dtype == FLOAT8 else products
    return DeviceRates(layers, products, _memory_rate(device), dtype.itemsize, rest.itemsize)


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))

    def multiply() -> Tensor:
        if dtype != FLOAT8:
            return a @ b.t()
        # As in the engine, each token and each output feature has its own scale.
        return torch._scaled_mm(a, b.t(), scale, scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True)

    scale = torch.ones(n, 1, device=device)
    return float(2 * n**3) / _seconds(multiply, device)


def _memory_rate(device: torch.device) -> float:
    size = 4 << 30 if device.type == "cuda" else 64 << 20
    a = torch.zeros(size, device=device, dtype=torch.uint8)
    b = torch.empty_like(a)
    return 2.0 * size / _seconds(lambda: b.copy_(a), device)


def _seconds(work: Callable[[], object], device: torch.device, repeat: int = 20) -> float:
    work()
    _wait_for(device)
    started = time.perf_counter()
    for _ in range(repeat):
        work()
    _wait_for(device)
    return (time.perf_counter() - started) / repeat


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
