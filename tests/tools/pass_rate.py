#!/usr/bin/env python3
"""Pass rate of the demo model: answers its prompts offline and executes the code that it writes.

    tests/tools/pass_rate.py [--bin DIR] [--ranks N] [--prompts N] [--table] [--job FIELD=VALUE …] [-- engine options]

An answer is right when the first function that it defines returns the expected value for every argument
(deploy/models/tinycoder/README.md). Prints one line of figures (passes, rows and tokens are means over the
prompts; tokens/s: of the engine's whole run, loading included), or with --table one for every setting that the
default was chosen from. The engine's own summary goes to stderr.
"""

import argparse
import json
import math
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "deploy" / "models" / "tinycoder"


def check(text, tests):
    """In a process of its own, with limits: what a model wrote is a stranger's code."""
    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
    signal.alarm(10)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    names = {}
    exec(text, names)
    function = next(v for k, v in names.items() if k != "__builtins__" and callable(v))
    return all(function(argument) == expected for argument, expected in tests)


def is_right(text, tests):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if check(text, tests) else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def interval(right, total):
    """95 % Wilson interval, in percent."""
    z, p = 1.96, right / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return 100 * (middle - half), 100 * (middle + half)


def answer(arguments, prompts, fields):
    """The results of one run of the engine over all prompts, by id, and its wall-clock seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs, out = pathlib.Path(scratch, "jobs.jsonl"), pathlib.Path(scratch, "out.jsonl")
        with jobs.open("w", encoding="utf-8") as f:
            for p in prompts:
                job = {"id": p["id"], "messages": [{"role": "user", "content": p["prompt"]}], **fields}
                f.write(json.dumps(job) + "\n")
        start = time.monotonic()
        subprocess.run([arguments.bin + "/caloris-engine", "--comm", "threads", "--ranks", arguments.ranks, "--model",
                        str(MODEL), "--jobs", str(jobs), "--out", str(out), *arguments.engine], check=True,
                       stderr=subprocess.DEVNULL if arguments.table else None)
        seconds = time.monotonic() - start
        results = {r["id"]: r for r in map(json.loads, out.open(encoding="utf-8"))}
    for p in prompts:
        if "error" in results[p["id"]]:
            sys.exit(f"{p['id']}: {results[p['id']]['error']}")
    return results, seconds


VERDICTS = {}


def judge(prompts, results):
    """Which answers are right: settings that answer alike are executed once."""
    for p in prompts:
        key = p["id"], results[p["id"]]["text"]
        if key not in VERDICTS:
            VERDICTS[key] = is_right(key[1], p["tests"])
    return [VERDICTS[p["id"], results[p["id"]]["text"]] for p in prompts]


def sums(prompts, results):
    total = {"passes": 0, "rows": 0, "tokens": 0}
    for p in prompts:
        result = results[p["id"]]
        total["passes"] += result["forward_passes"]
        total["rows"] += result["rows"]
        total["tokens"] += result["usage"]["completion_tokens"]
    return total


CACHES = ("none", "prefix", "dual", "active")
BLOCKS = (8, 16, 32, 96)
COMMITS = (
    ("threshold 0.9", {"commit": "threshold", "threshold": 0.9}),
    ("factor 1", {"commit": "factor", "factor": 1}),
    ("entropy_bounded 0.1", {"commit": "entropy_bounded", "gamma": 0.1}),
    ("quota, 96 steps", {"commit": "quota", "steps": 96}),
)


def print_table(arguments, prompts, fields):
    """One line for each cell, as soon as it is known; the quota, which takes longest, last."""
    print("| commit | cache | block | right, % | 95 % interval | passes | rows | tokens a pass | tokens/s |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    n = len(prompts)
    for name, commit in COMMITS:
        for cache in CACHES:
            for block in BLOCKS:
                if not re.search(arguments.only, f"{name} {cache} {block}"):
                    continue
                setting = {**fields, **commit, "cache": cache, "block_length": block}
                results, seconds = answer(arguments, prompts, setting)
                right = sum(judge(prompts, results))
                low, high = interval(right, n)
                total = sums(prompts, results)
                print(f"| {name} | {cache} | {block} | {100 * right / n:.1f} | {low:.1f}-{high:.1f} | "
                      f"{total['passes'] / n:.2f} | {total['rows'] / n:.0f} | "
                      f"{total['tokens'] / total['passes']:.2f} | {total['tokens'] / seconds:.0f} |", flush=True)


def print_line(arguments, prompts, fields):
    results, _ = answer(arguments, prompts, fields)
    verdicts = judge(prompts, results)
    total, n, right = sums(prompts, results), len(prompts), sum(verdicts)
    unseen = [ok for p, ok in zip(prompts, verdicts) if p["unseen_combination"]]
    low, high = interval(right, n)
    print(f"{right} of {n} right ({100 * right / n:.1f} %, 95 % interval {low:.1f}-{high:.1f}); "
          f"unseen combinations {100 * sum(unseen) / max(len(unseen), 1):.1f} %; "
          f"{total['passes'] / n:.2f} forward passes, {total['rows'] / n:.0f} rows, {total['tokens'] / n:.2f} tokens, "
          f"{total['tokens'] / total['passes']:.3f} tokens per pass")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=str(ROOT / "build" / "bin"), help="folder of caloris-engine")
    parser.add_argument("--ranks", default="2")
    parser.add_argument("--prompts", type=int, default=0, help="the first so many only")
    parser.add_argument("--job", action="append", default=[], metavar="FIELD=VALUE", help="a field of every job")
    parser.add_argument("--table", action="store_true", help="every cache, commit and block length instead of one run")
    parser.add_argument("--only", default="", metavar="PATTERN",
                        help="of the table the cells whose 'commit cache block' it is found in, a regular expression")
    parser.add_argument("engine", nargs="*", help="options for caloris-engine")
    arguments = parser.parse_args()

    fields = {"gen_length": 96}
    for setting in arguments.job:
        name, _, value = setting.partition("=")
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    prompts = [json.loads(line) for line in (MODEL / "prompts.jsonl").open(encoding="utf-8")]
    prompts = prompts[: arguments.prompts or None]

    (print_table if arguments.table else print_line)(arguments, prompts, fields)


if __name__ == "__main__":
    main()
