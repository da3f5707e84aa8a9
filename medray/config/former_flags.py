"""Flags of the five systems whose work medray does, and what became of each: the table behind docs/from-the-seeds.md.

A flag that is written as a YAML key is refused, and `hint` says what to write. A row names dotted keys, perhaps with a
value, and commands (`medray …`). What is in PLANNED is not there yet; whoever builds it takes it out of there and writes
the page anew: python scripts/from_the_seeds.py.
"""

from __future__ import annotations

from dataclasses import dataclass

# Keys, sections and commands that rows name and that do not exist yet.
PLANNED = frozenset(
    {
        "data.annotate",
        "eval.output_rationale",
        "icl",
        "medray data annotate",
        "medray data pairs",
        "medray eval",
        "medray predict",
        "medray synth",
        "method.beta",
        "method.dpop_lambda",
        "method.loss",
        "method.name: dpo",
        "stages",
    }
)


@dataclass(frozen=True)
class Flag:
    """names: as written there, without dashes, or what a setting without a flag is; those have blanks.

    medray: keys and commands; none where `text` says why.
    """

    names: tuple[str, ...]
    medray: tuple[str, ...]
    text: str

    @property
    def planned(self) -> bool:
        """Whether nothing of what it became is there yet."""
        return bool(self.medray) and all(map(is_planned, self.medray))


@dataclass(frozen=True)
class Table:
    title: str
    flags: tuple[Flag, ...]


def is_planned(entry: str) -> bool:
    """Whether a key or command, or the section or command that it belongs to, is in PLANNED."""
    return entry in PLANNED or any(entry.startswith((f"{name}.", f"{name} ")) for name in PLANNED)


def key_of(entry: str) -> str | None:
    """The dotted key of an entry; None for a command."""
    return None if entry.startswith("medray ") else entry.partition(":")[0]


def hint(name: str) -> str | None:
    """What to write in place of a flag's name in a YAML; None for what is no flag. name: lower case, underscores."""
    flag = next((flag for table in TABLES for flag in table.flags if name in flag.names), None)
    if flag is None:
        return None
    there = [entry for entry in flag.medray if not is_planned(entry)]
    if not there:
        return f"not in medray yet: {' and '.join(flag.medray)}" if flag.medray else flag.text
    if any(key_of(entry) is None for entry in there):
        return f"no key: {' or '.join(there)}"
    return f"did you mean {', '.join(there[:-1])}{' or ' if there[1:] else ''}{there[-1]}?"


def _setting(name: str, medray: str, text: str) -> Flag:
    """Of what had no flag: a cell of a notebook, a constant."""
    return Flag((name,), _flag("", medray, text).medray, text)


def _flag(names: str, medray: str, text: str) -> Flag:
    return Flag(tuple(names.split()), tuple(filter(None, map(str.strip, medray.split(",")))), text)


_LIMITS = "data.max_input_tokens, data.max_label_tokens"

TABLES = (
    Table(
        "Distilling step-by-step and MeDistill: training",
        (
            _flag("dataset", "data.dataset, data.train", "a corpus by its name, or files of your own"),
            _flag(
                "subsample", "data.subsample", "keeps this share of the training rows, drawn with `run.seed`"
            ),
            _flag(
                "alpha", "method.alpha", "weight of the label; the rationale has the rest, as it was there"
            ),
            _flag(
                "weight",
                "method.label_weight",
                "multiplies the label's loss; it had no effect in one of the systems",
            ),
            _flag("max_steps", "train.max_steps", "goes before `train.epochs`"),
            _flag("train_epochs", "train.epochs", "a part of an epoch is allowed"),
            _flag(
                "eval_steps save_and_eval_steps",
                "eval.every_steps, train.save_every_steps",
                "an evaluation saves too, so the first is enough where both were one number",
            ),
            _flag(
                "batch_size",
                "train.global_batch_size, eval.batch_size",
                "rows of a step over all workers, so more GPUs do not change it; there it was a GPU's share",
            ),
            _flag("batch_size_train", "train.micro_batch_size", "rows that a worker holds at once"),
            _flag("batch_size_eval", "eval.batch_size", "rows that a worker evaluates at once"),
            _flag("grad_steps", "train.gradient_accumulation_steps", "follows from the batch unless given"),
            _flag("optimizer_name", "train.optimizer.name", "AdamW in full, 8-bit or paged form"),
            _flag("lr", "train.optimizer.lr", "logged as the optimizer used it"),
            _flag("run seed", "run.seed", "data order, subsample, new weights, dropout"),
            _flag("from_pretrained", "model.name", "a hub id or a folder"),
            _flag(
                "label_type", "method.label_source", "`gt` or `llm`: training labels only, validation is gold"
            ),
            _flag("llm", "method.teacher", "whose completions a named corpus brings; may stay out"),
            _flag(
                "model_type",
                "method.mode, method.variant, peft.type",
                "`standard` and `task_prefix` are modes; `peft` is a `peft.type` beside them, `CoT` the variant "
                "`two_step`, `distill` what a causal model does in mode `task_prefix`",
            ),
            _flag(
                "peft_type", "peft.type", "`lora`, `adalora`, `ia3`, `prefix`, `prompt`, `multitask_prompt`"
            ),
            _flag("rank", "peft.rank", "of LoRA; AdaLoRA has `peft.adalora.init_rank`"),
            _flag("lora_alpha", "peft.alpha", "the update is scaled by alpha / rank"),
            _flag("lora_dropout", "peft.dropout", "had no effect there, has one here"),
            _flag(
                "max_input_length",
                _LIMITS,
                "limits of input and target apart: for a decoder too, where the flag meant both together",
            ),
            _flag("max_output_length", "eval.generation.max_new_tokens", "longest generated text"),
            _flag(
                "gen_max_len",
                "eval.generation.max_new_tokens, data.max_label_tokens, data.max_rationale_tokens",
                "one number there cut targets in training too (MeDistill); here the three are apart",
            ),
            _flag("max_new_tokens", "eval.generation.max_new_tokens", "longest generated text"),
            _flag(
                "parallelize",
                "train.zero_stage: 3",
                "shards the weights over workers; had no lasting effect there",
            ),
            _flag("local_rank", "cluster.workers", "ranks are the launcher's; you give how many workers"),
            _flag(
                "deepspeed",
                "train.zero_stage, train.offload, train.deepspeed",
                "two keys for the common cases, and raw overrides of DeepSpeed's config in place of a file",
            ),
            _flag("bf16", "train.precision: bf16", "`auto` takes it where the GPU has it"),
            _flag("no_log", "tracking.enabled: false", "no MLflow; the run's own files are written anyway"),
            _flag("output_rationale", "eval.output_rationale", "rationales beside predicted labels"),
            _flag(
                "addi_info description",
                "tracking.run_name, tracking.tags",
                "names the run where it is tracked; its folder is `run.name`",
            ),
            _flag(
                "output_dir", "run.storage", "folder or bucket of all runs; an older run is never overwritten"
            ),
            _flag("hub_model_id", "medray export --push-to", "uploads only where a flag says so"),
            _flag(
                "cos_sim",
                "method.variant: cosine",
                "over all rows of a batch and without padding, unlike there",
            ),
            _flag("dynamic", "method.variant: dynamic_alpha", "alpha is a function of the epoch"),
            _flag(
                "hierarchical",
                "method.variant: hierarchical",
                "all keys of a rationale are trained; `method.rationale.max_keys: 3` takes as many as there",
            ),
            _flag(
                "with_head",
                "",
                "dropped: a head as wide as the model's states, not as its vocabulary, predicts no words",
            ),
            _flag(
                "task_type", "data.dataset", "`medqa_d2n`: dialogue to note; `medqa_n2d`: note to dialogue"
            ),
            _flag(
                "gcs_project gcs_path",
                "data.root",
                "any URL that fsspec opens; gs:// needs the package gcsfs",
            ),
        ),
    ),
    Table(
        "MeDistill: the config of its MEDIQA evaluation",
        (
            _flag("max_source_length", "data.max_input_tokens", "the end of an input is cut and counted"),
            _flag("max_target_length val_max_target_length", "data.max_label_tokens", "longest label"),
            _flag("generation_max_length", "eval.generation.max_new_tokens", "longest generated text"),
            _flag("num_beams", "eval.generation.num_beams", "1 is greedy"),
            _flag("source_prefix", "data.prompts.label", "one prompt for training, evaluation and inference"),
            _flag("label_smoothing_factor", "train.label_smoothing", "training loss only"),
            _flag("warmup_ratio", "train.scheduler.warmup_ratio", "share of all steps"),
            _flag("group_by_length", "data.length_buckets", "is the default of encoder-decoders"),
            _flag(
                "metric_for_best_model",
                "train.keep_best",
                "the checkpoint that is best by it is kept beside the newest, and exported",
            ),
            _flag("checkpoint_dir", "model.adapter", "goes on from an adapter; resuming needs no key"),
            _flag(
                "task fn_eval_data",
                "medray eval --task, medray eval --predictions",
                "scores a file of predictions",
            ),
        ),
    ),
    Table(
        "MeDistill: inference with the decoder",
        (
            _flag(
                "team_name run_id subtask",
                "medray predict --team, medray predict --run-id, medray predict --subtask",
                "name the folder of a submission",
            ),
            _flag(
                "max_input_length",
                "data.max_input_tokens",
                "counted characters there; the corpus `multiclinsum` cuts train and validation as published",
            ),
            _flag("max_tokens", "eval.generation.max_new_tokens", "longest generated text"),
            _flag("batch_size", "eval.batch_size", "rows that a worker generates for at once"),
            _flag("device", "cluster.gpus", "follows from the cluster unless given"),
            _flag("output_dir", "run.storage", "predictions of a run lie in its folder"),
            _flag(
                "bertscore_model",
                "medray eval",
                "metrics of a run are ROUGE, exact match and entity F1 so far",
            ),
        ),
    ),
    Table(
        "RAG-ICL and DFPO",
        (
            _flag(
                "all datasets",
                "medray data import",
                "`all`, or one corpus a call; a part of them crashed there",
            ),
            _flag("task", "icl.task", "entities or relations"),
            _flag("one_dataset", "icl.dataset", "one corpus instead of all"),
            _flag(
                "embedding_model_path rerank_model_path",
                "icl.embedding_model, icl.rerank_model",
                "what finds the examples, and what orders them",
            ),
            _flag("search_type", "icl.search", "how examples are chosen among those that are near"),
            _flag("k", "icl.k", "how many are looked at"),
            _flag(
                "score_threshold",
                "icl.score_threshold",
                "examples below it are left out; it had no effect there",
            ),
            _flag("modelpath", "model.name", "a hub id or a folder"),
            _flag(
                "datapreprocess",
                "",
                "not needed: shards are made when they are missing and reused when nothing has changed; "
                "`medray data prepare` makes them ahead",
            ),
            _flag("epoch", "train.epochs", "a part of an epoch is allowed"),
            _flag("batchsize", "train.micro_batch_size", "rows that a worker holds at once"),
            _flag(
                "gradient_accumulation_steps",
                "train.gradient_accumulation_steps",
                "a whole number; was read as text there and crashed",
            ),
            _flag("lr_scheduler_type", "train.scheduler.name", "`constant_with_warmup` has the same name"),
            _flag("learning_rate", "train.optimizer.lr", "logged as the optimizer used it"),
            _flag("output_dir", "run.storage", "folder or bucket of all runs"),
            _flag("beta", "method.beta", "temperature of the preference loss"),
            _flag("loss_type", "method.name: dpo, method.loss", "`dpop` is a loss of the method `dpo`"),
            _flag("dpop_lambda", "method.dpop_lambda", "weight of the penalty; it had no effect there"),
            _flag("max_length", _LIMITS, "limits of prompt and answer apart"),
            _flag("max_prompt_length", "data.max_input_tokens", "longest prompt"),
        ),
    ),
    Table(
        "What had no flag: cells of notebooks and files of settings",
        (
            _setting(
                "7B: training cells",
                "model.quantization, peft.type, train.optimizer.name",
                "model, length, LoRA and optimizer are the recipe `configs/qlora_7b.yaml`",
            ),
            _setting("7B: export cells", "medray export --format", "merged, 4-bit and GGUF files"),
            _setting(
                "7B: dataset cells",
                "medray data import --version, medray data import --subset",
                "the sixteen published sets, byte for byte, and the short one",
            ),
            _setting(
                "synthesis: part, turn, modes and paths",
                "medray synth --part",
                "the state of the work says which part and turn is next",
            ),
            _setting(
                "synthesis: menu 1, 2, 3",
                "medray synth submit, medray synth status, medray synth fetch",
                "the steps of a batch job",
            ),
            _setting(
                "MeDistill: files and split ratios",
                "data.dataset, data.split.validation, data.split.by",
                "published corpora split as published; your own rows by document or by row",
            ),
            _setting(
                "MeDistill: crop and drop columns",
                "data.dataset: multiclinsum, data.columns",
                "the published cut of characters belongs to the corpus; columns that are not named are not read",
            ),
            _setting(
                "MeDistill: teacher",
                "medray data annotate, data.annotate",
                "rationales by a teacher model; those that are published are read today",
            ),
            _setting(
                "DFPO: three trainings in a row",
                "stages, medray data pairs",
                "one file for all of them, each from the one before",
            ),
        ),
    ),
)
