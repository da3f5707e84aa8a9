"""Merging shard by shard: the logits of base and adapter, the base's tensor names, and little memory."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grids
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medray.config.peft import PeftConfig
from medray.errors import InputError, RunFailedError
from medray.models.adapters import add_adapter, merging
from medray.models.adapters.merging import INDEX, SINGLE, Merged, merge_folder
from medray.models.export import load_export
from medray.models.export.verify import TOLERANCE, Comparison, TokenRow, compare, made_up, reference
from medray.plan.model_config import PRESETS

CPU = torch.device("cpu")
VOCABULARY = 96
TYPES: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 3, "alpha": 6.0},
    "rslora": {"type": "lora", "rank": 4, "alpha": 6.0, "rslora": True},
    "dora": {"type": "lora", "rank": 3, "alpha": 6.0, "dora": True},
    "adalora": {"type": "adalora", "adalora": {"init_rank": 4, "target_rank": 2}},
    "adalora-cut": {"type": "adalora", "adalora": {"init_rank": 4, "target_rank": 2}},
    "ia3": {"type": "ia3"},
    "head": {"type": "lora", "rank": 3, "targets": ["q", "lm_head"]},
}
# Of each architecture the adapters that are merged; loading tiny models is what takes the time.
FEW = {"llama": ("lora", "adalora-cut"), "t5": ("dora",), "t5-untied": ("head",), "qwen2": ("ia3",)}
KINDS = {
    "llama": ("lora", "rslora", "dora", "adalora", "adalora-cut", "ia3"),
    "t5": ("lora", "rslora", "dora", "adalora", "adalora-cut"),
    "t5-untied": ("head",),
    "llama-untied": ("lora",),
    "qwen2": ("ia3",),
    "gpt2": ("dora",),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: with tiny matrices, more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(kind: str) -> tuple[Any, Any]:
    """Return (auto class, config) of a tiny model; qwen2 has biases, gpt2 transposed weights and shorter names."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if kind.startswith("t5"):
        values = tiny.model_dict("t5-tiny") | {"decoder_start_token_id": 0}
    elif kind == "gpt2":
        values = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    else:
        values = PRESETS["llama-tiny"] | {"hidden_size": 32, "intermediate_size": 48}
        values |= {"tie_word_embeddings": kind != "llama-untied"}
        values |= {"model_type": "qwen2"} if kind == "qwen2" else {}
        values |= {"model_type": "mixtral", "num_local_experts": 2} if kind == "mixtral" else {}
    values = values | {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    found = AutoConfig.for_model(values.pop("model_type"), **values)
    return (AutoModelForSeq2SeqLM if kind.startswith("t5") else AutoModelForCausalLM), found


def make(
    folder: Path,
    kind: str,
    peft: str,
    *,
    shard: str = "20KB",
    dtype: Any = torch.float32,
    values: dict[str, Any] | None = None,
) -> None:
    """Write folder/base and folder/adapter."""
    auto, settings = config(kind)
    settings.update(values or {})
    torch.manual_seed(0)
    model = auto.from_config(settings).to(dtype)
    if kind == "t5-untied":  # as files whose head has values of its own are loaded
        model.lm_head.weight = torch.nn.Parameter(model.shared.weight.detach().clone())
    change(model.parameters(), 0.02)
    base = folder / "base"
    if not base.exists():
        model.save_pretrained(base, max_shard_size=shard)
    model.name_or_path = str(base)  # as of one that was loaded
    again = model.float()
    made: Any = add_adapter(
        again, PeftConfig.model_validate(TYPES[peft]), seq2seq=kind.startswith("t5"), seed=1, total_steps=20
    )
    change((one for one in made.parameters() if one.requires_grad), 0.1)
    if peft == "adalora-cut":
        cut_ranks(made)
    made.save_pretrained(folder / "adapter", save_embedding_layers=False)


def cut_ranks(model: Any) -> None:
    """Set ranks as AdaLoRA's training does: each layer has its own number, one has none."""
    pattern: dict[str, list[bool]] = {}
    for number, (name, one) in enumerate(model.base_model.model.named_parameters()):
        if "lora_E" in name:
            kept = [bool(pattern) and (number + place) % 3 > 0 for place in range(len(one))]
            one.data[~torch.tensor(kept)] = 0
            pattern[name] = kept
    model.peft_config["default"].rank_pattern = pattern


def change(parameters: Any, size: float) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for one in parameters:
            one.add_(torch.randn_like(one), alpha=size)


def merged(folder: Path, name: str = "merged", **options: Any) -> Merged:
    (folder / name).mkdir()
    options = {"dtype": None, "shard_bytes": 30_000} | options
    return merge_folder(folder / "base", folder / "adapter", folder / name, **options)


def rows(kind: str) -> list[TokenRow]:
    return made_up(VOCABULARY, kind.startswith("t5"))


def loads(folder: Path) -> Callable[[], Any]:
    return lambda: load_export(folder, CPU)


@pytest.mark.parametrize(
    ("kind", "adapters"),
    [*FEW.items(), *(pytest.param(*one, marks=pytest.mark.long) for one in KINDS.items())],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # peft, of GPT-2's layers
@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`:UserWarning"
)  # its config says so, its files not
@pytest.mark.filterwarnings(r"ignore:Adapter 'default'. \d+ LoRA tensor")  # peft, of a layer without a rank
def test_merged_logits_equal_those_of_base_and_adapter(
    kind: str, adapters: tuple[str, ...], tmp_path: Path
) -> None:
    for peft in adapters:
        make(tmp_path, kind, peft)
        done = merged(tmp_path, peft)
        found = compared(tmp_path, kind, "fp32", peft)
        assert done == Merged("fp32", done.shards), "the whole model was loaded"
        assert done.shards > 2
        assert found.relative < 1e-5, peft  # of the logits' spread: CPUs round in different ways
        assert sound(found)
        assert found.effect is not None
        assert found.effect > 1e-2, f"{peft} does nothing: the comparison is empty"
        assert set(weights(tmp_path / "base")) == set(weights(tmp_path / peft))
    model = loads(tmp_path / peft)()
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert same == (not kind.endswith("untied"))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_sixteen_bits_are_within_their_tolerance(dtype: str, tmp_path: Path) -> None:
    make(tmp_path, "llama", "dora")
    assert merged(tmp_path, dtype=dtype).dtype == dtype
    stored = {one.dtype for one in weights(tmp_path / "merged").values()}
    assert stored == {torch.bfloat16 if dtype == "bf16" else torch.float16}
    assert loads_as_stored(tmp_path / "merged") == stored.pop()
    found = compared(tmp_path, "llama", dtype)
    assert sound(found)
    assert found.relative > TOLERANCE["fp32"], "nothing was rounded"


def test_by_default_weights_keep_their_type_and_are_rounded_after_merging(tmp_path: Path) -> None:
    make(tmp_path, "llama", "lora", dtype=torch.bfloat16)
    assert merged(tmp_path).dtype == "bf16"
    name = "model.layers.0.mlp.up_proj.weight"
    base, adapter = weights(tmp_path / "base")[name], weights(tmp_path / "adapter")
    stem = f"base_model.model.{name.removesuffix('.weight')}.lora_"
    change = (adapter[f"{stem}B.weight"] @ adapter[f"{stem}A.weight"]) * 2.0
    found = weights(tmp_path / "merged")[name]
    assert torch.equal(found, (base.float() + change).bfloat16())
    assert not torch.equal(found, base + change.bfloat16()), (
        "rounded before or after is the same: nothing is shown"
    )
    assert sound(compared(tmp_path, "llama", "bf16"))


@pytest.mark.parametrize("peft", grids.first(1, ["dora", "lora", "adalora", "ia3"]))
@pytest.mark.parametrize("whole", [False, True], ids=["by shards", "whole"])
def test_a_base_of_16_bits_is_merged_in_float32(
    peft: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with the bits of the same base and adapter, merged in float32 and rounded once at the end."""
    if whole:
        monkeypatch.setattr(merging, "_layer_of_tensor", lambda layers, files: None)
    make(tmp_path, "llama", peft, dtype=torch.bfloat16, shard="10MB")
    merged(tmp_path, dtype="bf16", shard_bytes=10**9)
    merged(tmp_path, "wider", dtype="fp32", shard_bytes=10**9)
    file = tmp_path / "base" / SINGLE
    stored = load_file(file)
    assert {one.dtype for one in stored.values()} == {torch.bfloat16}
    save_file({name: one.float() for name, one in stored.items()}, file, metadata={"format": "pt"})
    merged(tmp_path, "float32", dtype="fp32", shard_bytes=10**9)
    half, wider, exact = (weights(tmp_path / name) for name in ("merged", "wider", "float32"))
    assert half.keys() == wider.keys() == exact.keys()
    for name, one in exact.items():
        assert torch.equal(half[name], one.bfloat16()), name
        assert torch.equal(wider[name], one), name
    assert any(not torch.equal(one, stored[name].float()) for name, one in exact.items())


def test_files_are_no_larger_than_shard_bytes(tmp_path: Path) -> None:
    make(tmp_path, "llama-untied", "lora")
    done = merged(tmp_path, shard_bytes=15_000)
    files = sorted((tmp_path / "merged").glob("*.safetensors"))
    assert len(files) == done.shards
    for file in files:
        held = load_file(file)
        assert len(held) == 1 or sum(one.nbytes for one in held.values()) <= 15_000
    index = json.loads((tmp_path / "merged" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in weights(tmp_path / "base").values())
    one = merged(tmp_path, "one", shard_bytes=10**9)
    assert one.shards == 1
    assert [file.name for file in (tmp_path / "one").glob("*.safetensors")] == [SINGLE]


def test_the_full_model_is_merged_if_names_do_not_match(tmp_path: Path, monkeypatch: Any) -> None:
    make(tmp_path, "llama", "dora")
    monkeypatch.setattr(merging, "_layer_of_tensor", lambda layers, files: None)
    done = merged(tmp_path)
    assert "needed memory for the full model" in done.note
    assert done.shards > 2
    assert compared(tmp_path, "llama", "fp32").relative < 1e-5


@pytest.mark.parametrize(
    ("kind", "whole"),
    [
        ("llama", {"modules_to_save": ["embed_tokens"]}),  # tied: the head keeps its own
        ("qwen2", {"bias": "all"}),
        pytest.param(
            "llama-untied", {"modules_to_save": ["embed_tokens", "lm_head"]}, marks=pytest.mark.long
        ),
        pytest.param("llama", {"trainable_token_indices": [3, 5]}, marks=pytest.mark.long),
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning")
def test_full_layers_of_an_adapter_are_merged_too(kind: str, whole: dict[str, Any], tmp_path: Path) -> None:
    """Merge embeddings, heads, biases and single tokens that were trained with the low-rank updates."""
    import peft

    auto, settings = config(kind)
    torch.manual_seed(0)
    auto.from_config(settings).save_pretrained(tmp_path / "base")
    base = load_export(tmp_path / "base", CPU)
    asked = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **whole)
    made: Any = peft.get_peft_model(base, asked)
    change((one for one in made.parameters() if one.requires_grad), 0.1)
    made.save_pretrained(tmp_path / "adapter")
    done = merged(tmp_path)
    assert next(iter(whole)) in done.note
    assert compared(tmp_path, kind, "fp32").relative < 1e-5


def test_adapted_experts_are_merged_too(tmp_path: Path) -> None:
    make(tmp_path, "mixtral", "lora")
    assert "target_parameters" in merged(tmp_path).note
    assert compared(tmp_path, "mixtral", "fp32").relative < 1e-5


def test_infinite_values_and_a_quantized_base_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "llama", "lora")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    held = load_file(file)
    save_file({name: one * float("inf") for name, one in held.items()}, file)
    with pytest.raises(RunFailedError, match="NaN or infinity"):
        merged(tmp_path)
    save_file(held, file)
    settings = tmp_path / "base" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"quantization_config": {}}))
    with pytest.raises(InputError, match="round them again"):
        merged(tmp_path, "again")


def test_a_forgotten_layer_or_adapter_is_detected(tmp_path: Path) -> None:
    make(tmp_path, "llama", "lora")
    wanted = reference(loads(tmp_path / "adapter"), rows("llama"))
    bare = compare(wanted, loads(tmp_path / "base"), rows("llama"), "", "fp32")
    assert not sound(bare)
    assert bare.from_base == 0.0
    # Small enough for the tolerance, and still nothing but the base.
    assert not sound(replace(bare, relative=0.01, dtype="bf16"))
    assert sound(replace(bare, relative=0.01, from_base=0.02, dtype="bf16"))
    merged(tmp_path)
    file = next(
        file
        for file in (tmp_path / "merged").glob("*.safetensors")
        if "up_proj" in str(load_file(file).keys())
    )
    held = load_file(file)
    name = next(name for name in held if "up_proj" in name)
    save_file(held | {name: weights(tmp_path / "base")[name]}, file, metadata={"format": "pt"})
    assert not sound(compared(tmp_path, "llama", "fp32"))


def test_memory_holds_one_shard_and_not_the_model(tmp_path: Path) -> None:
    """Merge a base of about 80 MB in 6 layers; count anonymous memory, which excludes pages of files."""
    values = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8,
              "num_key_value_heads": 8}  # fmt: skip
    make(tmp_path, "llama", "lora", shard="20MB", values=values)
    size = sum(file.stat().st_size for file in (tmp_path / "base").glob("*.safetensors"))
    peaks = []
    for whole in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if whole:
                patch.setattr(merging, "_layer_of_tensor", lambda layers, files: None)
            peaks.append(peak(lambda: merged(tmp_path, f"merged-{whole}", shard_bytes=10_000_000)))  # noqa: B023
    assert size > 75_000_000
    assert peaks[0] < 0.6 * size
    assert peaks[1] > size, "the watch sees nothing"


def peak(work: Callable[[], object]) -> int:
    """Return the largest increase of anonymous memory during `work`, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be taken again, and not be seen
    found, ended = [anonymous()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            found.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        ended.set()
        watcher.join()
    return max(found) - found[0]


def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def compared(folder: Path, kind: str, dtype: str, name: str = "merged") -> Comparison:
    wanted = reference(loads(folder / "adapter"), rows(kind), load_base=loads(folder / "base"))
    return compare(wanted, loads(folder / name), rows(kind), "", dtype)


def sound(found: Comparison) -> bool:
    return found.within_tolerance and not found.nearer_to_base


def loads_as_stored(folder: Path) -> torch.dtype:
    from transformers import AutoModelForCausalLM

    found: torch.dtype = AutoModelForCausalLM.from_pretrained(folder).dtype
    return found


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found
