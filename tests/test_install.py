"""Installed without the clone, and on other versions: what a wheel carries, where commands write,
and what the declared minimums were tried with. Nothing here needs a network.
"""
import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from versions import build_copy, minimums, settings

from lgm_nb.base.moved import COMMANDS, Moved
from lgm_nb.data import reading, sets
from lgm_nb.evaluation.paper import numbered_noise

PROJECT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{0}(sys.argv[1]))"


def built(kind, source, out):
    "The archive that setuptools builds of a source folder."
    done = subprocess.run([sys.executable, "-c", BUILD.format(kind), str(out)], cwd=source,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "A wheel of a copy without git, in which somebody keeps own pictures, downloads and a lock."
    pytest.importorskip("setuptools", minversion="70.1")
    work = tmp_path_factory.mktemp("wheel")
    source = build_copy(work / "source")
    for name in ("mine/cat/1.png", "cifar10/batch", "weights/.lock"):
        (source / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "data" / name).write_bytes(b"x")
    return built("wheel", source, work)


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    "The wheel unpacked where nobody may write, beside a folder `data` of some other package."
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive: archive.extractall(folder)
    (folder / "data").mkdir()
    for path in [folder, *folder.rglob("*")]: path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir(): path.chmod(0o755)


def as_user(site, cwd, *words, env=()):
    "Run Python with the unpacked wheel first, in a folder, as somebody without special rights."
    drop = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None: pytest.skip("root may write anywhere, and no setpriv")
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return subprocess.run([*drop, sys.executable, *map(str, words)], cwd=cwd, capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(site)} | dict(env))


def content(folder):
    "{name: bytes} of all files below a folder."
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}


def test_the_wheel_carries_what_is_read_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.removeprefix("lgm_nb/_data/"): archive.read(name)
                  for name in archive.namelist() if name.startswith("lgm_nb/_data/")}
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
        assert f"Version: {settings()['version']}" in archive.read(
            next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    assert not [name for name in inside if name.startswith(("mine", "cifar10")) or "/." in name]
    for part in ("fashion-mnist", "reference", "weights", "results/fashion"):
        for name, held in content(PROJECT / "data" / part).items():
            if not Path(name).name.startswith("."): assert inside[f"{part}/{name}"] == held
    for name in ("feature_network.safetensors", "feature_network.json"):
        assert inside[name] == (PROJECT / "data" / name).read_bytes()
    assert wheel.stat().st_size < 25e6


def test_a_source_archive_builds_the_same_wheel(wheel, tmp_path):
    archive = built("sdist", build_copy(tmp_path / "source"), tmp_path)
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    again = built("wheel", next((tmp_path / "unpacked").iterdir()), tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as two:
        assert sorted(one.namelist()) == sorted(two.namelist())
        for name in one.namelist():
            if not name.endswith("RECORD"): assert one.read(name) == two.read(name), name


def test_everything_works_from_an_empty_folder_and_nothing_is_written_into_the_package(
        site, tmp_path):
    before = content(site)
    done = as_user(site, tmp_path, PROJECT / "tests" / "smoke.py")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["passed"] and told["installed"]
    assert content(site) == before


OWN = """
import torchvision.datasets as datasets
from pathlib import Path
import lgm_nb
from lgm_nb.base.places import data_folder, in_project, target
from lgm_nb.data import images
from lgm_nb.evaluation import features
from lgm_nb.training.runs import environment
from lgm_nb.weights import load_weights

package = Path(lgm_nb.__file__).parent
assert data_folder() == images.data_folder() == package / "_data", data_folder()
assert load_weights("data/weights").folder == package / "_data" / "weights"
assert environment()["commit"] == "unknown"
roots = []
def fetch(root, **_):
    roots.append(str(root))
    raise RuntimeError("no network")
datasets.CIFAR10 = datasets.FashionMNIST = fetch
images.DEBIAN_FASHION = Path("nowhere")
try: images.load_data("cifar10")
except images.UserError as error: print(error)
assert len(images.load_data("fashion").train) == 15000
assert roots == ["data/cifar10", "data/fashion-mnist-full"], roots
features.make_feature_network = lambda settings, out, command: print("OUT", out) or dict(
    test_accuracy=0, test_images=0)
features.train_command(features.FeatureSettings())
"""


def test_results_and_downloads_go_to_the_working_folder(site, tmp_path):
    done = as_user(site, tmp_path, "-c", OWN)
    assert done.returncode == 0, done.stdout + done.stderr
    place = tmp_path / "data" / "feature_network.safetensors"
    assert str(place) in done.stdout and "OUT data/feature_network.safetensors" in done.stdout


def test_a_table_without_a_readme_is_printed(site, tmp_path):
    run = PROJECT / "data" / "results" / "fashion"
    done = as_user(site, tmp_path, "-m", "lgm_nb.results", "--run", run, "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "no README.md" in done.stdout and "| PSNR (dB) |" in done.stdout
    assert (tmp_path / "data" / "results" / "mine" / "metrics.json").exists()
    done = as_user(site, tmp_path, "-m", "lgm_nb.results", "--run", run, "--readme", "none.md")
    assert done.returncode == 2 and "Traceback" not in done.stderr


CLOSED = """
import sys
from smoke import command

from lgm_nb.bench_data import shards_main

for words in (["features"], ["forms"], ["weights"], ["bench", "cpu"]):
    try: command(*words)
    except RuntimeError as error: print(*words, error)
sys.argv = ["shards", "--benchmark"]
print("status", shards_main())
"""


def test_where_nothing_can_be_written_is_told_before_the_work(site, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    path = os.pathsep.join([str(site), str(PROJECT / "tests")])
    done = as_user(site, closed, "-c", CLOSED, env=dict(PYTHONPATH=path))
    assert done.stdout.count("status 2") == 5, done.stdout + done.stderr
    assert done.stderr.count(f"error: Nothing can be written in {closed}") == 4, done.stderr
    assert done.stderr.count("error: Could not write into runs (Permission denied)") == 1
    assert "epoch" not in done.stdout and "items/s" not in done.stdout


def test_a_clone_keeps_its_data_folder():
    from lgm_nb.base.places import data_folder, own_place, target
    assert data_folder() == PROJECT / "data" and not (PROJECT / "lgm_nb" / "_data").exists()
    assert own_place(data_folder() / "weights") == data_folder() / "weights"
    assert target(None, "results", "x.json") == PROJECT / "data" / "results" / "x.json"


def test_every_file_is_written_for_the_oldest_python():
    oldest = tuple(map(int, settings()["min_python"].split(".")))
    for folder in ("lgm_nb", "tests"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=oldest)


def test_the_minimums_were_tried():
    "Whoever changes a minimum runs `python tests/versions.py --out data/results/versions.json`."
    record = json.loads((PROJECT / "data" / "results" / "versions.json").read_text())
    words = settings()
    assert record["minimums"] == minimums(words["requirements"].split())
    assert record["dev_minimums"] == minimums(words["dev_requirements"].split())
    assert set(record["minimums"]) == {word.split(">=")[0] for word in
                                       words["requirements"].split()}
    lowest = next(row for row in record["rows"] if row["resolution"] == "lowest")
    assert lowest["python"].startswith(words["min_python"] + ".")
    for name, version in record["minimums"].items():
        assert Version(lowest["versions"][name]) == Version(version), name
    assert lowest["dev"] and all(row["passed"] for row in record["rows"])
    newest = {row["python"].rsplit(".", 1)[0] for row in record["rows"]
              if row["resolution"] == "newest"}
    assert newest >= {"3.10", "3.12", "3.13"}


class Word:
    "A whole number as numpy 1.26 gives it: it cannot be shifted by a Python number."
    def __init__(self, value): self.value = int(value)
    def __int__(self): return self.value


def test_seeds_do_not_lean_on_the_arithmetic_of_one_numpy(monkeypatch):
    order = sets.batch_indices(9, 9, 0, 77)
    noise = numbered_noise(77, SETTINGS)(torch.arange(2))
    class Sequence(np.random.SeedSequence):
        def generate_state(self, *args): return [Word(v) for v in super().generate_state(*args)]
    monkeypatch.setattr(np.random, "SeedSequence", Sequence)
    sets.epoch_order.cache_clear()
    assert torch.equal(sets.batch_indices(9, 9, 0, 77), order)
    assert torch.equal(numbered_noise(77, SETTINGS)(torch.arange(2)), noise)
    sets.epoch_order.cache_clear()


class SETTINGS:
    "Two tokens of three channels."
    class tokenizer: tokens, channels = 2, 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "RGBa", "PA"])
def test_transparency_is_seen_without_newer_names_of_pillow(mode, monkeypatch):
    image = Image.new("L" if mode == "LA" else "RGB", (8, 8), 9)
    if mode in ("RGBA", "RGBa", "LA"):
        image.putalpha(Image.new("L", (8, 8), 128))
        if mode == "RGBa": image = image.convert(mode)
    elif mode == "PA":
        image = Image.new("PA", (8, 8))
    elif mode == "P":
        image = image.quantize(4)
        image.info["transparency"] = 0
    known = image.has_transparency_data if hasattr(image, "has_transparency_data") else None
    monkeypatch.delattr(Image.Image, "has_transparency_data", raising=False)
    values = np.asarray(reading.to_rgb(image))
    assert values.shape == (8, 8, 3)
    if known is not None and mode in ("RGBA", "LA", "P"): assert known and values.max() > 100


def test_old_names_of_commands_have_a_program_name(monkeypatch):
    for name in COMMANDS:
        monkeypatch.setattr(sys, "argv", [None, "--help"])
        exec(Moved().get_code(name), {"__name__": "elsewhere"})
        assert sys.argv == [name, "--help"]
