"""Rules of generation: which tokens end an answer, and which settings an evaluation uses.

All code that generates text or writes an export uses these rules, so that evaluations during and after training and
the exported model stop at the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from medray.data.encode.frames import answer_end
from medray.data.encode.render import EncodeSpec
from medray.data.encode.text_ids import TextIds
from medray.errors import InputError
from medray.models.forward import unwrap

# Settings that say how the architecture begins, pads and ends a text. All others choose a way of writing.
_PROTOCOL = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
_NO_CHOICE = (
    *_PROTOCOL,
    "eos_token_id",
    "pad_token_id",
    "use_cache",
    "transformers_version",
    "cache_implementation",
)
# The settings that `base_settings` uses: penalties, minimum lengths, suppressed and forced tokens. `eval.generation` sets
# sampling, beams and maximum lengths; any other setting needs a tokenizer, a second model, or a different decoding method.
_TAKEN = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "forced_eos_token_id",
    "length_penalty",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "remove_invalid_values",
    "renormalize_logits",
    "repetition_penalty",
    "sequence_bias",
    "suppress_tokens",
)


def end_tokens(model: Any, tokenizer: Any, spec: EncodeSpec) -> tuple[int, ...]:
    """Return the ids that end an answer, each once.

    They are, in this order: the tokenizer's end token, the token at the end of an answer in the
    template of `spec`, and the end tokens in the model's generation_config and config. An id of the model is skipped if
    the tokenizer uses it for ordinary text or for unknown text: a config without an end token has the default of its
    class, such as 2, which may be a word. model: may be inside a DeepSpeed engine and a peft wrapper.
    """
    inner = unwrap(model)
    known = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - {tokenizer.unk_token_id}
    found = [int(tokenizer.eos_token_id)]
    if spec.architecture == "causal" and (end := answer_end(tokenizer, spec.template)) is not None:
        found.append(end)
    text_config = inner.config.get_text_config(decoder=True)
    for source in (inner.generation_config, inner.config, text_config):
        found += [number for number in _ids(getattr(source, "eos_token_id", None)) if number in known]
    return tuple(dict.fromkeys(found))


def keep_protocol(model: Any, tokenizer: Any, spec: EncodeSpec) -> None:
    """Write to the model's generation_config how answers begin and end, for generation and the export.

    These are the ids of `end_tokens` and, for an encoder-decoder, the tokens that its decoder starts with. Raises
    InputError if the decoder of an encoder-decoder has no start token.
    """
    inner = unwrap(model)
    ends = end_tokens(model, tokenizer, spec)
    inner.generation_config.eos_token_id = list(ends) if len(ends) > 1 else ends[0]
    if spec.architecture != "seq2seq":
        return
    before, after = TextIds(tokenizer).around(target=True)
    # Targets of mBART end with their language token, which the decoder starts from; other targets end with the end token.
    if len(after) > 1 and after[-1] not in ends:
        inner.config.decoder_start_token_id = after[-1]
    if inner.config.decoder_start_token_id is None:
        raise InputError(
            "the model's config.json has no decoder_start_token_id, so its decoder has no token to start from",
            key="model.name",
            value=str(tokenizer.name_or_path),
            fix="set decoder_start_token_id in the model's config.json, or use another model",
        )
    inner.generation_config.decoder_start_token_id = inner.config.decoder_start_token_id
    inner.generation_config.forced_bos_token_id = before[0] if before else None


def evaluation_settings(
    model: Any, tokenizer: Any, *, max_new_tokens: int, num_beams: int, base_settings: bool = False
) -> Any:
    """Return the GenerationConfig of an evaluation: greedy or with beams, never sampled.

    It includes the settings of the model's generation_config that belong to the architecture
    (`decoder_start_token_id`, `forced_bos_token_id` and similar ones) and the end tokens. base_settings: whether it
    also includes the settings that change the text, such as penalties (see `_TAKEN`).
    """
    from transformers import GenerationConfig

    base = unwrap(model).generation_config
    values = {name: getattr(base, name, None) for name in _PROTOCOL}
    if base_settings:
        values |= {name: value for name, value in unused_settings(model).items() if name in _TAKEN}
    ends = dict.fromkeys((int(tokenizer.eos_token_id), *_ids(base.eos_token_id)))
    return GenerationConfig(
        **{name: value for name, value in values.items() if value is not None},
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=num_beams,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=list(ends),
    )


def stated_settings(settings: Any) -> dict[str, Any]:
    """Return the arguments of GenerationConfig that reproduce settings returned by `evaluation_settings`."""
    stated = {"do_sample": settings.do_sample, "num_beams": settings.num_beams}
    chosen = {
        name: value
        for name, value in settings.to_diff_dict().items()
        if value is not None and name != "transformers_version" and not name.startswith("_")
    }
    return dict(sorted((chosen | stated).items()))


def unused_settings(model: Any) -> dict[str, Any]:
    """Return the settings of the model's generation_config that change its text compared with plain greedy decoding.

    An evaluation ignores them, unless `base_settings` is set.
    """
    base = unwrap(model).generation_config
    defaults = base._get_default_generation_params()
    return {
        name: value
        for name, value in sorted(base.to_dict().items())
        if value is not None
        and name not in _NO_CHOICE
        and not name.startswith(("_", "output_", "return_"))
        and value != defaults.get(name)
        and value not in ([], {}, False)
    }


def unused_note(model: Any, *, base_settings: bool) -> str | None:
    """Return a sentence about the settings of the base model that evaluations ignore; None if there are none."""
    unused = unused_settings(model)
    if base_settings:
        unused = {name: value for name, value in unused.items() if name not in _TAKEN}
    if not unused:
        return None
    listed = ", ".join(f"{name}: {_short(value)}" for name, value in unused.items())
    taken = [name for name in unused if name in _TAKEN]
    advice = f". Set eval.generation.base_settings: true to use {', '.join(taken)}" if taken else ""
    return f"evaluations ignore these settings in the base model's generation_config: {listed}{advice}"


@contextmanager
def generating_with(model: Any, settings: Any) -> Iterator[None]:
    """Replace the model's generation_config by `settings` inside the block. transformers would mix both otherwise."""
    inner = unwrap(model)
    own = inner.generation_config
    inner.generation_config = settings
    try:
        yield
    finally:
        inner.generation_config = own


def before_end(ids: Tensor, ends: Sequence[int], pad_id: int) -> Tensor:
    """Cut generated ids [batch, tokens] at the end of the answer.

    In each row, `pad_id` replaces the first end token and all tokens after it.
    """
    ended = torch.isin(ids, torch.tensor(list(ends), device=ids.device)).cumsum(dim=1) > 0
    return ids.masked_fill(ended, pad_id)


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(number) for number in (value if isinstance(value, list | tuple) else [value])]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
