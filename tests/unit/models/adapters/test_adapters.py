"""Adapters of every type on a T5 and a Llama, compared with plain peft and torch, row by row, without padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grids
import numpy as np
import peft as library
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from medray.config.checks.adapter_folder import read_adapter
from medray.config.peft import PROMPT_TYPES, PeftConfig
from medray.data.batching.collate import collate, prompts
from medray.errors import InputError
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import generate
from medray.models.adapters import add_adapter, merge
from medray.models.export import load_export
from medray.models.forward import loss_logits
from medray.plan.model_config import PRESETS, auto_class

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft calls it
    # What plain peft says, which the expected values come from.
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

ARCHITECTURES = {"causal": "llama-tiny", "seq2seq": "t5-tiny"}
VOCABULARY = 96
RNG = np.random.default_rng(0)
IDS = [RNG.integers(2, VOCABULARY, size) for size in (5, 11, 8)]
TYPES: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 3, "alpha": 6.0},
    "dora": {"type": "lora", "rank": 3, "alpha": 6.0, "dora": True},
    "rslora": {"type": "lora", "rank": 4, "alpha": 6.0, "rslora": True},
    "adalora": {"type": "adalora", "adalora": {"init_rank": 4, "target_rank": 2}},
    "ia3": {"type": "ia3"},
    "prefix": {"type": "prefix", "virtual_tokens": 4},
    "prompt": {"type": "prompt", "virtual_tokens": 4},
    "multitask_prompt": {"type": "multitask_prompt", "virtual_tokens": 4, "task_rank": 2},
}


class Tokenizer:
    """A tokenizer whose words are numbers."""

    pad_token_id, eos_token_id = 0, 1

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}

    def __len__(self) -> int:
        return VOCABULARY

    def batch_decode(self, ids: Tensor, **options: Any) -> list[str]:
        return [" ".join(str(int(one)) for one in row if one > 1) for row in ids]


def base(architecture: str) -> Any:
    """Return a base with the same weights at every call, large enough that attention matters."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    seq2seq = architecture == "seq2seq"
    config = tiny.model_dict("t5-tiny") | {"decoder_start_token_id": 0} if seq2seq else PRESETS["llama-tiny"]
    values = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1}
    values |= {name: value for name, value in config.items() if name != "model_type"}
    auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(config["model_type"], **values))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


def adapted(architecture: str, kind: str, *, checkpointing: bool = False) -> Any:
    """Return a model with an adapter whose weights are not zero."""
    model = base(architecture)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    made: Any = add_adapter(
        model,
        PeftConfig.model_validate(TYPES[kind]),
        seq2seq=architecture == "seq2seq",
        seed=1,
        total_steps=20,
        tokenizer=Tokenizer(),
    )
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return made.eval()


def plain(model: Any, architecture: str) -> Any:
    """Return the same weights in a plain peft model, without changes by medray."""
    made: Any = library.get_peft_model(base(architecture), model.peft_config["default"])
    made.load_state_dict(model.state_dict())
    return made.eval()


def loss(model: Any, architecture: str, task: str) -> Tensor:
    """Return the sum of losses over three rows of unequal length, in one batch."""
    causal = architecture == "causal"
    rows = [
        (ids, np.where(np.arange(len(ids)) >= len(ids) - 3, ids, -100) if causal else ids[: 3 + place])
        for place, ids in enumerate(IDS)
    ]
    micro = collate(task, rows, "causal" if causal else "seq2seq", 0)
    arrays = (micro.input_ids, micro.attention_mask, micro.labels)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    logits, labels = loss_logits(model, *tensors, seq2seq=not causal, tasks=[task] * len(tensors[0]))
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")


def expected(model: Any, architecture: str, task: str) -> float:
    """Return the same sum from plain peft, with each row alone."""
    kind, total = model.peft_config["default"].peft_type.value, 0.0
    told = {"task_ids": torch.tensor([int(task != "label")])} if kind.startswith("MULTI") else {}
    for place, ids in enumerate(IDS):
        row = torch.from_numpy(ids)[None]
        if architecture == "causal":
            logits = model(input_ids=row, attention_mask=torch.ones_like(row), **told).logits[0]
            logits, wanted = logits[-len(ids) :][-4:-1], row[0, -3:]
        else:
            wanted = row[0, : 3 + place]
            logits = model(
                input_ids=row, attention_mask=torch.ones_like(row), labels=wanted[None], **told
            ).logits[0]
        logs = torch.log_softmax(logits, -1)
        total -= float(sum(logs[at, token] for at, token in enumerate(wanted)))
    return total


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        # In `make test` each type on one architecture, in turn.
        pytest.param(kind, architecture, marks=pytest.mark.long if (i + j) % 2 else ())
        for i, kind in enumerate(TYPES)
        for j, architecture in enumerate(ARCHITECTURES)
    ],
)
def test_losses_and_texts_equal_those_of_plain_peft_row_by_row(architecture: str, kind: str) -> None:
    model = adapted(architecture, kind)
    reference = plain(model, architecture)
    found = {task: loss(model, architecture, task) for task in ("label", "rationale")}
    with torch.no_grad():
        for task, value in found.items():
            assert float(value.detach()) == pytest.approx(expected(reference, architecture, task), rel=1e-5)
        bare = float(loss(base(architecture).eval(), architecture, "label"))
        assert abs(bare - float(found["label"])) > 1e-2, "the adapter does nothing: the comparison is empty"
    assert (found["label"] != found["rationale"]).item() == (kind == "multitask_prompt")
    sum(found.values()).backward()  # type: ignore[union-attr]
    grads = {name: one.grad is not None for name, one in model.named_parameters()}
    assert grads == {name: one.requires_grad for name, one in model.named_parameters()}
    told = {"task_ids": torch.tensor([0])} if kind == "multitask_prompt" else {}
    for beams in (1, 2):
        decoding = Decoding(max_new_tokens=6, num_beams=beams)
        asked = prompts(IDS, architecture, 0)
        got = generate(model, Tokenizer(), asked, decoding, device=torch.device("cpu"))
        for ids, text in zip(IDS, got, strict=True):
            row = torch.from_numpy(ids)[None]
            told_row = {"input_ids": row, "attention_mask": torch.ones_like(row), "num_beams": beams, **told}
            wanted = reference.generate(**told_row, max_new_tokens=6, do_sample=False)
            begin = row.shape[1] if architecture == "causal" else 0
            assert text == Tokenizer().batch_decode(wanted[:, begin:])[0]


@pytest.mark.parametrize("architecture", grids.first(1, ARCHITECTURES))
def test_gradient_checkpointing_changes_nothing(architecture: str) -> None:
    for kind in TYPES:
        if kind == "prefix":
            with pytest.raises(InputError, match="gradient checkpointing"):
                adapted(architecture, kind, checkpointing=True)
            continue
        grads = []
        for checkpointing in (False, True):
            model = adapted(architecture, kind, checkpointing=checkpointing).train()
            loss(model, architecture, "label").backward()
            grads.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.requires_grad]))
        assert float((grads[0] - grads[1]).norm()) <= 1e-3 * float(grads[0].norm()), kind


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_model_has_the_loss_of_model_and_adapter(architecture: str, tmp_path: Path) -> None:
    for kind in reversed(TYPES):
        model = adapted(architecture, kind)
        if kind in PROMPT_TYPES:
            with pytest.raises(InputError, match="virtual tokens"):
                merge(model)
            continue
        with torch.no_grad():
            wanted = loss(model, architecture, "label")
            merged: Any = merge(model)
            torch.testing.assert_close(loss(merged, architecture, "label"), wanted, rtol=1e-4, atol=1e-4)
        assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    merged.save_pretrained(tmp_path / kind)
    again: Any = load_export(tmp_path / kind, torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(loss(again, architecture, "label"), loss(merged, architecture, "label"))
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight


def test_an_adapter_of_a_tied_head_cannot_be_merged() -> None:
    settings = PeftConfig(type="lora", rank=2, targets=("q_proj", "lm_head"))
    with pytest.warns(UserWarning, match="tied"):
        model = add_adapter(base("causal"), settings, seq2seq=False, seed=0)
    with pytest.raises(InputError, match="with the embeddings"):
        merge(model)


def test_a_prompt_begins_with_words() -> None:
    for kind in ("prompt", "multitask_prompt"):
        values = TYPES[kind] | {"init_text": "7 8 9"}
        for architecture in ARCHITECTURES:
            model: Any = add_adapter(
                base(architecture),
                PeftConfig.model_validate(values),
                seq2seq=architecture == "seq2seq",
                seed=1,
                tokenizer=Tokenizer(),
            )
            words = model.get_base_model().get_input_embeddings().weight
            assert torch.equal(model.prompt_encoder["default"].embedding.weight, words[[7, 8, 9, 7]])
    empty = PeftConfig(type="prompt", init_text=" ")
    with pytest.raises(InputError, match="has no tokens"):
        add_adapter(base("causal"), empty, seq2seq=False, seed=1, tokenizer=Tokenizer())
    drawn: Any = add_adapter(base("causal"), PeftConfig(type="prompt"), seq2seq=False, seed=1)
    rows = drawn.prompt_encoder["default"].embedding.weight.detach()
    words = drawn.get_base_model().get_input_embeddings().weight.detach()
    assert all((words == row).all(dim=1).any() for row in rows)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "adalora"])
def test_training_starts_from_an_adapter(kind: str, tmp_path: Path) -> None:
    model = adapted("seq2seq", kind)
    model.save_pretrained(tmp_path)
    peft = PeftConfig.model_validate({"type": TYPES[kind]["type"]})
    started: Any = add_adapter(base("seq2seq"), peft, seq2seq=True, seed=9, start=str(tmp_path))
    wanted = {name for name, one in model.named_parameters() if one.requires_grad}
    assert {name for name, one in started.named_parameters() if one.requires_grad} == wanted
    assert torch.equal(loss(started.eval(), "seq2seq", "rationale"), loss(model, "seq2seq", "rationale"))
    with pytest.raises(InputError, match="does not fit the model"):
        add_adapter(base("causal"), peft, seq2seq=False, seed=9, start=str(tmp_path))


def test_scale_dropout_and_targets_come_from_the_config() -> None:
    values = {"type": "lora", "rank": 4, "alpha": 6.0, "dropout": 0.25, "targets": ["q_proj"]}
    for rslora, scale in ((False, 1.5), (True, 3.0)):
        peft = PeftConfig.model_validate(values | {"rslora": rslora})
        model: Any = add_adapter(base("causal"), peft, seq2seq=False, seed=0)
        layers = {name: one for name, one in model.named_modules() if hasattr(one, "lora_A")}
        assert all(name.endswith("q_proj") for name in layers)
        assert {one.scaling["default"] for one in layers.values()} == {scale}
        assert {one.lora_dropout["default"].p for one in layers.values()} == {0.25}


@pytest.mark.parametrize("kind", ["lora", "adalora"])
def test_each_target_must_be_a_module_that_supports_the_adapter(kind: str) -> None:
    for targets, wrong in ((["q_proj", "v_projj"], "v_projj"), (["q_proj", "norm"], "norm")):
        peft = PeftConfig.model_validate({"type": kind, "targets": targets})
        with pytest.raises(InputError, match=wrong) as caught:
            add_adapter(base("causal"), peft, seq2seq=False, seed=0, total_steps=100)
        assert "all-linear, or to some of down_proj, gate_proj, k_proj, lm_head, o_proj" in str(caught.value)


def test_adalora_takes_its_settings_and_derives_the_rest() -> None:
    def settings(steps: int, **values: Any) -> Any:
        peft = PeftConfig.model_validate({"type": "adalora", "alpha": 9.0, "dropout": 0.1, "adalora": values})
        model: Any = add_adapter(base("causal"), peft, seq2seq=False, seed=0, total_steps=steps)
        return model.peft_config["default"]

    derived = settings(1000)
    assert (derived.tinit, derived.tfinal, derived.deltaT, derived.total_step) == (100, 300, 10, 1000)
    assert (derived.init_r, derived.target_r, derived.beta1, derived.orth_reg_weight) == (12, 8, 0.85, 0.5)
    given = settings(50, init_rank=4, target_rank=2, tinit=3, tfinal=5, delta_t=7, betas=[0.5, 0.6],
                     orthogonal_weight=0.0)  # fmt: skip
    assert (given.tinit, given.tfinal, given.deltaT, given.beta1, given.beta2) == (3, 5, 7, 0.5, 0.6)
    assert (given.init_r, given.target_r, given.orth_reg_weight) == (4, 2, 0.0)
    assert (given.lora_alpha, given.lora_dropout) == (9.0, 0.1)
    with pytest.raises(InputError, match="no step is left in between"):
        settings(10, tinit=6, tfinal=4)
    assert settings(1, tinit=0).total_step == 1


def test_every_new_token_gets_a_trained_embedding() -> None:
    from medray.models.load import refuse_untrained_tokens, with_vocabulary

    class Longer(Tokenizer):
        def __len__(self) -> int:
            return VOCABULARY + 5

    for architecture in ARCHITECTURES:
        found = [with_vocabulary(base(architecture), Longer(), seed) for seed in (3, 3, 4)]
        words: list[nn.Parameter] = [model.get_input_embeddings().weight for model in found]
        assert words[0].shape[0] == VOCABULARY + 5 == found[0].config.vocab_size
        assert torch.equal(words[0][:VOCABULARY], base(architecture).get_input_embeddings().weight)
        assert torch.equal(words[0], words[1])
        assert not torch.equal(words[0], words[2])
        assert words[0] is found[0].get_output_embeddings().weight
        with pytest.raises(InputError, match="would not train new ones"):
            add_adapter(found[0], PeftConfig(type="lora"), seq2seq=architecture == "seq2seq", seed=0)
        same = with_vocabulary(base(architecture), Tokenizer(), 3)
        refuse_untrained_tokens(same, "lora")


def saved_adapter(folder: Path, kind: str, **settings: Any) -> Path:
    """Write an adapter of a tiny Llama, with `settings` in its adapter_config.json."""
    adapted: Any = add_adapter(base("causal"), PeftConfig(**TYPES[kind]), seq2seq=False, seed=1)
    adapted.save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def test_an_adapter_loads_no_tokenizer_and_no_pickle_of_another_folder(tmp_path: Path) -> None:
    """Avoid both: peft would load them for initial values, which those of the file replace."""
    words: dict[str, Any] = {
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "x",
        "tokenizer_name_or_path": "/nowhere",
    }
    words["tokenizer_kwargs"] = {"trust_remote_code": True}
    pickle = {"prompt_tuning_init": "EXACT_SOURCE_TASK", "prompt_tuning_init_state_dict_path": "/nowhere.bin"}
    for kind, settings in (("prompt", words), ("multitask_prompt", pickle)):
        folder = saved_adapter(tmp_path / kind, kind, **settings)
        config = PeftConfig(**TYPES[kind])
        again: Any = add_adapter(base("causal"), config, seq2seq=False, seed=2, start=str(folder))
        stored = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
        assert torch.equal(again.prompt_encoder["default"].embedding.weight, stored)


@pytest.mark.parametrize("kind", ["lora", "ia3", "prefix", "prompt"])
def test_an_adapter_of_a_different_model_is_refused_by_its_shapes(kind: str, tmp_path: Path) -> None:
    """Use the meta device, as the check of a run before its start does."""
    folder = saved_adapter(tmp_path / "adapter", kind)
    with torch.device("meta"):
        fitting: Any = add_adapter(
            base("causal"), PeftConfig(**TYPES[kind]), seq2seq=False, seed=1, start=str(folder)
        )
        assert fitting is not None
    weights = load_file(folder / "adapter_model.safetensors")
    name = sorted(weights)[0]
    save_file(weights | {name: torch.ones(7, 9)}, folder / "adapter_model.safetensors")
    with torch.device("meta"), pytest.raises(InputError, match="does not fit the model"):
        add_adapter(base("causal"), PeftConfig(**TYPES[kind]), seq2seq=False, seed=1, start=str(folder))


def test_the_error_names_missing_and_unknown_tensors_of_an_adapter(tmp_path: Path) -> None:
    folder = saved_adapter(tmp_path / "adapter", "lora")
    file = folder / "adapter_model.safetensors"
    held = load_file(file)
    name = sorted(held)[0]

    def refused() -> str:
        with torch.device("meta"), pytest.raises(InputError) as caught:
            add_adapter(base("causal"), PeftConfig(**TYPES["lora"]), seq2seq=False, seed=1, start=str(folder))
        return str(caught.value)

    save_file({other: one for other, one in held.items() if other != name}, file)
    assert f"1 of {len(held)} tensors are missing: base_model.model.model.layers.0." in refused()
    save_file(held | {"base_model.model.own.weight": torch.ones(2)}, file)
    assert f"1 of {len(held) + 1} tensors belong to no module of the model: base_model.model.own" in refused()


@pytest.mark.parametrize("kind", ["lora", "prompt"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_an_adapter_with_nan_or_infinity_is_not_loaded(kind: str, number: str, tmp_path: Path) -> None:
    base("causal").save_pretrained(tmp_path / "base")
    folder = saved_adapter(tmp_path / "adapter", kind, base_model_name_or_path=str(tmp_path / "base"))
    load_export(folder, torch.device("cpu"))
    file = folder / "adapter_model.safetensors"
    held = load_file(file)
    held[sorted(held)[0]].view(-1)[1] = float(number)
    save_file(held, file)
    told = f"1 of the adapter's {len(held)} tensors contain NaN or infinity: {sorted(held)[0]}"
    with pytest.raises(InputError, match=told):
        add_adapter(base("causal"), PeftConfig(**TYPES[kind]), seq2seq=False, seed=1, start=str(folder))
    with pytest.raises(InputError, match=told):
        load_export(folder, torch.device("cpu"))


EXPERTS = {"model_type": "mixtral", "num_local_experts": 2, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    "model", [PRESETS["llama-tiny"] | EXPERTS, PRESETS["llama-tiny"], tiny.model_dict("t5-tiny")]
)
def test_medray_reads_the_adapters_that_peft_writes_for_it(model: dict[str, Any], tmp_path: Path) -> None:
    """Try every type: peft adds settings, such as target_parameters for the experts of a Mixtral."""
    from transformers import AutoConfig

    values = {"vocab_size": VOCABULARY, "pad_token_id": 0} | model
    kind_of_model = values.pop("model_type")
    settings = AutoConfig.for_model(kind_of_model, **values)
    seq2seq = kind_of_model == "t5"
    for kind, asked in TYPES.items():
        if (kind, kind_of_model) == ("dora", "mixtral"):
            continue  # peft has no DoRA of experts
        made: Any = add_adapter(
            auto_class(model).from_config(settings),
            PeftConfig.model_validate(asked),
            seq2seq=seq2seq,
            seed=1,
            total_steps=20,
            tokenizer=Tokenizer(),
        )
        made.save_pretrained(tmp_path / kind, save_embedding_layers=False)
        read, _ = read_adapter(tmp_path / kind)
        assert bool(read.get("target_parameters")) == (
            kind_of_model == "mixtral" and "lora" in (kind, kind[2:])
        )
        with torch.device("meta"):
            bare = auto_class(model).from_config(settings)
            add_adapter(
                bare, PeftConfig.model_validate(asked), seq2seq=seq2seq, seed=1, start=str(tmp_path / kind)
            )
