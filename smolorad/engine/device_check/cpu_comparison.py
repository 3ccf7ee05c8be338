"""The whole check of a device: its kernels first, then a model's logits, then the gradient of a training step."""

from __future__ import annotations

from typing import Any

from smolorad.engine.device_check.gradient import gradient_fault, lora_gradients
from smolorad.engine.device_check.kernels import attention_fault, product_fault, product_notes
from smolorad.engine.device_check.logits import logits_fault, trace
from smolorad.engine.model.torch_runner import find_cache_support
from smolorad.engine.runtime.device import Placement
from smolorad.engine.runtime.short_matmul import splitting_long_products


class CpuComparison:
    """The `DeviceCheck` of the engine."""

    def kernel_fault(self, placement: Placement) -> str:
        """As `DeviceCheck.kernel_fault`."""
        fault = attention_fault(placement.device, placement.dtype) if placement.attention == "sdpa" else ""
        return fault or product_fault(placement.device, placement.dtype)

    def move(self, model: Any, placement: Placement) -> tuple[Any, str]:
        """As `DeviceCheck.move`."""
        expected, gradients = trace(model, find_cache_support(model)), lora_gradients(model)
        # From the CPU, in one thread: reading straight to MPS has crashed the process (transformers#48029).
        model = model.to(placement.device)
        with splitting_long_products(placement.device):
            fault = logits_fault(model, placement.dtype, expected) or gradient_fault(model, placement.dtype, gradients)
        return model, fault

    def notes(self, placement: Placement) -> tuple[str, ...]:
        """As `DeviceCheck.notes`."""
        return product_notes(placement.device, placement.dtype)
