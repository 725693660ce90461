"""The house in its wings: who may import whom, how long modules and functions are, and what ruff
says.
"""
import ast
import graphlib
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "lgm_nb"
METHOD = ("merging", "truncation", "strategies", "quantizer", "tokenizer", "generator", "flow")
FLOORS = (("base",), METHOD, ("data", "losses"), ("training",), ("evaluation",),
          ("train", "weights", "forms", "bench", "bench_cells", "bench_data", "bench_networks",
           "bench_parts", "bench_peers", "bench_plan", "bench_profile", "bench_steps",
           "bench_versions"),
          ("release", "explore", "claims"))
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {".".join(path.relative_to(PROJECT).with_suffix("").parts): path
           for path in sorted(PACKAGE.rglob("*.py")) if path.name[0] != "_"}


def room(module):
    "Which wing or top module a dotted name belongs to."
    return module.split(".")[1]


def imported(name):
    "Dotted names of the package's modules that a module imports, also inside functions."
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = name.split(".")[:-node.level] if node.level else []
            whole = ".".join([*start, *filter(None, [node.module])])
            found |= {f"{whole}.{alias.name}" for alias in node.names} | {whole}
        elif isinstance(node, ast.Import): found |= {alias.name for alias in node.names}
    return {f for f in found if f in MODULES}


def functions():
    "(lines, module, name) of every function and method, docstring included."
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node.end_lineno - node.lineno + 1, name, node.name


def test_every_module_has_a_floor():
    assert {room(name) for name in MODULES} == set(FLOOR)


def test_imports_run_down():
    upward = [f"{name} imports {other}" for name in MODULES for other in imported(name)
              if FLOOR[room(other)] > FLOOR[room(name)]]
    sideways = [f"{name} imports {other}" for name in MODULES for other in imported(name)
                if room(other) != room(name) and FLOOR[room(other)] == FLOOR[room(name)]
                and {room(name), room(other)} <= {"data", "losses", "release", "explore"}]
    assert not upward + sideways


def test_there_is_no_circle():
    order = list(graphlib.TopologicalSorter({m: imported(m) for m in MODULES}).static_order())
    assert sorted(order) == sorted(MODULES)


def test_the_check_of_imports_can_fail(monkeypatch, tmp_path):
    (tmp_path / "wrong.py").write_text("from ..train import main\n")
    monkeypatch.setitem(MODULES, "lgm_nb.base.wrong", tmp_path / "wrong.py")
    assert imported("lgm_nb.base.wrong") == {"lgm_nb.train"}
    with pytest.raises(AssertionError): test_imports_run_down()


def test_modules_and_functions_are_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines())
               for name, path in MODULES.items()}
    assert {n: k for n, k in lengths.items() if k > 300} == {}
    assert statistics.median(lines for lines, _, _ in functions()) <= 10


def test_public_names_have_docstrings():
    bare = []
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
            if public and not ast.get_docstring(node): bare.append(f"{name}.{node.name}")
    assert not bare


def test_no_two_functions_of_one_name():
    places = defaultdict(set)
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)): places[node.name].add(name)
    twice = {n: sorted(where) for n, where in places.items() if len(where) > 1 and n != "main"}
    assert not twice


def test_no_block_is_repeated():
    "Six lines in a row of one module stand nowhere else."
    seen, twice = {}, []
    for path in [*MODULES.values(), *sorted((PROJECT / "tests").glob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        rows = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                rows[node.lineno - 1:node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
        lines = [row.strip() for row in rows if row.strip() and row.strip()[0] != "#"]
        for i in range(len(lines) - 5):
            block = "\n".join(lines[i:i + 6])
            if seen.setdefault(block, (path, i))[0] != path: twice.append((path.name, block))
    assert not twice


def test_ruff_is_content():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None: pytest.skip("ruff is not installed")
    done = subprocess.run([ruff, "check", "--no-cache", "nbs", "tests", "setup.py"], cwd=PROJECT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_modules_are_what_the_notebooks_export(tmp_path):
    "nbdev writes the same modules again: nobody edited one by hand, or forgot to export."
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("nbs", "lgm_nb"): shutil.copytree(PROJECT / name, copy / name)
    for name in ("settings.ini", "setup.py", "README.md"): shutil.copy(PROJECT / name, copy)
    command = [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in MODULES.values():
        again = copy / path.relative_to(PROJECT)
        assert again.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), path


WALK = '''
import sys
import torch
from lgm_nb.train import main

class FirstStep(BaseException): pass

def halt(*_): raise FirstStep

seen = dict.fromkeys([])
def watch(frame, event, arg):
    if event == "call" and frame.f_back is not None:
        pair = [f.f_globals.get("__name__", "") for f in (frame.f_back, frame)]
        if all(name.startswith("lgm_nb.") for name in pair) and pair[0] != pair[1]:
            seen[tuple(pair)] = None

torch.optim.AdamW.step = halt
sys.setprofile(watch)
try: main(sys.argv[1:])
except FirstStep: pass
sys.setprofile(None)
print("WALK", *(f"{a}>{b}" for a, b in seen))
'''


def test_the_walk_to_the_first_step_goes_down(tmp_path):
    "Calls between modules, from the command to the first training step: three go up at most."
    words = ["--stage", "tokenizer", "--data.limit", "100", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", WALK, *words], capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("WALK ")]
    assert found, done.stdout + done.stderr
    calls = [call.split(">") for call in found[0].split()[1:]]
    assert ["lgm_nb.training.stages", "lgm_nb.training.fitting"] in calls
    up = [call for call in calls if FLOOR.get(room(call[0]), 0) < FLOOR.get(room(call[1]), 0)]
    assert len(up) <= 3, up
