"""The rows that are dropped for their length: those with at least `data.drop_longer_than` tokens before anything is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from medray.data.encode.encoder import Encoder, EncodeSpec
from medray.data.records import Record
from medray.data.shards.shard_task import encoder_of

_NO_LIMIT = 2**40  # tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class LongRows:
    """A test of records for their length. limit: in tokens. tokenizer: as in a token set. spec: of the whole rows.

    Tasks of Ray get this value and load the tokenizer themselves, once per process.
    """

    limit: int
    tokenizer: str
    spec: EncodeSpec

    @classmethod
    def of(cls, limit: int, tokenizer: str, spec: EncodeSpec) -> LongRows:
        """Return the test for rows that are encoded with `spec`, whose limits are lifted: a cut row is a long one."""
        lifted: dict[str, Any] = {
            each.name: _NO_LIMIT for each in fields(spec) if each.name.startswith("max_")
        }
        whole = replace(spec, limits=dict.fromkeys(spec.limits, _NO_LIMIT), **lifted)
        return cls(limit=limit, tokenizer=tokenizer, spec=whole)

    def among(self, records: Sequence[Record]) -> np.ndarray:
        """Return which records are too long, bool [records]."""
        return longest(encoder_of(self.tokenizer, self.spec), records) >= self.limit


def longest(encoder: Encoder, records: Sequence[Record]) -> np.ndarray:
    """Return the tokens of each record's longest task, prompt and answer together, int64 [records]."""
    found = np.zeros(len(records), np.int64)
    for columns in encoder.encode(records).values():
        length = np.diff(columns.input_ends, prepend=0)
        if encoder.spec.architecture == "seq2seq":  # a causal row contains its answer
            length = length + np.diff(columns.target_ends, prepend=0)
        found = np.maximum(found, length)
    return found
