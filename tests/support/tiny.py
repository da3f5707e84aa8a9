"""Small, real parts for tests: a tokenizer, token sets of made-up rows, configs and worker plans. No Ray, no network."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.config import Config
from medray.config.data import DataConfig
from medray.config.method_specs import MethodSpec
from medray.data.encode.encoder import EncodeSpec
from medray.data.index.membership import SourceParts, SplitIndex, join
from medray.data.index.row_index import check_columns, index_range
from medray.data.index.sources import FileSource, Source
from medray.data.shards.shard_task import encode_shard
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import train_tokenizer
from medray.plan.model_config import PRESETS
from medray.plan.steps import total_steps

if TYPE_CHECKING:
    from medray.train.worker_plan import WorkerPlan

WORDS = [
    "fever",
    "cough",
    "pain",
    "knee",
    "chest",
    "rash",
    "note",
    "doctor",
    "patient",
    "dose",
    "daily",
    "tablet",
    "allergy",
    "none",
    "history",
    "smoker",
    "denies",
    "reports",
    "mild",
    "severe",
    "left",
    "right",
    "since",
    "week",
    "month",
    "normal",
    "pressure",
    "blood",
    "sugar",
    "heart",
]


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of very uneven length, each with its own id; every fifth has no rationale."""
    made = []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")

        def words(low: int, high: int, rng: random.Random = rng) -> str:
            return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

        made.append(
            {
                "id": f"row-{number}",
                "input": words(4, 40),
                "label": words(1, 12),
                "rationale": "" if number % 5 == 4 else words(2, 25),
            }
        )
    return made


KEYS = ("Age", "Sex", "Lab Results", "Other")


def keyed_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return `rows` with rationales {key: text}; each lacks some of KEYS, null or absent, and all lack the last."""
    made = []
    for number, row in enumerate(rows(count, seed)):
        words = row["rationale"].split() or ["none"]
        texts = {
            key: None if (number + place) % 3 == 0 else " ".join(words[place::3]) or "none"
            for place, key in enumerate(KEYS[:-1])
            if (number + place) % 4
        }
        made.append(row | {"rationale": texts})
    return made


def write_jsonl(path: Path, made: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def tokenizer(folder: Path) -> Path:
    """A byte-level BPE trained on the words of `rows`."""
    texts = [" ".join(WORDS)] * 3 + [json.dumps(row) for row in rows(30, seed=9)]
    return Path(str(train_tokenizer(texts, 400, folder / "tokenizer")))


def parts(sources: Sequence[Source], shard_rows: int, method: MethodSpec | None = None) -> list[SourceParts]:
    """Every range of the sources indexed, as the pipeline's tasks do it."""
    made = []
    for source in sources:
        ranges = [
            index_range(source, start, stop, shard_rows, method=method) for start, stop in source.ranges()
        ]
        check_columns(source, {name for part in ranges for name in part.columns_seen}, "data.train")
        made.append(SourceParts(source.name, source.corpus, ranges))
    return made


def index(source: Source, shard_rows: int, method: MethodSpec | None = None) -> SplitIndex:
    """The index of one source, all of it training."""
    return join(parts([source], shard_rows, method), [], DataConfig(), seed=0)["train"]


def encode_spec(architecture: str = "causal", tasks: tuple[str, ...] = ("label", "rationale")) -> EncodeSpec:
    """Short limits and prompts."""
    return EncodeSpec(
        architecture="seq2seq" if architecture == "seq2seq" else "causal",
        tasks=tasks,
        prompts={"label": "predict", "rationale": "explain"},
        system=None,
        template="chat",
        train_turns="all",
        train_on="completion",
        extraction_answer="entities",
        extraction_types=(),
        max_input_tokens=64,
        limits={"label": 32, "rationale": 32},
    )


def token_set(
    folder: Path,
    made: Sequence[dict[str, Any]],
    *,
    architecture: str = "causal",
    tasks: tuple[str, ...] = ("label", "rationale"),
    shard_rows: int = 7,
    truth: bool = False,
    name: str = "train",
    spec: EncodeSpec | None = None,
    method: MethodSpec | None = None,
) -> TokenSet:
    """Shards of `made`, written by the parts that the Ray Data pipeline runs."""
    target = folder / f"{architecture}-{name}"
    target.mkdir(parents=True, exist_ok=True)
    source = FileSource(path=str(write_jsonl(target / f"{name}.jsonl", made)), format="jsonl")
    found = index(source, shard_rows, method)
    asked = spec or encode_spec(architecture, tasks)
    made_set = TokenSet(folder=str(target), tokenizer=str(tokenizer(folder)), spec=asked, index=found)
    for shard in found.shards:
        encode_shard(made_set, shard, source, truth=truth)
    return made_set


def model_dict(preset: str) -> dict[str, Any]:
    """The Hugging Face config of a preset, smaller and without dropout."""
    config = PRESETS[preset]
    if preset == "t5-tiny":
        config = config | {
            "dropout_rate": 0.0,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 2,
            "num_decoder_layers": 2,
        }
    return config


def plan(
    run_folder: Path,
    tokens: TokenSet,
    preset: str,
    *,
    validation: TokenSet | None = None,
    workers: int = 2,
    global_batch_size: int = 8,
    max_steps: int = 20,
    micro: int | None = None,
    accumulation: int | None = None,
    **sections: dict[str, Any],
) -> WorkerPlan:
    """A worker plan over ready shards, as the driver would make it."""
    from medray.train.worker_plan import WorkerPlan  # it imports torch

    run_folder.mkdir(parents=True, exist_ok=True)
    base: dict[str, dict[str, Any]] = {
        "run": {"storage": str(run_folder.parent), "name": run_folder.name, "seed": 3},
        "model": {"name": None, "init": "random", "preset": preset},
        "data": {"train": ["x.jsonl"], "window_shards": 2},
        "method": {"name": "distill", "alpha": 0.3},
        "train": {
            "max_steps": max_steps,
            "global_batch_size": global_batch_size,
            "micro_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
            "precision": "fp32",
            "optimizer": {"lr": 1e-2, "weight_decay": 0.01},
            "scheduler": {"warmup_steps": 3},
            "save_every_steps": 1000,
        },
        "cluster": {"workers": workers},
        "eval": {"at_start": False, "metrics": []},
    }
    for section, values in sections.items():
        base[section] = {**base.get(section, {}), **values}
    config = Config.model_validate(base)
    steps = total_steps(tokens.index.rows, global_batch_size, config.train.epochs, config.train.max_steps)
    return WorkerPlan(
        config,
        str(run_folder),
        tokens,
        validation,
        model_dict(preset),
        steps,
        "fp32",
        1,
    )


def saved_model(folder: Path, preset: str, tokens: TokenSet, seed: int = 3) -> dict[str, Any]:
    """A model section that loads a preset's random weights from a folder as save_pretrained writes it."""
    import torch

    from medray.data.tokenizer import load_tokenizer
    from medray.models.load import load_model

    if not folder.exists():
        config = Config.model_validate({"model": {"name": None, "init": "random", "preset": preset}})
        model: Any = load_model(
            config.model, model_dict(preset), load_tokenizer(tokens.tokenizer), dtype=torch.float32, seed=seed
        )
        model.save_pretrained(folder)
        load_tokenizer(tokens.tokenizer).save_pretrained(folder)
    return {"name": str(folder), "init": "pretrained", "preset": None}
