#!/usr/bin/env python3
"""Pass rate of the demo model: answers its prompts offline and executes the code that it writes.

    tests/tools/pass_rate.py [--bin DIR] [--ranks N] [--prompts N] [--job FIELD=VALUE …] [-- engine options]

An answer is right when the first function that it defines returns the expected value for every argument
(deploy/models/tinycoder/README.md). Prints one line of figures; the engine's own summary goes to stderr.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "deploy" / "models" / "tinycoder"

# Runs in a process of its own with limits: what a model wrote is a stranger's code.
CHECK = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
case = json.load(sys.stdin)
names = {}
exec(case["text"], names)
function = next(v for k, v in names.items() if k != "__builtins__" and callable(v))
for argument, expected in case["tests"]:
    if function(argument) != expected:
        sys.exit(1)
"""


def is_right(text, tests):
    case = json.dumps({"text": text, "tests": tests})
    try:
        return subprocess.run([sys.executable, "-I", "-c", CHECK], input=case, text=True, timeout=10,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def interval(right, total):
    """95 % Wilson interval, in percent."""
    z, p = 1.96, right / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return 100 * (middle - half), 100 * (middle + half)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=str(ROOT / "build" / "bin"), help="folder of caloris-engine")
    parser.add_argument("--ranks", default="2")
    parser.add_argument("--prompts", type=int, default=0, help="the first so many only")
    parser.add_argument("--job", action="append", default=[], metavar="FIELD=VALUE", help="a field of every job")
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

    with tempfile.TemporaryDirectory() as scratch:
        jobs, out = pathlib.Path(scratch, "jobs.jsonl"), pathlib.Path(scratch, "out.jsonl")
        with jobs.open("w", encoding="utf-8") as f:
            for p in prompts:
                job = {"id": p["id"], "messages": [{"role": "user", "content": p["prompt"]}], **fields}
                f.write(json.dumps(job) + "\n")
        subprocess.run([arguments.bin + "/caloris-engine", "--comm", "threads", "--ranks", arguments.ranks, "--model",
                        str(MODEL), "--jobs", str(jobs), "--out", str(out), *arguments.engine], check=True)
        results = {r["id"]: r for r in map(json.loads, out.open(encoding="utf-8"))}

    right = unseen_right = unseen = passes = tokens = 0
    for p in prompts:
        result = results[p["id"]]
        if "error" in result:
            sys.exit(f"{p['id']}: {result['error']}")
        ok = is_right(result["text"], p["tests"])
        right += ok
        unseen += p["unseen_combination"]
        unseen_right += ok and p["unseen_combination"]
        passes += result["forward_passes"]
        tokens += result["usage"]["completion_tokens"]
    n = len(prompts)
    low, high = interval(right, n)
    print(f"{right} of {n} right ({100 * right / n:.1f} %, 95 % interval {low:.1f}-{high:.1f}); "
          f"unseen combinations {100 * unseen_right / max(unseen, 1):.1f} %; "
          f"{passes / n:.2f} forward passes, {tokens / n:.2f} tokens, {tokens / passes:.3f} tokens per pass")


if __name__ == "__main__":
    main()
