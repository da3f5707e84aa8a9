"""Files in a run's export that describe the weights: how to prompt the model, and the model card."""

from __future__ import annotations

import json
from typing import Any

from medray import storage
from medray.models.export.usage import Usage, base_of_model, read_usage, usage
from medray.models.generation import evaluation_settings, stated_settings
from medray.plan.model_config import model_folder
from medray.train.export.model_card import Made, model_card
from medray.train.run_folder.finished_run import EXPORT, FinishedRun
from medray.train.worker_plan import WorkerPlan

CARD = "README.md"
RUNS_OWN = "the run's own: see the metrics above"


def usage_of_plan(plan: WorkerPlan, tokenizer: Any, model: Any) -> Usage:
    """Return how to prompt the model of a run. model: the transformers model, without wrappers."""
    config = plan.config
    settings = (model.config.to_dict(), model.generation_config.to_dict())
    tuned, asked = config.peft.type, config.eval.generation
    return usage(
        plan.train.spec,
        tokenizer,
        plan.train,
        format="full" if tuned == "none" else "adapter",
        base=base_of_model(config.model, model_folder(config.model) or ""),
        dtype=plan.precision,
        adapter=None if tuned == "none" else tuned,
        model={name: value for one in settings for name, value in one.items() if value is not None},
        max_new_tokens=asked.max_new_tokens,
        num_beams=asked.num_beams,
        generation=stated_settings(
            evaluation_settings(
                model,
                tokenizer,
                max_new_tokens=asked.max_new_tokens,
                num_beams=asked.num_beams,
                base_settings=asked.base_settings,
            )
        ),
    )


def write_card(plan: WorkerPlan, summary: dict[str, Any], manifests: dict[str, Any]) -> None:
    """Write the model card of a run's export. It replaces the empty card of peft.

    summary: the values of summary.json that are known so far. Nothing is written if the run has no export.
    """
    folder = storage.at(plan.run_folder)
    found = read_usage(folder / EXPORT)
    if found is None:
        return
    adapter = None
    if found.format == "adapter":
        adapter = json.loads((folder / EXPORT / "adapter_config.json").read_text())
    tokens = storage.at(plan.train.folder).parent
    run = FinishedRun(folder, plan.config, summary, [], tokens, manifests, adapter, plan.precision)
    made = Made(found.format, plan.precision, RUNS_OWN, same=True, by="medray train")
    storage.write(folder / EXPORT / CARD, model_card(run, found.base, made, found))
