"""Two versions of the project, turn by turn: the whole default run, timed, and what it measures.

    python tests/bench_runs.py --old FOLDER --runs 3 --out data/results/default_run.json

FOLDER: another clone, for example `git worktree add ../old COMMIT`. The runs of both have seeds 0,
1, 2 and so on; what was finished is kept in --place, and the same command goes on. Compiled blocks
are kept in a folder of their own, so that the first run pays for them. Nothing else should run.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lgm_nb.base.errors import UserError, exit_status
from lgm_nb.base.files import load_json, save_json
from lgm_nb.training.runs import environment

PROJECT = Path(__file__).resolve().parents[1]
KEPT = ("psnr", "rfd", "frechet", "rfd_detail", "frechet_detail", "recognised")


def commit_of(folder):
    "The commit that a clone is at, or unknown."
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True,
                           text=True)
    return found.stdout.strip() or "unknown"


def one_run(folder, out, seed, extra):
    "Facts of a default run of the clone in `folder`, written to `out`; from there when it is done."
    asked = dict(commit=commit_of(folder), extra=list(extra))
    if (out / "facts.json").exists():
        facts = load_json(out / "facts.json")
        if {name: facts.get(name, value) for name, value in asked.items()} == asked: return facts
        raise UserError(f"{out} holds a run of another commit or with other options; delete it, or "
                        "give another --place.")
    places = dict(PYTHONPATH=str(folder), TORCHINDUCTOR_CACHE_DIR=str(out.parent / "compiled"))
    began = time.monotonic()
    words = [sys.executable, "-m", "lgm_nb.train", "--seed", str(seed), "--out", str(out), *extra]
    done = subprocess.run(words, cwd=folder, env=os.environ | places, capture_output=True,
                          text=True)
    if done.returncode:
        raise UserError(f"A run of {folder} failed: {done.stderr.strip().splitlines()[-1]}")
    seconds = time.monotonic() - began
    timing, metrics = load_json(out / "timing.json"), load_json(out / "metrics.json")
    rows = {K: {name: row[name] for name in KEPT if name in row}
            for K, row in metrics["lengths"].items()}
    facts = asked | dict(seed=seed, seconds=seconds, stages=timing["seconds"], lengths=rows,
                 precision=load_json(out / "settings.json").get("precision", "float32"))
    save_json(out / "facts.json", facts)
    return facts


def spread(values):
    "Mean and range of some numbers."
    return dict(mean=statistics.mean(values), low=min(values), high=max(values))


def summary(versions):
    "Seconds, their ratio run by run, and every metric at every length, of both versions."
    seconds = {name: [run["seconds"] for run in runs] for name, runs in versions.items()}
    ratio = [a / b for a, b in zip(seconds["old"], seconds["new"])]
    def of(runs, K, name): return spread([run["lengths"][K][name] for run in runs])
    lengths = {K: {name: {version: of(runs, K, name) for version, runs in versions.items()}
                   for name in KEPT} for K in versions["new"][0]["lengths"]}
    return dict(seconds={n: spread(v) for n, v in seconds.items()}, ratio=spread(ratio),
                lengths=lengths)


def command(given):
    "Run both versions in turns, and write the file anew after each pair."
    old = Path(given.old).resolve()
    if not (old / "lgm_nb" / "train.py").exists():
        raise UserError(f"There is no lgm_nb in {old}; give --old a clone of the project.")
    versions, place = {"old": [], "new": []}, Path(given.place).resolve()
    for seed in range(given.runs):
        for name, folder in (("old", old), ("new", PROJECT)):
            out = place / f"{name}-{seed}"
            out.mkdir(parents=True, exist_ok=True)
            versions[name].append(one_run(folder, out, seed, given.extra))
            print(name, seed, f"{versions[name][-1]['seconds']:.0f} seconds", flush=True)
        save_json(given.out, dict(
            command=" ".join(["python tests/bench_runs.py --old FOLDER --runs", str(given.runs),
                              *(["--extra"] if given.extra else []), *given.extra]),
            old=commit_of(old),
            environment=environment(), versions=versions, **summary(versions)))
    print(json.dumps(summary(versions)["seconds"] | dict(ratio=summary(versions)["ratio"])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--place", default="runs/versions")
    parser.add_argument("--out", default="data/results/default_run.json")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[])
    sys.exit(exit_status(lambda: command(parser.parse_args())))
