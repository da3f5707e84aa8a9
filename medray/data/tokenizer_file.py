"""A tokenizer that the `tokenizers` library reads from its file, without torch, for checks and inspection.

transformers imports torch, which takes seconds and 400 MB, and rebuilds many tokenizers in Python. So the tokenizer
that encoded the shards is saved next to them, in `tokens/<fingerprint>/encoding_tokenizer/`, and read from there. For
shards without it, the model's own `tokenizer.json` is used if transformers uses that file unchanged. All other
tokenizers are loaded by transformers, which is also used for encoding. A test compares both, call by call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from medray import storage
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.storage import StoragePath

KEPT = "encoding_tokenizer"  # a folder in the folder of the shards

# Classes that transformers builds from tokenizer.json unchanged. Others rebuild parts of it in Python.
AS_WRITTEN = ("TokenizersBackend", "PreTrainedTokenizerFast")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Keys of tokenizer_config.json that make transformers change the tokenizer of tokenizer.json.
CHANGING = ("add_bos_token", "add_eos_token", "auto_map", "fix_mistral_regex", "split_special_tokens")
# Model types whose tokenizers transformers loads with a different class than the files name, or repairs.
REBUILT = (
    *("arctic", "cohere", "ernie", "fuyu", "h2ovl", "hyperclovax", "internlm", "iquest", "jamba", "llava", "minicpm"),
    *("minimax", "mistral", "ministral", "mixtral", "modernbert", "molmo", "nemotron", "opencua", "openvla"),
    *("paddleocr", "phi", "pixtral", "qwen", "siglip", "smolvlm", "step", "vipllava", "voxtral", "camembert"),
)  # fmt: skip


class FileTokenizer:
    """A tokenizer with the part of transformers' interface that medray's data code uses.

    backend: a tokenizer of the `tokenizers` library. named: texts of the named special tokens. extra: other special
    tokens.
    """

    def __init__(
        self, backend: Any, named: dict[str, str], extra: Sequence[str], chat_template: str | None
    ) -> None:
        from tokenizers import AddedToken

        self.backend_tokenizer, self.special_tokens_map, self.chat_template = backend, named, chat_template
        self.all_special_tokens = list(dict.fromkeys([*named.values(), *extra]))
        backend.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in self.all_special_tokens]
        )
        self.bos_token_id = self._named_id("bos_token")
        self.eos_token_id = self._named_id("eos_token")
        self.unk_token_id = self._named_id("unk_token")
        self.pad_token_id = self._named_id("pad_token")

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        found: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return found

    def __call__(
        self, text: str = "", add_special_tokens: bool = True, *, text_target: str | None = None
    ) -> dict[str, list[int]]:
        """Tokenize an input or a target in the same way; only multilingual tokenizers treat them differently."""
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        text = text if text_target is None else text_target
        found = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": found.ids}

    def convert_tokens_to_ids(self, token: str) -> int | None:
        found: int | None = self.backend_tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found

    def convert_ids_to_tokens(self, number: int) -> str | None:
        found: str | None = self.backend_tokenizer.id_to_token(number)
        return found

    def decode(
        self,
        ids: Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Decode ids to text. Raises ValueError if a clean-up of spaces is asked for, which is not supported."""
        if clean_up_tokenization_spaces:
            raise ValueError("clean_up_tokenization_spaces is not supported")
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def batch_decode(self, rows: Sequence[Sequence[int]], **options: Any) -> list[str]:
        return [self.decode(row, **options) for row in rows]

    def apply_chat_template(
        self,
        turns: list[dict[str, str]],
        *,
        chat_template: str | None = None,
        tokenize: bool = False,
        **options: Any,
    ) -> str:
        template = chat_template or self.chat_template
        if tokenize or not template:
            raise ValueError("there is no chat template" if not template else "tokenize is not supported")
        values = {"messages": turns, "tools": None, "documents": None, **self.special_tokens_map, **options}
        text: str = _compiled(template).render(values)
        return text

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        return None if token is None else self.convert_tokens_to_ids(token)


def keep_tokenizer(tokenizer: Any, tokens: StoragePath) -> None:
    """Save a tokenizer that transformers has loaded next to the shards in `tokens`, if it can be read from a file.

    A tokenizer written in Python is not saved, nor a multilingual one, which tokenizes inputs and answers differently.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer) or hasattr(tokenizer, "src_lang"):
        return
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name in NAMED}
    extra = [token for token in tokenizer.all_special_tokens if token not in named.values()]
    template = tokenizer.chat_template
    config = {
        "tokenizer_class": AS_WRITTEN[0],
        **named,
        "extra_special_tokens": extra,
        "chat_template": template,
    }
    storage.make_private(tokens / KEPT)
    storage.write(tokens / KEPT / "tokenizer.json", backend.to_str())
    storage.write(tokens / KEPT / "tokenizer_config.json", json.dumps(config) + "\n")


def tokenizer_of(tokens: TokenSet) -> Any:
    """Return the tokenizer that encoded a split's shards. It equals that of `load_tokenizer`."""
    kept = storage.at(tokens.folder).parent / KEPT
    found = _from_files(kept) if isinstance(kept, Path) else None
    return read_tokenizer(tokens.tokenizer) if found is None else found


def read_tokenizer(folder: str) -> Any:
    """Return the tokenizer of a model folder, read without transformers if the result equals that of `load_tokenizer`."""
    found = None if storage.is_remote(folder) else _from_files(Path(folder))
    return load_tokenizer(folder) if found is None else found


def _from_files(folder: Path) -> FileTokenizer | None:
    """Return the tokenizer of a folder, or None if transformers does not use its files unchanged."""
    config, map_file = _tree(folder / "tokenizer_config.json"), folder / "special_tokens_map.json"
    model_type = str((_tree(folder / "config.json") or {}).get("model_type") or "")
    if (
        config is None
        or config.get("tokenizer_class") not in AS_WRITTEN
        or any(key in config for key in CHANGING)
        or (folder / "additional_chat_templates").exists()
        or model_type.startswith(REBUILT)
    ):
        return None
    named = {name: _text(config[name]) for name in NAMED if config.get(name) is not None}
    listed = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    template = _template(folder, config)
    known = _tree(map_file) if map_file.exists() else {}
    if (
        not isinstance(listed, list)
        or known is None
        or any(_text(token) != named.get(name) for name, token in known.items() if name in NAMED)
        or named.get("eos_token") is None
        or template is None
    ):
        return None
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library raises plain Exceptions; transformers then reports what is wrong
        return None
    if any(backend.token_to_id(token) is None for token in named.values()):
        return None  # transformers would give these a new id
    named.setdefault("pad_token", named["eos_token"])
    return FileTokenizer(backend, named, [_text(token) for token in listed], template or None)


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """Return the chat template; "" if there is none, None if there are several."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        found = config.get("chat_template") or ""
        return found if isinstance(found, str) else None


def _tree(file: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) and "content" in token else str(token)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """Compile a template in a sandbox, with the names that chat templates may use."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The Jinja tag `{% generation %}`, which marks an answer; its text is rendered normally."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)
