"""A smoke run of seconds: every part of the project once, with networks that learn nothing.

`python tests/smoke.py` works in an empty folder of its own, in the environment that runs it, and
ends with status 0 when all steps pass. Needs no network.
"""
import json
import os
import pkgutil
import runpy
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

TINY = """--tokenizer-training.steps 3 --generator-training.steps 3
    --tokenizer-training.batch-size 8 --generator-training.batch-size 8
    --tokenizer-training.warmup 1 --generator-training.warmup 1
    --tokenizer.width 32 --tokenizer.decoder-depth 1
    --generator.width 32 --generator.depth 1 --generator.heads 2
    --evaluation.samples 10 --evaluation.images 10 --evaluation.points 3 --device cpu""".split()
COMMANDS = ("train", "weights", "forms", "data", "features", "results", "bench", "paper_numbers",
            "release", "explore", "shards", "folders")


def command(module, *words):
    "Run `python -m lgm_nb.MODULE WORDS` in this process; any status but 0 is an error."
    held, sys.argv = sys.argv, [module, *map(str, words)]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*found in sys.modules")
            runpy.run_module(f"lgm_nb.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code not in (0, None): raise RuntimeError(f"status {end.code}") from None
    finally: sys.argv = held


def own_pictures(folder):
    "Two classes in PNG with transparency, 16 bit, palette and GIF, JPEG turned by EXIF, and WebP."
    import numpy as np
    from PIL import Image
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            image = Image.fromarray(draw.integers(0, 256, (40, 48, 3), np.uint8))
            clear = image.copy()
            clear.putalpha(Image.fromarray(draw.integers(0, 256, (40, 48), np.uint8)))
            deep = Image.fromarray(draw.integers(0, 65536, (40, 48)).astype(np.uint16))
            exif = Image.Exif()
            exif[0x0112] = 6
            paths = [folder / name / f"{i}{kind}" for kind in
                     (".png", "-clear.png", "-deep.png", "-palette.png", ".gif", ".jpg", ".webp")]
            image.save(paths[0])
            clear.save(paths[1])
            deep.save(paths[2])
            image.quantize(16).save(paths[3], transparency=0)
            image.quantize(16).save(paths[4])
            image.save(paths[5], exif=exif)
            image.save(paths[6])
    return folder


def import_all():
    "Every module of the package."
    import lgm_nb
    broken = []
    found = pkgutil.walk_packages(lgm_nb.__path__, "lgm_nb.", onerror=broken.append)
    for module in found:
        if not module.name.endswith("__main__"): __import__(module.name)
    assert not broken, broken


def helps():
    "The help of every command."
    for module in COMMANDS: command(module, "--help")


def train_shipped():
    "The plan of the default run; a run on the shipped data; one that starts from it."
    command("train", "--dry-run")
    command("train", *TINY, "--data.limit", "100", "--out", "run")
    assert json.loads(Path("run/metrics.json").read_text())["lengths"]
    command("train", *TINY, "--data.limit", "100", "--init", "run", "--out", "on")


def train_folder():
    "A run on own colour pictures; none of them is left out."
    from lgm_nb.data.images import load_data
    pictures = own_pictures(Path("pictures"))
    assert not load_data(f"folder:{pictures}", 32).skipped
    command("train", "--preset", "cifar10", *TINY, "--data.name", f"folder:{pictures}",
            "--out", "own")


def uploads():
    "The upload reader, for every kind of picture."
    from lgm_nb.explore.pictures import read_upload
    for path in sorted(Path("pictures/cat").glob("0*")):
        image, words = read_upload(path.read_bytes(), 28, 1)
        assert image.shape == (1, 1, 28, 28) and words, path


def pages():
    "The page without Python and the film, of a run on the shipped data."
    command("explore", "--html", "page.html", "--animation", "film.gif", "--run", "run")
    from PIL import Image
    assert "</html>" in Path("page.html").read_text(encoding="utf-8")
    with Image.open("film.gif") as film: assert film.n_frames > 1


def explorers():
    "The explorers of the page in Jupyter, each with its first drawing."
    from lgm_nb import explore
    from lgm_nb.weights import load_weights
    trained = load_weights("run")
    for name in ("Groups", "Reconstruction", "Alignment", "Sample", "Quality"):
        made = getattr(explore, f"{name}Explorer")(trained)
        made._repr_mimebundle_()


def shipped():
    "The shipped weights: reconstruct, sample."
    import torch

    from lgm_nb.weights import load_weights
    trained = load_weights()
    assert trained.truncation is not None
    assert trained.reconstruct(torch.zeros(2, 1, 28, 28), 11).shape == (2, 1, 28, 28)
    assert trained.sample([0, 9], 5, steps=2).isfinite().all()


def numbers():
    "The papers' numbers of a run, and their picture."
    command("paper_numbers", "reconstruct", "run", "--out", "reconstruct.json", "--images", 20,
            "--lengths", 16)
    command("paper_numbers", "generate", "run", "--out", "generate.json", "--samples", 20,
            "--lengths", 16, "--points", 3)
    command("paper_numbers", "plot", "generate.json", "--out", "plot.png")


STEPS = (import_all, helps, train_shipped, train_folder, uploads, pages, explorers, shipped,
         numbers)


def smoke(steps=STEPS):
    "Run the steps in an empty folder: {name: seconds, or the error in a line}."
    found, home = {}, os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for step in steps:
            began = time.perf_counter()
            try:
                step()
                found[step.__name__] = round(time.perf_counter() - began, 1)
            except BaseException as error:
                traceback.print_exc()
                found[step.__name__] = f"{type(error).__name__}: {error}"[:200]
        os.chdir(home)
    return found


def versions():
    "Python and the version of every requirement that settings.ini names."
    from importlib.metadata import version
    text = (Path(__file__).parents[1] / "settings.ini").read_text(encoding="utf-8")
    line = next(one for one in text.splitlines() if one.startswith("requirements = "))
    names = [word.split(">")[0].split("<")[0] for word in line.split(" = ", 1)[1].split()]
    return {name: version(name) for name in names}


def main():
    "The smoke run, with a JSON line at the end."
    began, found = time.perf_counter(), smoke()
    passed = all(isinstance(seconds, float) for seconds in found.values())
    from lgm_nb.base.places import installed
    print(json.dumps(dict(python=sys.version.split()[0], passed=passed, installed=installed(),
                          steps=found,
                          seconds=round(time.perf_counter() - began, 1), versions=versions())))
    return 0 if passed else 1


if __name__ == "__main__": sys.exit(main())
