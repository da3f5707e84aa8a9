"""Measure peak bytes and step time on a GPU, one part after another, and print them beside those of `medray plan`.

    python benchmarks/gpu_check.py --out results.json          # on a GPU, less than 8 minutes
    python benchmarks/gpu_check.py --tiny --out results.json   # on a CPU: tries the script, its numbers mean nothing

Each part runs in a process of its own with a limit of two minutes, and its result is written when it ends, so an interrupted
check leaves what it has. Parts: six configurations (full and LoRA, with and without checkpointing, float32 and bfloat16,
a large vocabulary), a T5, packed attention, QLoRA on nf4 weights, DeepSpeed's stage 2, and the utilisation of a model with
the width of 8B, for full and LoRA tuning, with few layers: per-layer bytes and operations are those of the whole model.

Needs Python 3.11 or later, torch 2.11 and transformers 5.17; peft, bitsandbytes and DeepSpeed where they are installed (else
their parts are skipped and say so). No Ray, no network: weights are random. medray's arithmetic is imported from this checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Python adds only the folder of a script
    sys.path.insert(0, str(ROOT))

PART_SECONDS = 120
BYTES_AIM, TIME_AIM = 0.10, 0.25
STEPS, WARM = 5, 2
RATE = 1e-3  # learning rate; a smaller one would change no bfloat16 weight
EFFICIENCY = 0.4  # the plan's assumption, which these numbers may replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One configuration. targets: positions with logits of a row. lora: rank; 0 trains every weight. needs: packages."""

    name: str
    model: dict[str, Any]
    rows: int
    length: int
    targets: int
    precision: str = "bf16"
    lora: int = 0
    checkpointing: bool = False
    packed: bool = False
    nf4: bool = False
    stage: int | None = None
    needs: tuple[str, ...] = field(default=())


def _llama(hidden: int, inner: int, layers: int, heads: int, words: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(heads // 4, 1),
        "vocab_size": words,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }


def parts(*, tiny: bool) -> tuple[Part, ...]:
    """Return the parts in the order in which they run, the most important first."""
    if tiny:
        small, wide, t5 = _llama(64, 128, 2, 4, 256), _llama(128, 256, 2, 8, 512), _t5(64, 16, 128, 2, 4)
        rows, length, targets = 2, 64, 32
    else:
        small, wide, t5 = (
            _llama(2048, 5632, 16, 32, 32_000),
            _llama(4096, 14_336, 6, 32, 128_256),
            _t5(2048, 64, 5120, 8, 32),
        )
        rows, length, targets = 4, 2048, 512
    shape: dict[str, Any] = {"rows": rows, "length": length, "targets": targets}
    half: dict[str, Any] = {"rows": rows, "length": length // 2, "targets": targets}
    return (
        Part(name="full, bf16", model=small, **shape),
        Part(name="full, bf16, checkpointing", model=small, checkpointing=True, **shape),
        Part(name="full, float32", model=small, precision="fp32", **half),
        Part(name="LoRA, bf16", model=small, lora=16, needs=("peft",), **shape),
        Part(name="LoRA, bf16, checkpointing", model=small, lora=16, checkpointing=True, needs=("peft",), **shape),
        Part(name="T5, bf16", model=t5, rows=rows, length=length // 2, targets=targets // 2),
        Part(name="packed rows", model=small, packed=True, checkpointing=True, **shape),
        Part(name="QLoRA, nf4", model=small, lora=16, nf4=True, checkpointing=True, needs=("peft", "bitsandbytes"), **shape),
        Part(name="DeepSpeed stage 2", model=small, stage=2, checkpointing=True, needs=("deepspeed",), **shape),
        Part(name="8B width, full", model=wide, checkpointing=True, **shape),
        Part(name="8B width, LoRA", model=wide, lora=16, checkpointing=True, needs=("peft",), **shape),
    )  # fmt: skip


def _t5(hidden: int, size: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "d_model": hidden,
        "d_kv": size,
        "d_ff": inner,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "vocab_size": 32_128,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
    }


# ---- the plan's numbers


def planned(part: Part, *, on_gpu: bool) -> dict[str, float]:
    """Return the plan's peak bytes of tensors, and the operations of one step."""
    from medray.plan import adapters, parameters
    from medray.plan.activations import Forward, Training
    from medray.plan.cost import sequence_operations
    from medray.plan.phases import Job, run_memory

    count, width = parameters.from_config(part.model), 4 if part.precision == "fp32" else 2
    layers = parameters.linears(part.model)
    adapter = parameters.lora(part.model, part.lora) if part.lora else 0
    job = Job(
        model=part.model,
        total=count.total,
        trained=adapter or count.total,
        adapter=adapter,
        largest_layer=count.largest_layer,
        largest_trained=part.lora * max(max(one.inputs, one.outputs) for one in layers)
        if part.lora
        else count.largest_layer,
        training=Training(
            weight_bytes=width,
            on_gpu=on_gpu,
            checkpointing=part.checkpointing,
            adapted=frozenset(one.name for one in layers) if part.lora else None,
            rank=part.lora,
        ),
        forward=Forward(rows=part.rows, length=part.length, targets=part.targets, masked=True),
        stage=part.stage or 0,
        workers=1,
        # Without DeepSpeed the optimizer updates the weights themselves: no float32 copies, two moments in their type.
        plain_torch=part.stage is None,
        accumulates=False,
        frozen_bytes=adapters.nf4_bytes(part.model, width, double=True) if part.nf4 else None,
        # Two moments in bfloat16 take as much as the float32 copy of the weights that the plan counts.
        moment_bytes=8 if part.stage is not None or width == 4 else 0,
    )
    memory = run_memory(job)
    phases = [
        each for each in memory.phases if each.name in ("forward", "backward", "first step", "later steps")
    ]
    peak = max(phases, key=lambda each: each.device)
    needed = peak.device
    if part.stage is None and width == 2 and "step" in peak.name:
        needed = max(each.device for each in phases if "step" not in each.name)  # nothing is copied in a step
    return {
        "bytes": needed,
        "operations": part.rows * sequence_operations(job, source=part.length, target=part.targets),
    }


# ---- the measurement, in a process of its own


def measured(part: Part) -> dict[str, float]:
    """Return the peak bytes of tensors and the seconds of a step."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model, trained = _model(part, device)
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=device.type == "cuda" or None)
    engine = _deepspeed(model, optimizer, part) if part.stage is not None else None
    batch = _batch(part, device)
    seconds = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    losses: list[float] = []
    for number in range(WARM + STEPS):
        _wait(device)
        began = time.perf_counter()
        loss = _loss(engine or model, part, batch)
        if engine is not None:
            engine.backward(loss)
            engine.step()
        else:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
        del loss
        _wait(device)
        if number >= WARM:
            seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "bytes": peak,
        "seconds": sorted(seconds)[len(seconds) // 2],
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def _model(part: Part, device: Any) -> tuple[Any, list[Any]]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    values = dict(part.model)
    kind = values.pop("model_type")
    dtype = torch.float32 if part.precision == "fp32" else torch.bfloat16
    auto: Any = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    with torch.device(device):
        model = auto.from_config(AutoConfig.for_model(kind, **values), dtype=dtype)
    if part.nf4:
        _quantize(model, dtype, device)
    if part.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if part.lora:
        import peft

        settings = peft.LoraConfig(
            r=part.lora, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(model, settings, autocast_adapter_dtype=False)
    model.to(device).train()
    return model, [one for one in model.parameters() if one.requires_grad]


def _quantize(model: Any, dtype: Any, device: Any) -> None:
    """Replace every linear layer except the head by one with nf4 weights."""
    import bitsandbytes
    from torch import nn

    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or "lm_head" in name:
            continue
        four = bitsandbytes.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=dtype,
            compress_statistics=True,
            quant_type="nf4",
        )
        four.weight = bitsandbytes.nn.Params4bit(
            module.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], four.to(device))


def _deepspeed(model: Any, optimizer: Any, part: Part) -> Any:
    import os

    for key, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29511")):  # fmt: skip
        os.environ.setdefault(key, value)
    import deepspeed
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False
    )
    settings = {
        "train_micro_batch_size_per_gpu": part.rows,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": part.stage},
        "bf16": {"enabled": True},
    }
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=settings, dist_init_required=False
    )
    return engine


def _batch(part: Part, device: Any) -> dict[str, Any]:
    """Return one batch as a run has it: padded on the left or packed; the last positions have a target."""
    import torch

    words = min(int(part.model["vocab_size"]), 30_000)
    ids = torch.randint(3, words, (part.rows, part.length), device=device)
    if part.model["model_type"] == "t5":
        mask = torch.ones_like(ids)
        mask[0, -2:] = 0
        labels = torch.randint(3, words, (part.rows, part.targets), device=device)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if part.packed:
        row = torch.arange(part.length // 4, device=device).repeat(4)[: part.length]
        return {
            "input_ids": ids,
            "position_ids": row.expand(part.rows, -1),
            "labels": ids[:, -part.targets :],
        }
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "labels": ids[:, -part.targets :],
    }


def _loss(model: Any, part: Part, batch: dict[str, Any]) -> Any:
    """Return the mean cross-entropy, computed as medray does: logits at the targets only, in float32."""
    from torch.nn import functional

    inputs = {name: value for name, value in batch.items() if name != "labels"}
    labels = batch["labels"]
    if part.model["model_type"] == "t5":
        logits = model(**inputs, decoder_input_ids=labels, use_cache=False).logits
    else:
        logits = model(**inputs, use_cache=False, logits_to_keep=part.targets).logits
    return functional.cross_entropy(logits.float().flatten(0, -2), labels.flatten())


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


# ---- the run of all parts


def check(out: Path, *, tiny: bool, only: str | None) -> int:
    """Run every part and write its result to `out`. Returns 1 if a part failed."""
    facts = _machine()
    results: list[dict[str, Any]] = []
    failed = False
    print(json.dumps(facts))
    for number, part in enumerate(parts(tiny=tiny)):
        if only is not None and only not in part.name:
            continue
        result = _one(number, part, facts, tiny=tiny)
        failed |= "error" in result
        results.append(result)
        out.write_text(json.dumps({"machine": facts, "parts": results}, indent=1) + "\n", encoding="utf-8")
        print(_line(result), flush=True)
    return int(failed)


def _one(number: int, part: Part, facts: dict[str, Any], *, tiny: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"part": part.name}
    if lacks := [name for name in part.needs if importlib.util.find_spec(name) is None]:
        return found | {"skipped": f"{', '.join(lacks)} not installed"}
    plan = planned(part, on_gpu=facts["gpu"] is not None)
    command = [sys.executable, __file__, "--part", str(number), *(["--tiny"] if tiny else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PART_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return found | {"error": f"took more than {PART_SECONDS} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return found | {"error": lines[-1][:300] if lines else f"ended with {done.returncode}"}
    real = json.loads(done.stdout.strip().splitlines()[-1])
    rate = facts["rate"]
    found |= {"planned_bytes": plan["bytes"], **real, "learned": real["last_loss"] < real["first_loss"]}
    if not found["learned"]:  # the same batch every time; also true for a loss that is not a number
        return found | {"error": f"the loss went from {real['first_loss']:.3f} to {real['last_loss']:.3f}"}
    if real["bytes"]:
        found["bytes_ratio"] = round(plan["bytes"] / real["bytes"], 3)
        found["bytes_within_aim"] = abs(found["bytes_ratio"] - 1) <= BYTES_AIM
    if rate:
        found["planned_seconds"] = plan["operations"] / (rate * EFFICIENCY)
        found["utilisation"] = round(plan["operations"] / real["seconds"] / rate, 3)
        found["time_within_aim"] = abs(found["planned_seconds"] / real["seconds"] - 1) <= TIME_AIM
    return found


def _machine() -> dict[str, Any]:
    import torch
    import transformers

    from medray.plan.gpus import gpu

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    known = gpu(name) if name else None
    return {
        "gpu": name,
        "memory": torch.cuda.get_device_properties(0).total_memory if name else None,
        "rate": known.rate if known else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _line(result: dict[str, Any]) -> str:
    if text := result.get("skipped") or result.get("error"):
        return f"{result['part']}: {'skipped' if 'skipped' in result else 'FAILED'}, {text}"
    said = f"{result['part']}: {result['seconds']:.3f} s a step"
    if result["bytes"]:
        said += f", {result['bytes'] / 1e9:.2f} GB, planned {result['planned_bytes'] / 1e9:.2f} ({result['bytes_ratio']:.2f})"
    if "utilisation" in result:
        said += f", {100 * result['utilisation']:.0f} % of the rate"
    return said


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="file of the results")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script on a CPU")
    parser.add_argument("--only", help="parts whose name contains this text")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is not None:
        print(json.dumps(measured(parts(tiny=arguments.tiny)[arguments.part])))
        return 0
    return check(arguments.out, tiny=arguments.tiny, only=arguments.only)


if __name__ == "__main__":
    sys.exit(main())
