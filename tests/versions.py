"""The smoke run in fresh environments: the lowest allowed versions on the oldest Python, the newest
ones on every Python at hand. Needs a network, several GB for a while, and minutes.

`python tests/versions.py` builds a wheel, and for each environment installs it with uv, runs
tests/smoke.py outside the clone, and adds a line to a table. Status 1 when one did not pass.
`--python 3.10 --lowest` tries one environment; `--out data/results/versions.json` keeps the record.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from configparser import ConfigParser
from pathlib import Path

PROJECT = Path(__file__).parents[1]
MINORS = ("3.10", "3.11", "3.12", "3.13")
SOURCES = ("lgm_nb", "data", "setup.py", "settings.ini", "MANIFEST.in", "README.md", "LICENSE",
           "CHANGELOG.md", "CITATION.cff")
DEV = """import importlib.util, nbdev.export, nbdev.test, execnb, fastcore, ghapi, hypothesis
import pytest, sklearn, playwright.sync_api, notebook, peft, lpips, torch.utils.tensorboard
assert importlib.util.find_spec("ruff")"""


def settings():
    "What settings.ini says."
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(PROJECT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def minimums(words):
    "{name: lowest allowed version} of requirements; a name without one has none."
    found = (re.match(r"([\w-]+)>=([\d.]+)", word) for word in words)
    return {match[1]: match[2] for match in found if match}


def interpreters(wanted=MINORS):
    "{minor version: program} of the Pythons on the PATH, of pyenv, and of this one."
    places = [*os.environ.get("PATH", "").split(os.pathsep),
              *sorted(Path.home().glob(".pyenv/versions/*/bin"), reverse=True)]
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for minor in wanted:
        for program in (Path(place, f"python{minor}") for place in places):
            if minor not in found and answers(program): found[minor] = str(program)
    return {minor: found[minor] for minor in wanted if minor in found}


def answers(program):
    "Whether a program is there and works: pyenv leaves names that do not."
    try: return subprocess.run([program, "-c", ""], capture_output=True).returncode == 0
    except OSError: return False


def find_uv(work):
    "The installer, from the PATH or from PyPI."
    if found := shutil.which("uv"): return found
    subprocess.run([sys.executable, "-m", "venv", work / "uv"], check=True)
    subprocess.run([work / "uv" / "bin" / "pip", "install", "-q", "uv"], check=True)
    return str(work / "uv" / "bin" / "uv")


def build_copy(folder):
    "A copy of what pip needs of the project, so that nothing is built inside the clone."
    left_out = shutil.ignore_patterns("__pycache__", ".*", "cifar10", "fashion-mnist-full")
    folder.mkdir()
    for path in (PROJECT / name for name in SOURCES):
        if path.is_dir(): shutil.copytree(path, folder / path.name, ignore=left_out)
        elif path.exists(): shutil.copy(path, folder)
    return folder


def build(uv, work):
    "A wheel of the project."
    source = build_copy(work / "source")
    subprocess.run([uv, "build", "-q", "--wheel", "--out-dir", work / "wheel",
                    "--python", sys.executable, source], check=True)
    return next((work / "wheel").glob("*.whl"))


def attempt(uv, work, wheel, program, lowest):
    "One environment, made, tried and removed: its line of the record."
    env, files = work / "env", {}
    python = env / "bin" / "python"
    for name in ("requirements", "dev_requirements"):
        files[name] = work / f"{name}.txt"
        files[name].write_text("\n".join(settings()[name].split()))
    def install(*words):
        order = ["--resolution", "lowest-direct" if lowest else "highest"]
        subprocess.run([uv, "pip", "install", "-q", "--python", python, *order, *words], check=True)
    # nothing of the clone or of this environment may be seen
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    began, row = time.monotonic(), dict(resolution="lowest" if lowest else "newest", passed=False)
    try:
        subprocess.run([uv, "venv", "-q", "--clear", "--python", program, env], check=True)
        install("-r", files["requirements"], wheel)
        installed = time.monotonic() - began
        smoke = subprocess.run([python, PROJECT / "tests" / "smoke.py"], cwd=work, env=clean,
                               capture_output=True, text=True)
        print("\n".join(smoke.stderr.splitlines()[-20:]) if smoke.returncode else "", end="")
        row |= json.loads(smoke.stdout.splitlines()[-1]) | dict(install_seconds=round(installed))
        row["passed"] = row["passed"] and row["installed"]
        if lowest:
            install("-r", files["requirements"], "-r", files["dev_requirements"], wheel)
            row["dev"] = subprocess.run([python, "-c", DEV], cwd=work, env=clean).returncode == 0
            row["passed"] = row["passed"] and row["dev"]
    except (subprocess.CalledProcessError, IndexError, ValueError) as error:
        row |= dict(error=f"{type(error).__name__}: {error}"[:300])
    shutil.rmtree(env, ignore_errors=True)
    return row


def table(rows):
    "The record as a Markdown table."
    lines = ["| Python | versions | torch | numpy | Pillow | seconds | passed |",
             "|---|---|---|---|---|---:|---|"]
    for row in rows:
        versions = row.get("versions", {})
        found = [versions.get(name, "?") for name in ("torch", "numpy", "pillow")]
        cells = [row.get("python", "?"), row["resolution"], *found, str(row.get("seconds", "?")),
                 "yes" if row["passed"] else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    "Returns the exit status."
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--python", nargs="*", default=MINORS, help="such as 3.10 3.12")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--lowest", action="store_true", help="the lowest versions alone")
    only.add_argument("--newest", action="store_true", help="the newest versions alone")
    parser.add_argument("--out", type=Path, help="file for the record (JSON)")
    args = parser.parse_args()
    programs = interpreters(args.python)
    if missing := [minor for minor in args.python if minor not in programs]:
        print(f"no Python {', '.join(missing)} here")
    oldest, rows = next(iter(programs), None), []
    wanted = [(oldest, True)] * (oldest is not None and not args.newest)
    wanted += [(minor, False) for minor in programs if not args.lowest]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        uv = find_uv(work)
        os.environ.setdefault("UV_CACHE_DIR", str(work / "cache"))
        wheel = build(uv, work)
        megabytes = round(wheel.stat().st_size / 1e6, 1)
        for minor, lowest in wanted:
            print(f"Python {minor}, {'lowest' if lowest else 'newest'} versions", flush=True)
            rows.append(attempt(uv, work, wheel, programs[minor], lowest))
    print(table(rows))
    record = dict(command="python tests/versions.py", wheel_megabytes=megabytes,
                  minimums=minimums(settings()["requirements"].split()),
                  dev_minimums=minimums(settings()["dev_requirements"].split()), rows=rows)
    if args.out: args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if rows and all(row["passed"] for row in rows) else 1


if __name__ == "__main__": sys.exit(main())
