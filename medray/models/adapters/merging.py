"""Merging of an adapter into its base model, shard by shard: memory holds one shard, the adapter and one layer.

The model is built without weights (on torch's meta device) and gets its adapter. Then the base's safetensors files are
read tensor by tensor. A layer with an adapter gets its weight in float32 only while peft merges it; every other tensor
is copied unchanged. Names and layout are those of the base's files, so the config of the base fits, and the code needs
to know nothing about the architecture.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medray.config.checks.model_folder import read_config
from medray.config.checks.safetensors_header import HeaderError, index_files, read_header
from medray.config.model import ModelConfig
from medray.errors import InputError, RunFailedError
from medray.models.adapters import load_settings, merge, no_warning_of_patterns, refuse_unmergeable
from medray.models.export import class_of, load_export
from medray.models.load import give_back_freed_memory
from medray.models.quantized import DTYPES
from medray.models.weights import check_weights

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
}  # bytes of a float type under its safetensors name; only floats change their type
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NAMES = {dtype: name for name, dtype in FLOATS.items()}


@dataclass(frozen=True)
class Merged:
    """A description of the weights that a merge has written.

    dtype: fp32, bf16 or fp16, the coarsest float type written. shards: number of files. note: a remark for the user.
    """

    dtype: str
    shards: int
    note: str = ""


class WeightFiles:
    """Reads the tensors of a model's safetensors files by name, each only when it is needed."""

    def __init__(self, folder: Path) -> None:
        """Open the files. Raises FileNotFoundError if the folder has no safetensors files."""
        from safetensors import safe_open

        try:
            names = index_files(folder / INDEX) if (folder / INDEX).exists() else [SINGLE]
            for name in names:
                read_header(folder / name)
        except HeaderError as error:
            raise InputError(
                f"the weights are damaged: a file {error}", file=folder, fix="copy or download them again"
            ) from None
        opened: list[Any] = [safe_open(str(folder / name), framework="pt") for name in names]
        self._of = {tensor: file for file in opened for tensor in file.keys()}  # noqa: SIM118 (no mapping)

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._of[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return the type of a tensor as safetensors names it, such as F32."""
        return str(self._of[name].get_slice(name).get_dtype())

    def elements(self) -> int:
        """Return the number of elements of all tensors."""
        return sum(math.prod(self.shape(name)) for name in self)

    def read(self, name: str) -> Tensor:
        found: Tensor = self._of[name].get_tensor(name)
        return found


def merge_folder(
    base: Path, adapter: Path | None, target: Path, *, dtype: str | None, shard_bytes: int
) -> Merged:
    """Write base model and adapter as one model to `target`, an existing folder: config and weights, no tokenizer.

    adapter: None writes the base alone. dtype: fp32, bf16 or fp16; None keeps the type of each tensor, which loses the
    small updates of an adapter that was trained on finer weights. shard_bytes: maximum size of a file, unless a single
    tensor is larger. In three cases the full model is loaded and merged in memory, and `note` says so: the files'
    names do not match the adapted layers, there are no safetensors files, or the adapter also contains full layers.

    Raises InputError for an adapter that cannot be merged (see `adapters.merge`), RunFailedError for NaN or infinity.
    """
    give_back_freed_memory()
    wanted = DTYPES[dtype] if dtype else None
    _refuse_packed(base)
    try:
        files = WeightFiles(base)
    except FileNotFoundError:
        if adapter is None:
            raise
        return _merge_whole(base, adapter, target, wanted, shard_bytes, "the base has no safetensors files")
    change: Callable[[str], Tensor] = files.read
    if adapter is not None:
        if whole := _whole_layers(adapter):
            return _merge_whole(base, adapter, target, wanted, shard_bytes, f"the adapter has {whole}")
        layers = _adapted_layers(base, adapter, files)
        layer_of = None if layers is None else _layer_of_tensor(layers, files)
        if layer_of is None:
            why = "the tensor names in the base's files do not match the model's layers"
            return _merge_whole(base, adapter, target, wanted, shard_bytes, why)
        change = _Merging(files, layer_of)
    shards = _plan(files, wanted, shard_bytes)
    _write(shards, change, target, lambda name: wanted or FLOATS.get(files.dtype(name)))
    kept = {files.dtype(name) for name in files} & {*BYTES}
    coarsest = dtype or _coarsest(kept)
    _copy_config(base, target, DTYPES[coarsest])
    return Merged(coarsest, len(shards))


class _Merging:
    """A reader of the base's tensors by name. If the layer has an adapter, the tensor is merged, in float32."""

    def __init__(self, files: WeightFiles, layer_of: dict[str, tuple[str, Any]]) -> None:
        """Keep the arguments. layer_of: for each weight and bias of an adapted layer, its name's prefix and the layer."""
        self._files, self._layer_of = files, layer_of

    @torch.no_grad()
    def __call__(self, name: str) -> Tensor:
        if name not in self._layer_of:
            return self._files.read(name)
        stem, layer = self._layer_of[name]
        plain: Any = layer.get_base_layer()
        # peft merges weight and bias together, so reading either of them reads both.
        parts = [part for part in ("weight", "bias") if f"{stem}{part}" in self._files]
        empty = {part: getattr(plain, part) for part in parts}
        for part in parts:
            whole = self._files.read(f"{stem}{part}").float().clone()
            setattr(plain, part, nn.Parameter(whole, requires_grad=False))
        try:
            layer.merge(safe_merge=False)
            found: Tensor = getattr(plain, name.removeprefix(stem)).data
        finally:
            for part in parts:
                setattr(plain, part, empty[part])
            layer.merged_adapters.clear()
            if hasattr(layer, "_caches"):
                layer._caches.clear()  # norms of DoRA, which peft keeps to undo a merge
        if not torch.isfinite(found).all():
            raise RunFailedError(
                f"the merged weight {name} contains NaN or infinity. Fix: export an earlier checkpoint, or use --dtype fp32"
            )
        return found


def _whole_layers(adapter: Path) -> str:
    """Return the names of settings by which an adapter holds more than low-rank updates, such as trained embeddings."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    held = [
        name
        for name in ("modules_to_save", "trainable_token_indices", "target_parameters")
        if settings.get(name)
    ]
    if settings.get("bias", "none") != "none":
        held.append("bias")
    return ", ".join(held)


def _adapted_layers(base: Path, adapter: Path, files: WeightFiles) -> dict[str, Any] | None:
    """Return the layers with an adapter by their names in the plain model. Only the adapters have weights.

    None if peft did not load the weights of every adapter.
    """
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors.torch import load_file

    check_weights(ModelConfig(name=str(base)), read_config(base))
    auto, config = class_of(str(base))
    with torch.device("meta"):
        plain = auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
        _untie(plain, files)
    settings = load_settings(adapter)
    with no_warning_of_patterns():
        model: Any = peft.get_peft_model(plain, settings, low_cpu_mem_usage=True)
    refuse_unmergeable(model)
    inner = model.get_base_model()
    found: dict[str, Any] = {
        name: one for name, one in inner.named_modules() if isinstance(one, BaseTunerLayer)
    }
    for layer in found.values():
        # peft would move an adapter to the device of its base layer, which has no weights here.
        layer._move_adapter_to_device_of_base_layer = _stay
    weights = load_file(str(adapter / "adapter_model.safetensors"))
    _to_first_rank(weights, model.peft_config["default"])
    loaded: Any = peft.set_peft_model_state_dict(model, weights, low_cpu_mem_usage=True)
    whole = not loaded.unexpected_keys and all(_complete(layer) for layer in found.values())
    return found if found and whole else None


def _untie(plain: Any, files: WeightFiles) -> None:
    """Separate the head from the embeddings if the files contain different values for the two.

    transformers keeps them separate when it loads such files, but ties those of a T5 when it only builds the model.
    """
    head, words = plain.get_output_embeddings(), plain.get_input_embeddings()
    if head is None or head.weight is not words.weight:
        return
    tied = [name for name, one in plain.named_parameters(remove_duplicate=False) if one is words.weight]
    own = next(f"{name}.weight" for name, module in plain.named_modules() if module is head)
    others = [name for name in tied if name in files and name != own]
    if own in files and others and not torch.equal(files.read(own), files.read(others[0])):
        head.weight = nn.Parameter(torch.empty_like(words.weight))


def _to_first_rank(weights: dict[str, Tensor], settings: Any) -> None:
    """Restore the ranks that AdaLoRA cut from its factors, as zeros, which do not change the result.

    peft would cut the layers instead, by reading weights that these layers do not have.
    """
    if settings.peft_type.value != "ADALORA" or not settings.rank_pattern:
        return
    for name, kept in settings.rank_pattern.items():
        stem, mask = f"base_model.model.{name.removesuffix('.lora_E')}", torch.tensor(kept)
        for factor in ("lora_E", "lora_A"):  # [rank, …]
            found = weights[f"{stem}.{factor}"]
            weights[f"{stem}.{factor}"] = found.new_zeros(len(kept), *found.shape[1:])
            weights[f"{stem}.{factor}"][mask] = found
        found = weights[f"{stem}.lora_B"]  # [out, rank]
        weights[f"{stem}.lora_B"] = found.new_zeros(len(found), len(kept))
        weights[f"{stem}.lora_B"][:, mask] = found
    settings.rank_pattern = None


def _stay(*args: Any, **kwargs: Any) -> None:
    """Do nothing. This replaces peft's move of an adapter to a different device."""


def _complete(layer: Any) -> bool:
    """Convert the adapter of a layer to float32, and return whether it has all its values.

    AdaLoRA divides by its initial rank, which is not in the file and is set here.
    """
    for name in getattr(layer, "ranknum", {}):
        layer.ranknum[name] = nn.Parameter(torch.tensor([float(layer.r[name])]), requires_grad=False)
    parts = [getattr(layer, name).float() for name in layer.adapter_layer_names]
    return not any(one.is_meta for part in parts for one in part.parameters())


def _layer_of_tensor(layers: dict[str, Any], files: WeightFiles) -> dict[str, tuple[str, Any]] | None:
    """Return the name's prefix and the layer for each weight and bias of the adapted layers; None if files lack any.

    Some files omit the name of the inner model (`transformer.h.0...` is `h.0...`), so a name also matches by its end if
    that is unique.
    """
    found: dict[str, tuple[str, Any]] = {}
    for name, layer in layers.items():
        plain: Any = layer.get_base_layer()
        full = f"{name}.weight"
        candidates = [full, full.partition(".")[2]]
        candidates += [file for file in files if file.endswith(f".{full}")]
        there = [one for one in candidates if one in files and files.shape(one) == tuple(plain.weight.shape)]
        if len({*there}) != 1:
            return None
        stem = there[0].removesuffix("weight")
        for part in ("weight", "bias"):
            if f"{stem}{part}" in files:
                found[f"{stem}{part}"] = (stem, layer)
    return found


def _plan(files: WeightFiles, dtype: torch.dtype | None, shard_bytes: int) -> list[list[str]]:
    """Return the tensor names of each shard, in the order of the base's files."""
    shards: list[list[str]] = [[]]
    held = 0
    for name in files:
        stored = files.dtype(name)
        width = BYTES.get(NAMES[dtype] if dtype and stored in BYTES else stored, 8)
        size = math.prod(files.shape(name)) * width
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _write(
    shards: list[list[str]],
    change: Callable[[str], Tensor],
    target: Path,
    dtype_of: Callable[[str], torch.dtype | None],
) -> None:
    from safetensors.torch import save_file

    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        held = {name: _cast(change(name), dtype_of(name)) for name in names}
        save_file(held, str(target / file), metadata={"format": "pt"})
        total += sum(one.nbytes for one in held.values())
        weight_map |= dict.fromkeys(names, file)
        del held
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (target / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).contiguous()


def _coarsest(kept: set[str]) -> str:
    return "bf16" if "BF16" in kept else "fp16" if "F16" in kept else "fp32"


def _copy_config(base: Path, target: Path, dtype: torch.dtype) -> None:
    config = read_config(base)
    config.pop("torch_dtype", None)  # the older name of dtype, which transformers still reads
    config["dtype"] = str(dtype).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if (base / "generation_config.json").exists():
        shutil.copyfile(base / "generation_config.json", target / "generation_config.json")


def _refuse_packed(base: Path) -> None:
    if "quantization_config" in read_config(base):
        raise InputError(
            "the weights of the base model are quantized, and merging an adapter would round them again",
            file=base,
            fix="use --format adapter, or train on a base with 16 or 32 bits",
        )


def _merge_whole(
    base: Path, adapter: Path | None, target: Path, dtype: torch.dtype | None, shard_bytes: int, why: str
) -> Merged:
    assert adapter is not None
    model: Any = merge(
        load_export(adapter, torch.device("cpu"), quantized=False, base=base, dtype=torch.float32)
    )
    chosen = dtype or torch.float32
    model.to(chosen).save_pretrained(str(target), max_shard_size=shard_bytes)
    name = next(name for name, one in DTYPES.items() if one is chosen)
    shards = len(list(target.glob("model*.safetensors")))
    return Merged(name, shards, f"the merge needed memory for the full model: {why}")
