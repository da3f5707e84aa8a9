"""The token shards of one split as other packages use them: their folder, their content, and the batch plan over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medray import storage
from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.batching.batch_plan import BatchPlan, Corpus, PlanSpec
from medray.data.encode.encoder import EncodeSpec
from medray.data.encode.templates import Template
from medray.data.index.membership import SplitIndex
from medray.data.shards.shard_file import ShardStore
from medray.data.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSet:
    """The token shards of one split: their folder, index and tokenizer.

    Two token sets with the same folder are equal.

    weights: share of each corpus if corpora are mixed by weight.
    """

    folder: str
    tokenizer: str
    spec: EncodeSpec = field(compare=False)
    index: SplitIndex = field(compare=False)
    weights: tuple[float, ...] = ()

    def load_tokenizer(self) -> Any:
        """Load the tokenizer that encoded the rows. For a causal model, it gets the template that rendered them."""
        loaded = load_tokenizer(self.tokenizer)
        if self.spec.architecture == "causal":
            source = Template(loaded, self.spec.template, self.spec.architecture).source
            loaded.chat_template = source or loaded.chat_template
        return loaded

    def rows(self) -> list[tuple[int, int]]:
        """Return (shard, row) of every row of the split, in the order of its sources."""
        return [(shard.index, row) for shard in self.index.shards for row in range(shard.rows)]

    def store(self, keep: int = 16, patience_seconds: float = 900) -> ShardStore:
        return ShardStore(storage.at(self.folder), keep, patience_seconds)

    def corpora(self) -> Sequence[Corpus]:
        """Return the shards of each corpus. If corpora are not mixed by weight, all shards count as one corpus."""
        if not self.weights:
            shards = self.index.shards
            return [Corpus(tuple(s.index for s in shards), tuple(s.rows for s in shards))]
        found = []
        for number, weight in enumerate(self.weights):
            shards = tuple(s for s in self.index.shards if self.index.corpora[s.source] == number)
            found.append(Corpus(tuple(s.index for s in shards), tuple(s.rows for s in shards), weight))
        return found

    def plan(self, config: Config, store: ShardStore | None = None) -> BatchPlan:
        """Return the batch plan of `config` over these shards.

        store: provides the lengths of rows, if the plan needs them.
        """
        data, train = config.data, config.train
        lengths, tasks = store or self.store(), spec_of(config.method).task_names
        buckets = self.spec.architecture == "seq2seq" if data.length_buckets is None else data.length_buckets
        spec = PlanSpec(
            corpora=tuple(self.corpora()),
            seed=config.run.seed,
            window_shards=data.window_shards,
            global_batch_size=None if train.global_batch_tokens else train.global_batch_size,
            global_batch_tokens=train.global_batch_tokens,
            pack_tokens=data.pack_tokens,
            length_buckets=buckets and data.pack_tokens is None,
        )
        return BatchPlan(
            spec,
            lambda shard: lengths.sizes(shard, tasks),
            storage.at(self.folder) / "plans",
            (lambda shard: lengths.source_sizes(shard, tasks[0]))
            if self.spec.architecture == "seq2seq"
            else None,
        )
