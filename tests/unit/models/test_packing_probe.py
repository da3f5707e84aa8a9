"""The probe whether a model keeps the boundaries between packed documents, without changing the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_decoders import decoder, with_lora
from torch import Tensor, nn

from medray.models.probes import keeps_boundaries

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama-tiny", "gpt2", "qwen2", "mistral-window"])
def test_masked_attention_keeps_the_boundaries(name: str, attention: str, dtype: torch.dtype) -> None:
    assert keeps_boundaries(decoder(name, attention, dtype=dtype), CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mamba", "rwkv", "lfm2", "opt"])
def test_recurrence_convolution_and_unread_positions_lose_the_boundaries(
    name: str, dtype: torch.dtype
) -> None:
    assert not keeps_boundaries(decoder(name, dtype=dtype), CPU)


def test_a_model_without_position_ids_is_not_run() -> None:
    class Counts(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            raise AssertionError("it was called")

    assert not keeps_boundaries(Counts(), CPU)


@pytest.mark.parametrize("name", ["llama-tiny", "gpt2"])
def test_attention_without_a_mask_loses_the_boundaries(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an implementation of attention for which transformers makes no mask."""
    from transformers import AttentionInterface

    def unmasked(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> Any:
        assert mask is None
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        found = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return found.transpose(1, 2), None

    AttentionInterface.register("unmasked", unmasked)
    model = decoder(name, "eager")
    monkeypatch.setattr(model.config, "_attn_implementation", "unmasked")
    assert not keeps_boundaries(model, CPU)


def test_a_model_that_overrides_positions_is_detected() -> None:
    """Detect positions that continue over documents, although the mask is right: only single documents show it."""
    model = decoder("gpt2", "eager")
    table = model.transformer.wpe
    table.forward = lambda positions: nn.functional.embedding(
        torch.arange(positions.shape[1])[None].expand_as(positions), table.weight
    )
    assert not keeps_boundaries(model, CPU)


@pytest.mark.parametrize("wrap", [with_lora, lambda model: model], ids=["lora", "bare"])
def test_the_probe_does_not_change_the_model(wrap: Any) -> None:
    model = wrap(decoder("qwen2", dropout=0.3))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    list(model.modules())[-1].eval()
    ids = torch.arange(12)[None]
    if wrap is with_lora:
        model.enable_input_require_grads()
    model(input_ids=ids, use_cache=False).logits.sum().backward()
    modes = [module.training for module in model.modules()]
    kept = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    torch.manual_seed(8)
    state = torch.random.get_rng_state()
    assert keeps_boundaries(model, CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert sum(modes) == len(modes) - 1
    for name, value in model.named_parameters():
        assert (value.grad is None) == (name not in kept)
        assert value.grad is None or torch.equal(value.grad, kept[name])
    assert torch.is_grad_enabled()
    assert not any(module._forward_pre_hooks for module in model.modules() if isinstance(module, nn.Linear))
