"""Memory and time of one forward and backward with whole logits, and with the loss computed in chunks.

    python benchmarks/chunked_loss.py --tokens 1024 --vocabulary 128256 --hidden 256

Each way runs in a process of its own, because peak memory is a process's, one after another in turn; the median of the
turns counts. The model is a small Llama with random weights: the head and the loss are what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any


def measured(tokens: int, vocabulary: int, hidden: int, chunk: int) -> dict[str, float]:
    """Of this process: peak bytes above what the model takes, seconds and the loss. chunk 0: whole logits."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from medray.config.method import MethodConfig
    from medray.data.batching.collate import MicroBatch
    from medray.evaluate.loss_sums import loss_sums
    from medray.methods import loss_of
    from medray.methods.cross_entropy import TokenLoss
    from medray.models.load import give_back_freed_memory

    give_back_freed_memory()  # as in a run; else blocks just below glibc's threshold stay, and the peak is of its making
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    built: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        )
    )  # fmt: skip
    model = built.to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids = torch.randint(vocabulary, (4, tokens // 4)).numpy()
    micro = MicroBatch(task="label", input_ids=ids, attention_mask=ids * 0 + 1, labels=ids)
    loss = TokenLoss(chunk_tokens=chunk or None)
    before, began = peak(), time.perf_counter()
    total = (
        loss_sums(model, micro, loss_of(MethodConfig()), device, seq2seq=False, loss=loss)["label"] / tokens
    )
    total.backward()
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    seconds = time.perf_counter() - began
    return {"peak": peak() - before, "seconds": seconds, "loss": float(total.detach()), "norm": norm}


def peak() -> int:
    """Bytes: of the GPU where there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 256, 64])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measured(args.tokens, args.vocabulary, args.hidden, args.one)))
        return
    import torch
    import transformers

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPUs, {device}, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{args.tokens} tokens, vocabulary {args.vocabulary:,}, hidden {args.hidden}, {args.turns} turns\n")
    found: dict[int, list[dict[str, float]]] = {chunk: [] for chunk in args.chunks}
    for _ in range(args.turns):
        for chunk, runs in found.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--one", str(chunk)]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    print("| chunk | peak above the model, MB | seconds | loss | gradient norm |\n|---|---|---|---|---|")
    for chunk, runs in found.items():
        mid = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(
            f"| {chunk or 'whole'} | {mid['peak'] / 1e6:,.0f} | {mid['seconds']:.2f} | {mid['loss']:.6f} | "
            f"{mid['norm']:.6f} |"
        )


if __name__ == "__main__":
    main()
