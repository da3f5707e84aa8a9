"""Rows per second of `medray predict` next to a plain loop of transformers, and the memory of its driver.

    .venv/bin/python benchmarks/predict.py pairs [ROWS] [TOKENS] [MODEL]
    .venv/bin/python benchmarks/predict.py memory [ROWS]

pairs: three interleaved pairs on the same cores. Each side loads the model, then answers ROWS rows in batches of 16 with
greedy decoding; the loop sorts all rows by length first. Starts are left out: the loop's clock begins after loading, and
medray's rate is that of its parts after the first one, by the times at which their files appear. memory: ROWS rows
(100,000) on a model of about 1 M parameters with 4 new tokens; prints the growth of the driver's resident memory after
its first part.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

BATCH = 16
WORDS = [f"word{number}" for number in range(17)]
PARAMETERS: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}


def write_rows(file: Path, count: int, longest: int) -> None:
    """Write rows with inputs of 5 to `longest` words."""
    with file.open("w") as stream:
        for number in range(count):
            rng = random.Random(number)
            text = " ".join(rng.choices(WORDS, k=rng.randint(5, longest)))
            stream.write(json.dumps({"id": f"row-{number}", "input": text}) + "\n")


def small_model(folder: Path) -> Path:
    """Write a random Llama of about 1 M parameters with a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from medray.data.tokenizer import load_tokenizer, train_tokenizer

    train_tokenizer([" ".join(WORDS)] * 3, 400, folder / "model")
    tokenizer = load_tokenizer(str(folder / "model"))
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=4, **PARAMETERS)
    model: Any = LlamaForCausalLM(config)
    print(f"{sum(one.numel() for one in model.parameters()):,} parameters")
    model.save_pretrained(folder / "model")
    return folder / "model"


def config_file(folder: Path, tokens: int) -> Path:
    file = folder / "predict.yaml"
    file.write_text(f"eval: {{batch_size: {BATCH}, generation: {{max_new_tokens: {tokens}}}}}\n")
    return file


def by_loop(model_name: str, rows: str, tokens: int) -> dict[str, float]:
    """Answer the rows in batches sorted by length, with the same prompts, and return seconds without loading."""
    import torch
    from transformers import GenerationConfig

    from medray.config import Config
    from medray.data.batching.collate import prompts
    from medray.data.prompt_rows import prompt_record
    from medray.evaluate.asking import Answerer, asked_model

    config = Config()
    answerer = Answerer(asked_model(model_name, config))
    model, tokenizer = answerer.model, answerer.tokenizer
    records = [
        prompt_record(json.loads(line), config.data.columns, source="", number=0)[0]
        for line in Path(rows).read_text().splitlines()
    ]
    settings = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    begun = time.monotonic()
    ids = sorted(answerer.prompts(records).ids, key=lambda prompt: -len(prompt))
    for start in range(0, len(ids), BATCH):
        batch = prompts(ids[start : start + BATCH], "causal", tokenizer.pad_token_id)
        with torch.no_grad():
            out = model.generate(
                input_ids=torch.from_numpy(batch.input_ids),
                attention_mask=torch.from_numpy(batch.attention_mask),
                generation_config=settings,
            )
        tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return {"rows": len(ids), "seconds": time.monotonic() - begun}


def by_medray(model_name: str, rows: str, tokens: int, out: Path) -> dict[str, float]:
    """Run `medray predict` and return the rows and seconds of the parts after the first, and the driver's memory."""
    command = [sys.executable, "-m", "medray", "predict", model_name, rows, "--to", str(out)]
    command += ["--config", str(config_file(out.parent, tokens))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    sizes: list[int] = []
    times: dict[str, float] = {}
    watched = threading.Thread(target=_watch, args=(process.pid, out / "parts", sizes, times))
    watched.start()
    _, said = process.communicate()
    watched.join()
    if process.returncode:
        raise SystemExit(said)
    manifest = json.loads((out / "manifest.json").read_text())
    counts = {f"part-{number:06d}.jsonl": part[-1] for number, part in enumerate(manifest["parts"])}
    ordered = sorted(times, key=lambda name: times[name])
    if len(ordered) < 4:
        raise SystemExit(f"only {len(ordered)} parts were timed: use more rows")
    timed = sum(counts[name] for name in ordered[1:])
    seconds = times[ordered[-1]] - times[ordered[0]] if len(ordered) > 1 else 0.0
    return {
        "rows": timed,
        "seconds": seconds,
        "first_bytes": sizes[0] if sizes else 0,
        "most_bytes": max(sizes, default=0),
    }


def _watch(driver: int, parts: Path, sizes: list[int], times: dict[str, float]) -> None:
    """Record when part files appear, and the driver's memory from the first part on, until the driver ends."""
    process = psutil.Process(driver)
    while True:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            resident = process.memory_info().rss
        except psutil.Error:
            return
        found = [entry.name for entry in os.scandir(parts)] if parts.is_dir() else []
        for name in found:
            if name.startswith("part-") and name not in times:
                try:
                    times[name] = (parts / name).stat().st_mtime
                except FileNotFoundError:  # the parts have been merged
                    return
        if times:
            sizes.append(resident)
        time.sleep(0.05)


def pairs(rows: int, tokens: int, model_name: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "rows.jsonl"
        write_rows(file, rows, 120)
        shares = []
        for turn in range(3):
            script = [sys.executable, __file__, "loop", model_name, str(file), str(tokens)]
            theirs = json.loads(subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout)
            ours = by_medray(model_name, str(file), tokens, folder / f"out-{turn}")
            rates = [side["rows"] / side["seconds"] for side in (ours, theirs)]
            shares.append(rates[0] / rates[1])
            print(
                f"medray {rates[0]:.2f} rows/s, the loop {rates[1]:.2f} rows/s, share {shares[-1]:.3f}",
                flush=True,
            )
        print(
            f"median share {statistics.median(shares):.3f} ({rows} rows, {tokens} new tokens, {model_name})"
        )


def memory(rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "rows.jsonl"
        write_rows(file, rows, 20)
        found = by_medray(str(small_model(folder)), str(file), 4, folder / "out")
        grown = (found["most_bytes"] - found["first_bytes"]) / 1e6
        print(
            f"{rows:,} rows: the driver had {found['first_bytes'] / 1e6:.0f} MB after the first part and at most "
            f"{found['most_bytes'] / 1e6:.0f} MB later, {grown:.0f} MB more; {found['rows'] / found['seconds']:.0f} rows/s"
        )


def main() -> None:
    mode, *rest = sys.argv[1:]
    if mode == "loop":
        print(json.dumps(by_loop(rest[0], rest[1], int(rest[2]))))
        return
    if mode == "pairs":
        pairs(
            int(rest[0]) if rest else 1024,
            int(rest[1]) if len(rest) > 1 else 64,
            rest[2] if len(rest) > 2 else "smollm2-135m-instruct",
        )
    else:
        memory(int(rest[0]) if rest else 100_000)
    packages = ("medray", "ray", "torch", "transformers")
    print(
        f"{platform.platform()}, {psutil.cpu_count()} cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    )


if __name__ == "__main__":
    main()
