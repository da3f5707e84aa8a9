r"""Prompts of the published instruct sets, byte for byte, with the mistakes that models were trained on.

Before and after a line end the texts have a backslash and an n, not a line end; llama's marks are square brackets,
which no tokenizer knows as control tokens; gemma's ends with a second `model`.
"""

from __future__ import annotations

_TEMPLATES = {
    "mistral": ("<s>[INST] ", " This is the question: ", r" [/INST] \n ", "</s>"),
    "llama": ("[s][INST] ", " This is the question: ", r" [/INST] \n ", "[/s]"),
    "llama3": (
        "<|start_header_id|>system<|end_header_id|> ",
        "<|eot_id|><|start_header_id|>user<|end_header_id|> This is the question: ",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|> ",
        "<|eot_id|>",
    ),
    "gemma": (
        "<start_of_turn>user ",
        " This is the question: ",
        r"<end_of_turn> \n <start_of_turn>model ",
        "<end_of_turn>model",
    ),
}
_TEMPLATES["llama2"] = _TEMPLATES["llama"]
FAMILIES = tuple(_TEMPLATES)


def render(family: str, instruction: str, input: str, output: str) -> str:
    """The `prompt` column of a published set. family: gemma, llama (also called llama2), llama3 or mistral."""
    before, between, answer, end = _TEMPLATES[family]
    return f"{before}{instruction}{between}{input}{answer}{output}{end}"
