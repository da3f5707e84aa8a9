"""The targets of encoder-decoders are those of `tokenizer(text_target=…)`, which generation starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from encoding import bpe, distill, ids_of, spec, targets_of
from torch.nn import functional as F

from medray.data.batching.collate import collate, prompts
from medray.data.encode.encoder import Encoder
from medray.data.tokenizer import load_tokenizer, wraps_texts
from medray.errors import InputError
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import generate
from medray.models.forward import loss_logits
from medray.models.generation import keep_protocol

SPEC = spec(architecture="seq2seq", tasks=("label",), prompts={"label": ""})
PIECES = [(text, -1.0) for text in ("▁", "▁a", "a", "b", "▁b", "fever", "▁fever", "▁mild")]


def bart(folder: Path) -> Any:
    """A tokenizer that puts `<s>` before every text and `</s>` behind it, as BART's does."""
    from tokenizers.processors import TemplateProcessing

    made = bpe(folder)
    made.add_special_tokens({"bos_token": "<s>"})
    first, last = made.bos_token_id, made.eos_token_id
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", first), ("</s>", last)]
    )
    made.save_pretrained(folder / "bart")
    return load_tokenizer(str(folder / "bart"))


def languages(name: str, **options: Any) -> Any:
    """A multilingual tokenizer of transformers with a small vocabulary."""
    import transformers

    special = [(text, 0.0) for text in ("<s>", "<pad>", "</s>", "<unk>")]
    codes = [(code, 0.0) for code in ("en_XX", "es_XX", "zh_CN")]
    kind = getattr(transformers, name)
    if name == "NllbTokenizer":
        return kind(**options)
    return kind(vocab=[*special, *PIECES, *codes, ("<mask>", 0.0)], **options)


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("MBartTokenizer", "zh_CN", "es_XX"),
        ("MBart50Tokenizer", "zh_CN", "es_XX"),
        ("NllbTokenizer", "zho_Hans", "spa_Latn"),
    ],
)
def test_inputs_and_targets_carry_their_language(name: str, source: str, target: str) -> None:
    made = languages(name, src_lang=source, tgt_lang=target)
    columns = Encoder(made, SPEC).encode([distill("a fever", "mild fever")])["label"]
    assert ids_of(columns) == made("a fever")["input_ids"]
    assert targets_of(columns) == made(text_target="mild fever")["input_ids"]
    assert made.convert_tokens_to_ids(target) in targets_of(columns)
    assert made.convert_tokens_to_ids(source) in ids_of(columns)


@pytest.mark.parametrize("name", ["MBartTokenizer", "MBart50Tokenizer", "NllbTokenizer"])
def test_a_tokenizer_of_several_languages_has_to_name_its_target(name: str) -> None:
    with pytest.raises(InputError, match="no target language") as caught:
        Encoder(languages(name), SPEC)
    assert "tgt_lang=" in str(caught.value.fix)


def test_a_target_is_cut_within_its_limit_and_keeps_first_and_last_token(tmp_path: Path) -> None:
    made = bart(tmp_path)
    columns = Encoder(made, spec(architecture="seq2seq", tasks=("label",), limits={"label": 5})).encode(
        [distill("knee", "knee pain rash fever"), distill("knee", "knee")]
    )["label"]
    whole = made(text_target="knee pain rash fever")["input_ids"]
    assert targets_of(columns) == [*whole[:4], made.eos_token_id]
    assert columns.cut.tolist() == [True, False]
    assert targets_of(columns, 1) == made(text_target="knee")["input_ids"]


def test_only_shards_of_tokenizers_that_wrap_texts_are_made_again(tmp_path: Path) -> None:
    """Their targets changed; those of T5 and of trained tokenizers did not."""
    bart(tmp_path)
    assert wraps_texts(str(tmp_path / "bart"))
    assert not wraps_texts(str(tiny.tokenizer(tmp_path / "trained")))
    file = tmp_path / "bart" / "tokenizer.json"
    tree = json.loads(file.read_text())
    tree["post_processor"]["single"] = tree["post_processor"]["single"][1:]  # as T5 has it
    file.write_text(json.dumps(tree))
    assert not wraps_texts(str(tmp_path / "bart"))


def test_a_model_generates_what_it_was_trained_on_from_its_first_token_on(tmp_path: Path) -> None:
    """A tiny BART that learns one row by heart; its generation forces `<s>` first, as the published ones do."""
    from transformers import BartConfig, BartForConditionalGeneration

    made = bart(tmp_path)
    columns = Encoder(made, SPEC).encode([distill("knee pain", "rash and fever since a week")])["label"]
    source, target = np.array(ids_of(columns), np.int32), np.array(targets_of(columns), np.int32)
    torch.manual_seed(0)
    model: Any = BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(made), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
            dropout=0.0, pad_token_id=made.pad_token_id, bos_token_id=made.bos_token_id,
            eos_token_id=made.eos_token_id, decoder_start_token_id=made.eos_token_id,
        )
    )  # fmt: skip
    model.generation_config.forced_bos_token_id = made.bos_token_id
    keep_protocol(model, made, SPEC)
    assert model.generation_config.forced_bos_token_id == made.bos_token_id == target[0]
    micro = collate("label", [(source, target)], "seq2seq", made.pad_token_id)
    arrays = [torch.from_numpy(array) for array in (micro.input_ids, micro.attention_mask, micro.labels)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        logits, labels = loss_logits(model, *arrays, seq2seq=True)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    asked = prompts([source], "seq2seq", made.pad_token_id)
    texts = generate(model.eval(), made, asked, Decoding(max_new_tokens=40), device=torch.device("cpu"))
    assert texts == ["rash and fever since a week"]


def test_a_decoder_starts_from_what_its_targets_follow(tmp_path: Path) -> None:
    from transformers import MBartConfig, MBartForConditionalGeneration

    small: dict[str, Any] = {
        "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 1,
        "decoder_attention_heads": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 8,
        "vocab_size": 40,
    }  # fmt: skip
    for name, start, first in (("MBartTokenizer", "es_XX", None), ("MBart50Tokenizer", "</s>", "es_XX")):
        made = languages(name, src_lang="en_XX", tgt_lang="es_XX")
        model: Any = MBartForConditionalGeneration(MBartConfig(**small, decoder_start_token_id=2))
        keep_protocol(model, made, SPEC)
        found = model.generation_config
        assert made.convert_ids_to_tokens(found.decoder_start_token_id) == start
        assert model.config.decoder_start_token_id == found.decoder_start_token_id
        assert found.forced_bos_token_id == (first and made.convert_tokens_to_ids(first))
    bare: Any = MBartForConditionalGeneration(MBartConfig(**small, decoder_start_token_id=None))
    with pytest.raises(InputError, match="decoder_start_token_id"):
        keep_protocol(bare, bart(tmp_path), SPEC)
