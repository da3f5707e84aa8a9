"""The work of one task of the data pipeline: read, encode and write the rows of one shard."""

from __future__ import annotations

import pickle
from contextlib import closing
from dataclasses import replace

from medray import storage
from medray.data.encode.encoder import Encoder, EncodeSpec
from medray.data.encode.render import reference
from medray.data.index.membership import ShardSpec
from medray.data.index.row_index import records
from medray.data.index.sources import Source
from medray.data.records import BadRowError, Distill, Record
from medray.data.shards.shard_file import write_shard
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.errors import RunFailedError


def shard_records(source: Source, shard: ShardSpec) -> list[Record]:
    """Read the records of a shard and give them unique ids.

    Raises RunFailedError if the source has changed since the index.
    """
    mask, renamed = shard.mask(), dict(shard.renamed)
    kept: list[Record] = []
    with closing(records(source, shard.position, None, shard.first)) as rows:
        for number, (_, _, _, record) in zip(range(shard.raw_rows), rows, strict=False):
            if mask[number] and not isinstance(record, BadRowError):
                kept.append(_renamed(record, renamed[number]) if number in renamed else record)
    if len(kept) != shard.rows:
        raise RunFailedError(
            f"{source.name} changed after it was indexed: shard {shard.index} now has {len(kept)} rows instead of "
            f"{shard.rows}. Fix: run the same command again while nothing writes to this source"
        )
    return kept


def encode_shard(
    token_set: TokenSet, shard: ShardSpec, source: Source, *, truth: bool, tokenizer: bytes | None = None
) -> None:
    """Read, encode and write one shard.

    truth: whether reference answers are written too. tokenizer: a pickled tokenizer; None: load it here.
    """
    encoder = encoder_of(token_set.tokenizer, token_set.spec, tokenizer)
    found = shard_records(source, shard)
    write_shard(
        storage.at(token_set.folder),
        shard.index,
        [record.origin.id for record in found],
        encoder.encode(found),
        token_set.spec.architecture,
        truth=[
            (reference(record, token_set.spec), record.entities if isinstance(record, Distill) else None)
            for record in found
        ]
        if truth
        else None,
    )


def _renamed(record: Record, ordinal: int) -> Record:
    """Return a record with a new id, for a repeated id: plans and predictions identify rows by their ids."""
    return replace(record, origin=replace(record.origin, id=f"{record.origin.id}#{ordinal + 1}"))


_ENCODERS: dict[str, Encoder] = {}


def encoder_of(tokenizer: str, spec: EncodeSpec, pickled: bytes | None = None) -> Encoder:
    """Return the encoder of this process, which is kept: creating one costs more than reading a shard.

    tokenizer: as in a token set. pickled: the same tokenizer, which then is not loaded.
    """
    key = f"{tokenizer} {spec}"
    if key not in _ENCODERS:
        loaded = pickle.loads(pickled) if pickled else load_tokenizer(tokenizer)
        _ENCODERS[key] = Encoder(loaded, spec)
    return _ENCODERS[key]
