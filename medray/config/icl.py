"""The config file of `medray icl`: a test set is answered with examples that are selected from a training set.

It is a file of its own, next to the config of a training run, and shares the sections run and data with it in part.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medray.config.backends import BackendConfig
from medray.config.columns import ColumnsConfig
from medray.config.data import ExtractionConfig, Sources
from medray.config.loading.load import absolute, looks_like_path
from medray.config.loading.own_file import path_near_file, read_own
from medray.config.run import RunConfig
from medray.config.schema import Config
from medray.config.section import Section, key
from medray.errors import InputError

EMBEDDER = "all-minilm-l6-v2"
ExtractionDataset = Literal[
    "bc5cdr_chemical",
    "bc5cdr_disease",
    "bc5cdr",
    "nlm_gene",
    "ncbi_disease",
    "chemdner",
    "ddi_corpus",
    "biorelex",
]
Search = Literal["similarity", "mmr", "similarity_score_threshold", "bm25"]
Strategy = Literal["random", "static", "retrieved"]
Order = Literal["best_first", "best_last"]


class IclRunConfig(RunConfig):
    """The folder of the run, and its seed."""

    name: str = key("icl", "Folder of this run inside the storage; a run with the same name continues.")
    seed: int = key(0, "Seeds random examples, held-out documents and intervals.", ge=0, lt=2**31)


class IclDataConfig(Section):
    """The training documents, from which examples are selected, and the test documents, which are answered."""

    dataset: ExtractionDataset | None = key(
        None, "Name of a published corpus, instead of `train` and `test`; its files are in `root`."
    )
    root: str | None = key(
        None, "Folder or URL that `train` and `test` are relative to; default: the folder of this file."
    )
    train: Sources = key((), "Sources of the documents with gold answers, one or a list.")
    test: Sources = key((), "Sources of the documents to answer, one or a list.")
    test_split: Literal["validation", "test"] | None = key(
        None,
        "Split of a published corpus that is answered; default: test if its files exist, else validation.",
    )
    held_out: float | None = key(
        None,
        "Share of the training documents, drawn with run.seed, that is answered if there are no test documents.",
        gt=0,
        lt=1,
    )
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    extraction: ExtractionConfig = Field(default_factory=ExtractionConfig)
    max_rejects: float = key(0.01, "Largest share of bad rows that is accepted.", ge=0, le=1)

    @model_validator(mode="after")
    def _one_kind(self) -> IclDataConfig:
        if (self.dataset is None) == (not self.train):
            raise ValueError(
                "expected either dataset or train",
                "set data.dataset: bc5cdr_chemical, or data.train: train.jsonl",
            )
        if self.dataset and self.test:
            raise ValueError(
                "a published corpus has its own test documents",
                "remove data.test, or set data.train instead of data.dataset",
            )
        if self.train and not self.test and self.held_out is None:
            raise ValueError("there are no test documents", "set data.test, or data.held_out: 0.1")
        if self.test and self.held_out is not None:
            raise ValueError("held_out has no effect if test is given", "remove data.held_out")
        return self


class ChooseConfig(Section):
    """Values that `medray icl run --choose` compares by leave-one-out on the training documents."""

    documents: int = key(20, "Training documents that are answered for each combination of values.", ge=1)
    shots: tuple[int, ...] = key((), "Numbers of examples to compare; empty: icl.shots alone.")
    order: tuple[Order, ...] = key((), "Orders to compare; empty: icl.order alone.")
    k: tuple[int, ...] = key((), "Numbers of candidates to compare; empty: icl.k alone.")


class IclConfig(Section):
    """The search for examples, and the prompts that show them."""

    strategy: Strategy = key(
        "retrieved",
        "retrieved: examples that are similar to each test document. static: the same for all, drawn once. random: drawn "
        "for each test document.",
    )
    shots: int = key(5, "Examples in a prompt; 0 asks without examples.", ge=0, le=100)
    order: Order = key("best_first", "Where the most similar example is: first, or next to the question.")
    as_turns: bool = key(
        False, "Show each example as a turn of user and assistant; false: one message of the user."
    )
    statement: str | None = key(
        None, "The task, as the first line of a prompt; default: that of the published corpus.", min_length=1
    )
    max_prompt_tokens: int | None = key(
        None,
        "Largest prompt in tokens of the model; a longer one loses its worst examples, which are counted. Default: no limit.",
        ge=16,
    )
    compare_random: bool = key(
        True,
        "Also answer with random examples of the same number and budget, to measure what retrieval adds.",
    )
    embedding_model: str = key(
        EMBEDDER, f"Encoder of the documents: {EMBEDDER} (installed package), a folder or a hub id."
    )
    query_model: str | None = key(
        None, "Encoder of the test documents, if it is another one (MedCPT); default: icl.embedding_model."
    )
    pooling: Literal["mean", "cls"] = key(
        "mean", "Vector of a text: the mean over its tokens, or its first token."
    )
    embedding_tokens: int = key(256, "Longest text in tokens; a longer one loses its end.", ge=8, le=32768)
    embedding_batch_size: int = key(32, "Texts that are embedded together.", ge=1)
    passage_prefix: str = key("", "Text before each training document, for encoders that expect one (E5).")
    query_prefix: str = key("", "Text before each test document, for encoders that expect one (BGE, E5).")
    ray_above: int = key(
        20_000,
        "Number of texts above which embedding is a Ray Data job instead of a loop in this process.",
        ge=1,
    )
    index: Literal["auto", "flat", "ivf", "hnsw"] = key(
        "auto",
        "flat: exact. ivf and hnsw: approximate and faster. auto: flat up to 1,000,000 documents, then ivf.",
    )
    index_dir: str | None = key(None, "Folder of the index; default: `index` in the folder of the run.")
    search: Search = key(
        "similarity",
        "similarity: the k most similar. mmr: similar and different from each other. similarity_score_threshold: like "
        "similarity, and above icl.score_threshold. bm25: by words alone, without an encoder.",
    )
    k: int = key(30, "Candidates of a test document before reranking.", ge=1, le=10_000)
    score_threshold: float | None = key(
        None,
        "Smallest cosine similarity of a candidate; needs search: similarity_score_threshold.",
        ge=-1,
        le=1,
    )
    mmr_weight: float = key(
        0.5, "mmr: weight of the similarity to the test document; the rest is diversity.", ge=0, le=1
    )
    mmr_fetch: int | None = key(
        None, "mmr: candidates from which k are chosen; default: twice k.", ge=1, le=100_000
    )
    rerank: Literal["none", "fusion", "cross_encoder"] | None = key(
        None,
        "Order of the candidates. fusion: reciprocal-rank fusion of cosine and BM25. Default: cross_encoder if "
        "icl.rerank_model is set, none for search: bm25, else fusion.",
    )
    rerank_model: str | None = key(None, "A cross-encoder with one output: a folder or a hub id.")
    rerank_long: Literal["truncate", "windows"] = key(
        "truncate",
        "A pair of more than 512 tokens: cut the example's end, or take the largest score of its windows.",
    )
    top_n: int = key(10, "Examples that are stored for each test document, best first.", ge=1, le=10_000)
    near_duplicates: float | None = key(
        0.8,
        "Estimated Jaccard similarity from which a training document is a near-duplicate of a test document and never its "
        "example; null: exclude only equal texts.",
        gt=0,
        le=1,
    )
    choose: ChooseConfig = Field(default_factory=ChooseConfig)

    @model_validator(mode="after")
    def _fits(self) -> IclConfig:
        if (self.search == "similarity_score_threshold") != (self.score_threshold is not None):
            raise ValueError(
                "search: similarity_score_threshold and score_threshold need each other",
                "set icl.search: similarity_score_threshold and icl.score_threshold: 0.5, or remove both",
            )
        for name in ("mmr_weight", "mmr_fetch"):
            if name in self.model_fields_set and self.search != "mmr":
                raise ValueError(f"{name} has no effect with search: {self.search}", "set icl.search: mmr")
        if self.mmr_fetch is not None and self.mmr_fetch < self.k:
            raise ValueError(
                f"mmr_fetch {self.mmr_fetch} is below k {self.k}", f"set icl.mmr_fetch: {2 * self.k}"
            )
        if self.rerank == "cross_encoder" and self.rerank_model is None:
            raise ValueError(
                "rerank: cross_encoder needs rerank_model",
                "set icl.rerank_model to a folder or hub id, or icl.rerank: fusion",
            )
        if self.rerank_model is not None and self.reranking != "cross_encoder":
            raise ValueError(
                f"rerank_model has no effect with rerank: {self.rerank}", "set icl.rerank: cross_encoder"
            )
        if self.search == "bm25" and self.reranking == "fusion":
            raise ValueError("search: bm25 has no cosine to fuse with", "set icl.rerank: none")
        if self.strategy == "retrieved" and self.shots > self.top_n:
            raise ValueError(
                f"shots {self.shots} is above top_n {self.top_n}, the number of stored examples",
                f"set icl.top_n: {self.shots}",
            )
        return self

    @property
    def reranking(self) -> Literal["none", "fusion", "cross_encoder"]:
        """Return the reranker, with its default filled in."""
        if self.rerank is not None:
            return self.rerank
        if self.rerank_model is not None:
            return "cross_encoder"
        return "none" if self.search == "bm25" else "fusion"

    @property
    def fetched(self) -> int:
        """Return the number of candidates that the search fetches."""
        return (self.mmr_fetch or 2 * self.k) if self.search == "mmr" else self.k

    @property
    def embeds(self) -> bool:
        """Return whether documents are embedded."""
        return self.search != "bm25"


class IclModelConfig(Section):
    """The model that answers."""

    name: str = key(
        "smollm2-135m-instruct", "A packaged model, a folder (also an export of medray) or a hub id."
    )
    template: str = key(
        "chat", "Template of an untuned model: chat, chatml, alpaca, plain or a Jinja file, as data.template."
    )


class AnswersConfig(Section):
    """The answers of the model."""

    documents: int | None = key(
        None, "Number of test documents that are answered, from the first; default: all.", ge=1
    )
    max_new_tokens: int = key(128, "Longest answer in tokens.", ge=1)
    num_beams: int = key(1, "Beams of beam search; 1 is greedy.", ge=1)
    batch_size: int = key(4, "Prompts that are answered together.", ge=1)


class ScoreConfig(Section):
    """The comparison of answers with the gold answers."""

    pairs: Literal["ordered", "unordered"] = key("ordered", "Relations: whether [a, b] and [b, a] differ.")
    samples: int = key(1000, "Bootstrap samples of the intervals and of the paired comparison.", ge=100)


class IclClusterConfig(Section):
    """The Ray cluster of the embedding job."""

    address: str | None = key(
        None, "Address of a running cluster; default: RAY_ADDRESS, else a private cluster on this machine."
    )


class IclFile(Section):
    """The config file of `medray icl`. Every key but the data has a default."""

    run: IclRunConfig = Field(default_factory=IclRunConfig)
    data: IclDataConfig
    model: IclModelConfig = Field(default_factory=IclModelConfig)
    backend: BackendConfig | None = key(
        None,
        "A server that answers instead of model.name, or recorded replies. The tokenizer of model.name then counts the tokens "
        "for icl.max_prompt_tokens.",
    )
    icl: IclConfig = Field(default_factory=IclConfig)
    answers: AnswersConfig = Field(default_factory=AnswersConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)
    cluster: IclClusterConfig = Field(default_factory=IclClusterConfig)

    @model_validator(mode="after")
    def _backend_fits(self) -> IclFile:
        if self.backend is None:
            return self
        if self.backend.type not in ("endpoint", "replay"):
            raise ValueError(
                f"a backend of type {self.backend.type} cannot answer here",
                "set backend.type: endpoint, or remove backend and set model.name",
            )
        if self.icl.max_prompt_tokens is not None and "name" not in self.model.model_fields_set:
            raise ValueError(
                "icl.max_prompt_tokens needs a tokenizer that counts the tokens of this server's model",
                "set model.name to a folder or hub id with the tokenizer, or remove icl.max_prompt_tokens",
            )
        for name in ("num_beams", "batch_size"):
            if name in self.answers.model_fields_set:
                raise ValueError(
                    f"answers.{name} has no effect with a backend",
                    f"remove answers.{name}; backend.limits.concurrency is the number of requests at once",
                )
        return self

    def as_config(self) -> Config:
        """Return the data and the model as the config of a run, whose `validation` is the test documents."""
        data = self.data
        sources = {
            "train": data.train,
            "validation": data.test,
            "dataset": data.dataset,
            "root": data.root,
            "columns": data.columns,
            "extraction": data.extraction,
            "template": self.model.template,
        }
        base = Config()
        return base.model_copy(
            update={
                "run": RunConfig(**self.run.model_dump()),
                "data": base.data.model_copy(update=sources),
                "model": base.model.model_copy(update={"name": self.model.name}),
            }
        )


def read_icl(path: str | Path, overrides: Iterable[str] = ()) -> IclFile:
    """Return the file at `path` with `a.b=c` overrides and absolute paths.

    Relative paths belong to the folder of the file. Raises InputError as `medray.config.read` does.
    """
    file = read_own(IclFile, path, overrides)
    whole = absolute(file.as_config(), Path(path))
    folder = Path(path).resolve().parent

    def placed(name: str | None) -> str | None:
        if name is None or not (looks_like_path(name) or os.path.isdir(folder / name)):
            return name
        return str((folder / Path(name).expanduser()).resolve())

    icl = file.icl.model_copy(
        update={
            "embedding_model": placed(file.icl.embedding_model),
            "query_model": placed(file.icl.query_model),
            "rerank_model": placed(file.icl.rerank_model),
            "index_dir": None
            if file.icl.index_dir is None
            else str((folder / Path(file.icl.index_dir).expanduser()).resolve()),
        }
    )
    backend = file.backend
    if backend is not None and backend.file is not None:
        backend = backend.model_copy(update={"file": path_near_file(backend.file, path, "backend.file")})
    if "://" in whole.run.storage:
        raise InputError(
            "the folder of retrieved examples must be on this machine: an index is memory-mapped",
            file=path,
            key="run.storage",
            value=whole.run.storage,
            fix="use a local folder",
        )
    data = file.data.model_copy(
        update={"root": whole.data.root, "train": whole.data.train, "test": whole.data.validation}
    )
    model = file.model.model_copy(update={"name": whole.model.name, "template": whole.data.template})
    run = file.run.model_copy(update={"storage": whole.run.storage})
    return file.model_copy(update={"run": run, "data": data, "model": model, "icl": icl, "backend": backend})
