"""Recipes that need GPUs: loaded and checked, counted on torch's meta device, and run as tiny models of their family."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import recipes
import tiny
import torch
from recipes import MODELS, RECIPES, Recipe
from recorder import Rank, Recorder
from torch import nn
from torchrun import run_loops
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from medray import stages, tune
from medray.config import Config, read
from medray.config.peft import PeftConfig
from medray.config.stages import stage_configs
from medray.data.shards.preparation import encode_spec
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError
from medray.models.adapters import add_adapter
from medray.models.export import load_export
from medray.models.quantized import elements
from medray.plan import adapters, parameters
from medray.plan.memory import MemoryPlan, gigabytes, zero_bytes
from medray.plan.model_config import model_config
from medray.train.engine.optimizers import learning_rate
from medray.train.worker_plan import WorkerPlan

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft calls it
    # A T5 with a head of its own still has a config that says the two are tied, and peft asks the config.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer:UserWarning"),
    # It would save the head beside an adapter of it, but is given the adapter's own weights alone.
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
]

BY_NAME = {recipe.name: recipe for recipe in RECIPES}
STEPS = 2


def states(recipe: Recipe, config: Config) -> MemoryPlan:
    """Model states of a worker in 16 bits, by the arithmetic that a run is held against."""
    model = MODELS[str(config.model.name)]
    count, trained = parameters.from_config(model), adapters.trained(model, config.peft)
    weight_bytes = 4 if config.train.precision == "fp32" else 2
    plan = zero_bytes(
        count.total + (trained if config.peft.type != "none" else 0),
        trained,
        stage=config.train.zero_stage,
        world_size=config.cluster.fewest_workers,
        weight_bytes=weight_bytes,
        offload=config.train.offload,
        largest_layer=count.largest_layer,
    )
    if config.model.quantization == "nf4":
        base = adapters.nf4_bytes(model, weight_bytes, double=config.model.double_quantization)
        plan = replace(plan, weights=base + weight_bytes * trained)
    return plan


@pytest.mark.parametrize("name", BY_NAME)
def test_a_recipe_is_sound_and_its_header_says_how_and_how_much(name: str, tmp_path: Path) -> None:
    recipe = BY_NAME[name]
    config = recipe.config(tmp_path)
    for word in ("needs", "time", "data", "run", "source"):
        assert re.search(rf"^{word} ", recipe.header, re.MULTILINE), word
    for override in recipe.overrides:
        assert override in recipe.header
    found = states(recipe, config)
    if recipe.states:
        assert gigabytes(found.device) == recipe.states
        assert re.search(rf"{re.escape(recipe.states)} GB", recipe.header)
    if found.host:
        assert re.search(rf"{re.escape(gigabytes(found.host))} GB of host memory", recipe.header)
    if recipe.trained is not None:
        assert adapters.trained(MODELS[str(config.model.name)], config.peft) == recipe.trained


def test_every_file_is_in_the_index_and_begins_with_what_it_needs() -> None:
    index = (recipes.ROOT / "README.md").read_text(encoding="utf-8")
    files = sorted(path.name for path in recipes.ROOT.glob("*.yaml"))
    assert re.findall(r"^\| \[`([\w.]+)`\]\(\1\)", index, re.MULTILINE) == files
    for name in files:
        text = (recipes.ROOT / name).read_text(encoding="utf-8")
        assert re.search(r"^# needs ", text, re.MULTILINE), name
        assert re.search(r"^# run ", text, re.MULTILINE), name
        words = [line for line in text.splitlines() if len(line) > 130 and "peft={" not in line]
        assert not words, name


def test_dfpo_has_the_published_values_in_its_three_stages(tmp_path: Path) -> None:
    """Another family and three methods in one file, so it is not among RECIPES; a tiny Gemma 2 runs it in tests/ray."""
    config = read(recipes.ROOT / "dfpo.yaml", [f"data.root={tmp_path}", f"run.storage={tmp_path}"])
    stages.check(config, elsewhere=True, data=False, model=False)
    pre, pairs, post = stage_configs(config)
    for each in (pre, post):
        assert (each.method.name, each.model.quantization, each.data.drop_longer_than) == ("sft", "nf4", 3000)
        assert (each.peft.rank, each.train.epochs, each.train.global_batch_size) == (32, 5, 8)
        assert (each.train.optimizer.name, each.train.optimizer.lr) == ("paged_adamw", 2e-4)
        assert (each.train.scheduler.name, each.train.clip_grad_norm) == ("constant", 0.3)
    assert pre.data.train == post.data.train != pairs.data.train
    assert (pairs.method.name, pairs.method.loss) == ("dpo", "dpop")
    assert (pairs.method.beta, pairs.method.dpop_lambda) == (0.4, 2.0)
    assert (pairs.model.quantization, pairs.data.drop_longer_than) == ("none", None)
    assert pairs.data.max_prompt_tokens == 512
    assert 512 + pairs.data.max_label_tokens == 2048
    assert (pairs.peft.rank, pairs.train.epochs, pairs.train.global_batch_size) == (8, 2, 1)
    assert (pairs.train.optimizer.name, pairs.train.optimizer.lr) == ("paged_adamw_8bit", 2e-7)
    for each in (pre, pairs, post):
        assert (each.peft.type, each.peft.alpha, each.peft.dropout, each.peft.targets) == (
            "lora", 16, 0.1, "all-linear")  # fmt: skip
        assert (each.data.template, each.train.gradient_checkpointing) == ("legacy/adelie", True)


def test_the_search_is_one_that_medray_tune_accepts(tmp_path: Path) -> None:
    config = read(recipes.ROOT / "search.yaml", [f"run.storage={tmp_path}"])
    tune.check(config, model=False)
    assert config.tune is not None
    assert set(config.tune.space) == {"method.alpha", "peft.rank"}
    assert config.eval.every_steps is not None
    assert config.eval.every_steps * 10 <= (config.train.max_steps or 0)
    with pytest.raises(InputError, match="losses of two trials cannot be compared"):
        tune.check(config.override({"tune.metric": "loss", "tune.mode": "min"}), model=False)


# ---- the published sizes, without weights


class Tokens:
    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": list(range(2, 2 + len(text.split())))}


def on_meta(model: dict[str, Any], peft: PeftConfig) -> Iterator[tuple[int, bool]]:
    """(size, trained) of every parameter."""
    seq2seq = model["model_type"] == "t5"
    auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    values = {name: value for name, value in model.items() if name != "model_type"}
    with torch.device("meta"):
        built = auto.from_config(AutoConfig.for_model(model["model_type"], **values))
        if seq2seq:
            built.lm_head.weight = nn.Parameter(torch.empty_like(built.lm_head.weight))
            built.config.tie_word_embeddings = False
        adapted = add_adapter(built, peft, seq2seq=seq2seq, seed=0, total_steps=12_010, tokenizer=Tokens())
    return ((elements(one), one.requires_grad) for one in adapted.parameters())


def counted() -> list[Any]:
    """Of recipes with the same model and adapter the first."""
    found: dict[tuple[str, ...], Any] = {}
    for name, one in BY_NAME.items():
        parts = (one.file, *(each for each in one.overrides if each.startswith(("model.name", "peft="))))
        marks = pytest.mark.long if parts[1:] or "70b" in one.file else ()
        found.setdefault(parts, pytest.param(name, marks=marks))
    return list(found.values())


@pytest.mark.parametrize("name", counted())
def test_plan_counts_what_is_built(name: str, tmp_path: Path) -> None:
    config = BY_NAME[name].config(tmp_path)
    model = MODELS[str(config.model.name)]
    sizes = list(on_meta(model, config.peft))
    trained = adapters.trained(model, config.peft)
    assert sum(size for size, learns in sizes if learns) == trained > 0
    adapter = trained + adapters.counters(model, config.peft) if config.peft.type != "none" else 0
    assert sum(size for size, _ in sizes) == parameters.from_config(model).total + adapter


def test_published_counts_of_adapters_are_those_of_the_recipe(tmp_path: Path) -> None:
    """Rank 4 of AdaLoRA on every linear layer, and prefixes, as MeDistill reports them."""
    adalora = Recipe("medistill_t5", (*recipes.ADALORA, "model.name=google/flan-t5-xl")).config(tmp_path)
    assert adapters.trained(MODELS["google/flan-t5-xl"], adalora.peft) == 8_985_796
    prefix = PeftConfig(type="prefix", virtual_tokens=20)
    assert adapters.trained(MODELS["google/t5-v1_1-xxl"], prefix) == 3_932_160


# ---- tiny models of the same family in the real worker loop


def shrunk(recipe: Recipe, folder: Path, *more: str) -> WorkerPlan:
    """The recipe with a tiny model, made-up rows and two steps; prompts, template, method and adapter are its own."""
    asked = recipe.config(folder)
    family = MODELS[str(asked.model.name)]["model_type"]
    tokenizer = tiny.tokenizer(folder)
    known = load_tokenizer(str(tokenizer))
    place = recipes.tiny_model(folder / family, family, len(known))
    known.save_pretrained(place)
    config = recipe.config(
        folder,
        f"model.name={place}",
        "data.dataset=null",
        "data.train=[rows.jsonl]",
        "data.split.validation=0",
        "eval.every_steps=null",
        "train.keep_best=null",
        "eval.at_start=false",
        f"train.max_steps={STEPS}",
        "train.global_batch_size=4",
        "train.zero_stage=0",
        "train.offload=none",
        "train.precision=fp32",
        "cluster.workers=1",
        *recipe.shrunk,
        *more,
    )
    kind = "seq2seq" if family == "t5" else "causal"
    tokens = tiny.token_set(folder, recipes.rows(asked), architecture=kind, spec=encode_spec(asked, kind))
    run = folder / "run"
    run.mkdir()
    return WorkerPlan(config, str(run), tokens, None, model_config(config.model, 0), STEPS, "fp32", 1)


def check_run(plan: WorkerPlan, steps: list[dict[str, Any]]) -> None:
    train = plan.config.train
    assert [step["step"] for step in steps] == [1, 2]
    for number, step in enumerate(steps):
        assert math.isfinite(step["loss"])
        assert step["loss"] > 0
        assert step["grad_norm"] > 0
        rate = learning_rate(number, STEPS, train.optimizer.lr, train.scheduler)
        assert step["lr"] == pytest.approx(rate, rel=1e-6)
        assert {f"loss/{task}" for task in plan.method.tasks} <= set(step)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if not one.overrides else pytest.mark.long)
        for name, one in BY_NAME.items()
    ],
)
def test_a_tiny_model_of_the_family_runs(name: str, tmp_path: Path) -> None:
    plan, recorder = shrunk(BY_NAME[name], tmp_path), Recorder()
    running = Rank(plan, recorder)
    outcome = running.run()
    assert outcome.status == "done"
    check_run(plan, recorder.steps)
    if plan.config.peft.type != "none":
        assert outcome.trainable == adapters.trained(plan.model, plan.config.peft)
    else:
        assert outcome.trainable == outcome.parameters
    again: Any = load_export(tmp_path / "run" / "export", torch.device("cpu"))
    if plan.config.peft.type == "adalora":  # ranks that were cut are left out of the file
        asked: dict[str, Any] = {
            name: torch.tensor([[5, 6, 7, 8]]) for name in ("input_ids", "decoder_input_ids")
        }
        with torch.no_grad():
            found, wanted = (model(**asked).logits for model in (again, running.built.model.eval()))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        return
    stored = dict(again.named_parameters())
    for parameter, value in running.built.model.named_parameters():
        assert not value.requires_grad or torch.equal(stored[parameter], value), parameter


@pytest.mark.long
def test_stage_3_recipes_run_at_stage_3(tmp_path: Path) -> None:
    plans: dict[str, WorkerPlan] = {}
    for name, recipe in BY_NAME.items():
        if recipe.config(tmp_path).train.zero_stage == 3 and "train.offload=cpu" not in recipe.overrides:
            folder = tmp_path / str(len(plans))
            folder.mkdir()
            plans[name] = shrunk(recipe, folder, "train.zero_stage=3", "cluster.workers=2")
    assert len(plans) == 3
    for name, seen in run_loops(tmp_path, plans, processes=2).items():
        check_run(plans[name], seen["steps"])
