"""The Ray Data job: a pool of actors, each with a loaded model, that write one file per part."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray.data

from medray import storage
from medray.config.backends import BackendConfig
from medray.data.encode.render import EncodeSpec, key_words
from medray.data.records import Distill, Record, TwoStep
from medray.data.shards.pipeline import quiet_ray_data
from medray.errors import InputError, RunFailedError
from medray.evaluate.asking import AskedModel
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer
from medray.evaluate.prediction.engines import Engine, EngineName, load_engine
from medray.evaluate.prediction.layouts import without_section_header
from medray.evaluate.prediction.part_files import Counts, write_part
from medray.evaluate.prediction.rows import Part, Question, Rows

PRIVATE = 0o077  # the umask: the files contain patients' text


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictJob:
    """The settings of a prediction job.

    out: folder of the predictions. rationale: also write the rationale of each row before its label.
    strip_section_header: see `layouts.without_section_header`. workers: number of
    actors, each with `cpus` CPUs, `gpus` GPUs and `threads` compute threads. backend: the server of the engine endpoint.
    """

    asked: AskedModel
    rows: Rows
    out: str
    task: str
    decoding: Decoding
    batch_size: int
    workers: int
    cpus: float
    gpus: float
    threads: int
    engine: EngineName = "transformers"
    backend: BackendConfig | None = None
    log_probability: bool = False
    show_prompt: bool = False
    rationale: bool = False
    strip_section_header: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PartDone:
    number: int
    counts: Counts


class PartPredictor:
    """An actor of the job. The model is loaded with the first part, so that its errors are returned as values."""

    def __init__(self, job: PredictJob) -> None:
        self._job = job
        self._engine: Engine | None = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Predict one part and write its file. An InputError is returned as a value: Ray would retry it and change it."""
        os.umask(PRIVATE)
        done: dict[str, Any] = {"number": item["number"], "counts": "", "input_error": "", "failure": ""}
        try:
            part = Part(**json.loads(item["part"]))
            counts = predict_part(self._loaded(), self._job, int(item["number"]), part)
            done["counts"] = json.dumps(asdict(counts))
        except InputError as error:
            done["input_error"] = json.dumps(error.args, default=str)
        except RunFailedError as error:
            done["failure"] = str(error)
        except Exception as error:  # its message may quote a record; Ray's own log files have it
            traceback.print_exc(file=sys.stderr)
            done["failure"] = _reason(error)
        return done

    def _loaded(self) -> Engine:
        if self._engine is None:
            import torch

            torch.set_num_threads(self._job.threads)
            self._engine = load_engine(
                self._job.engine, self._job.asked, self._job.batch_size, self._job.backend
            )
        return self._engine


def predict_part(engine: Engine, job: PredictJob, number: int, part: Part) -> Counts:
    """Predict the rows of one part and write its file. Return its counts."""
    questions = job.rows.read(part, engine.prompter, job.task)
    rationales: list[str | None] = [None] * len(questions)
    if job.task == "label" and (job.rationale or job.asked.spec.appends_keys):
        questions, rationales = _reasoned(engine, job, questions)
    answers = _ask(engine, job, questions, job.task)
    lines, counts = [], Counts()
    for question, answer, rationale in zip(questions, answers, rationales, strict=True):
        text = without_section_header(answer.text) if job.strip_section_header else answer.text
        line: dict[str, Any] = {"id": question.id, "prediction": text}
        if rationale is not None:
            line["rationale"] = rationale
        if question.reference is not None:
            line["reference"] = question.reference
        if question.entities is not None:
            line["entities"] = [dict(entity) for entity in question.entities]
        line |= {"tokens": answer.tokens, "finish": answer.finish}
        if answer.log_probability is not None:
            line["log_probability"] = round(answer.log_probability, 6)
        if job.show_prompt:
            line["prompt"] = engine.prompter.text(question.ids)
        lines.append(line)
        counts += Counts(
            rows=1,
            cut=int(bool(question.cut)),
            unfinished=int(answer.finish == "length"),
            empty=int(not text),
            tokens=answer.tokens,
        )
    write_part(storage.at(job.out), number, lines, counts)
    return counts


def _ask(engine: Engine, job: PredictJob, questions: Sequence[Question], task: str) -> list[Answer]:
    """Return the answers to questions. A question without a prompt gets an empty answer."""
    asked = [n for n, question in enumerate(questions) if len(question.ids)]
    made = engine.answers(
        [questions[n] for n in asked], job.decoding, task=task, log_probability=job.log_probability
    )
    found = dict(zip(asked, made, strict=True))
    nothing = Answer(text="", tokens=0, finish="stop")
    return [found.get(n, nothing) for n in range(len(questions))]


def _reasoned(
    engine: Engine, job: PredictJob, questions: list[Question]
) -> tuple[list[Question], list[str | None]]:
    """Write the rationale of each row first, and ask for the labels with it if the method shows it to the label.

    Rows that have a rationale of their own keep it if the label's input contains it.
    """
    spec, prompter = job.asked.spec, engine.prompter
    own = [None if question.record is None else key_words(question.record, spec) for question in questions]
    records = [question.record for question in questions]
    if spec.appends_keys and any(record is None for record in records):
        return questions, [None] * len(questions)  # token shards contain the prompt with the rationale
    missing = [n for n, record in enumerate(records) if record is not None and (job.rationale or not own[n])]
    if not missing:
        return questions, [None] * len(questions)
    if "rationale" not in spec.tasks:
        raise InputError(
            f"{len(missing):,} of {len(records):,} rows have no key words ({spec.key_column}), which the label's prompt "
            "contains, and this model was not trained to write them",
            key="data.columns.rationale" if spec.key_column == "rationale" else spec.key_column,
            fix="write them with the model of the first step: medray data annotate with ask: rationale",
        )
    prompts = prompter.prompts([record for n in missing if (record := records[n]) is not None], "rationale")
    asked = [
        replace(questions[n], ids=ids if ids is not None else np.empty(0, np.int32))
        for n, ids in zip(missing, prompts.ids, strict=True)
    ]
    written: list[str | None] = [None] * len(questions)
    for n, answer in zip(missing, _ask(engine, job, asked, "rationale"), strict=True):
        written[n] = answer.text
    if not spec.appends_keys:
        return questions, written
    changed = []
    for n, question in enumerate(questions):
        record, text = question.record, written[n]
        assert isinstance(record, Distill | TwoStep)
        if text is not None:
            [ids] = prompter.prompts([_with_key_words(record, text or None, spec)], "label").ids
            question = replace(question, ids=ids)
        changed.append(question)
    return changed, written


def _with_key_words(record: Distill | TwoStep, text: str | None, spec: EncodeSpec) -> Record:
    if spec.key_column == "key_words":
        return replace(record, key_words=text)
    return replace(record, rationale=text)


def predict_parts(job: PredictJob, todo: Sequence[tuple[int, Part]]) -> Iterator[PartDone]:
    """Run the job for the parts in `todo` and yield each when its file is written, in any order.

    Raises InputError or RunFailedError of the first part that fails.
    """
    quiet_ray_data()
    if not todo:
        return
    items = [{"number": number, "part": json.dumps(asdict(part))} for number, part in todo]
    size = min(job.workers, len(items))
    done = ray.data.from_items(items, override_num_blocks=len(items)).map(
        PartPredictor,  # type: ignore[arg-type]
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        num_cpus=job.cpus,
        num_gpus=job.gpus or None,
    )
    for row in done.iter_rows():
        if row["input_error"]:
            what, file, key, value, fix = json.loads(row["input_error"])
            raise InputError(what, file=file, key=key, value=value, fix=fix)
        if row["failure"]:
            raise RunFailedError(row["failure"])
        yield PartDone(number=int(row["number"]), counts=Counts(**json.loads(row["counts"])))


def _reason(error: Exception) -> str:
    """Return what to tell the user of an unexpected error, without its text."""
    again = "finished parts are kept. Fix: run the same command again"
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU has too little memory for a batch; {again} with a smaller eval.batch_size"
    if isinstance(error, OSError):
        return f"a file could not be read or written ({storage.summary(error)}); {again}"
    return (
        f"a part could not be predicted ({type(error).__name__}); Ray's log files have the details; {again}"
    )
