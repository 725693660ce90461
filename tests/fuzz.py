"""Random settings, folders, pictures and short runs: each ends well, or in one sentence.

`python tests/fuzz.py [parse|folders|uploads|runs] [--runs N]` tries N of a kind, or of all kinds.
tests/test_fuzz.py does it too. Hypothesis chooses, makes what failed as small as it can, and
prints it.
"""
import contextlib
import io
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from lgm_nb.base.errors import UserError
from lgm_nb.data.folders import load_folder
from lgm_nb.explore.pictures import read_upload
from lgm_nb.train import main, parse
from lgm_nb.training.settings import Settings, comparable, from_plain

# ---------------------------------------------------------------- settings


def options(kind=Settings, prefix="--"):
    "Every option of the command, as it is written."
    for f in fields(kind):
        name = prefix + f.name.replace("_", "-")
        part = f.default_factory() if callable(f.default_factory) else f.default
        if is_dataclass(part): yield from options(type(part), f"{name}.")
        else: yield name, part


OPTIONS = dict(options())
EDGES = [*"0 1 -1 2 3 4 64 65 4294967296 20260917093012 0.5 1.0 -0.5 1e-300 1e300".split(),
         str(10 ** 30), "nan", "inf", "-inf", "", " ", "None", "True", "cpu", "~/x",
         "~nobody here/x", "folder:", "folder:~/x", "a\udcff", "\u732b", "$1_$5", "x" * 300,
         "--seed", "a\nb", "\u202ex"]
WORDS = st.one_of(st.sampled_from(EDGES), st.integers().map(str), st.floats().map(str),
                  st.text(st.characters(exclude_characters="\0"), max_size=12))


def arguments(names):
    "Command-line words: up to three options with one to three values each."
    one = st.tuples(st.sampled_from(sorted(names)), st.lists(WORDS, min_size=1, max_size=3))
    return st.lists(one, max_size=3).map(lambda given: [w for name, values in given
                                                        for w in (name, *values)])


def quietly(call):
    "(what call() gives or None, what was printed): a refusal is a `UserError` or tyro's status 2."
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try: return call(), out.getvalue()
        except UserError as error:
            assert 10 < len(str(error)) and "\n" not in str(error).strip(), error
        except SystemExit as end: assert end.code in (0, 2), end.code
    return None, out.getvalue()


def try_parse(words):
    "Settings that are accepted can be stored as JSON, and come back the same."
    found, _ = quietly(lambda: parse(words))
    if found is None: return
    plain = comparable(found)
    stored = json.loads(json.dumps(plain, allow_nan=False))
    assert comparable(from_plain(stored)) == plain, words


# ---------------------------------------------------------------- folders

SPLITS = st.sampled_from(["", "", "train", "Train", "val", "valid", "validation", "dev", "test",
                          "data"])
NAMES = st.one_of(st.sampled_from([b"cat", b"dog", b"Cat", b"bird", b".hidden", b"caf\xc3\xa9",
                                   b"cafe\xcc\x81",
                                   b"\xff\xfe", b"$1_$5", b"a b ", b"-x", b"a\nb", b"__MACOSX"]),
                  st.binary(min_size=1, max_size=8).filter(
                      lambda b: b not in (b".", b"..") and not set(b) & {0, 47}))
KINDS = ["png"] * 6 + ["jpg", "jfif", "none", "text", "empty", "cut", "dead", "folder", "pipe",
                       "loop"]


@st.composite
def trees(draw):
    "A folder of pictures as people have them: {path: kind of file}."
    tree = {}
    for split in draw(st.lists(SPLITS, min_size=1, max_size=3)):
        for name in draw(st.lists(NAMES, max_size=3)):
            for i in range(draw(st.integers(0, 4))):
                kind = draw(st.sampled_from(KINDS))
                deeper = draw(st.sampled_from([b"", b"", b"", b"more/"]))
                suffix = {"none": "", "text": ".txt", "jfif": ".jfif"}.get(kind, ".png")
                file = deeper + f"{i}{suffix}".encode()
                tree[os.path.join(os.fsencode(split), name, file)] = kind
    for i in range(draw(st.integers(0, 2))): tree[f"{i}.png".encode()] = "png"
    return tree


def picture(format="PNG", size=(9, 7), mode="RGB"):
    "Bytes of a small picture."
    held = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(held, format)
    return held.getvalue()


PNG, JPEG = picture(), picture("JPEG")


def put(place, kind):
    "Write one file of a tree."
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if kind == "dead": return os.symlink(b"/nowhere/at all", place)
    if kind == "loop": return os.symlink(place, place)
    if kind == "folder": return os.mkdir(place)
    if kind == "pipe": return os.mkfifo(place)
    held = dict(text=b"a,b\n", empty=b"", cut=PNG[:40], jpg=JPEG, jfif=JPEG).get(kind, PNG)
    with open(place, "wb") as file: file.write(held)


def try_folder(tree, on_disk):
    "A folder is refused in a sentence, or gives two sets that hold pictures of every class."
    root = tempfile.mkdtemp()
    try:
        for path, kind in tree.items():
            with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                put(os.path.join(os.fsencode(root), path), kind)
        data, said = quietly(lambda: load_folder(root, 8, on_disk=on_disk))
        if data is None: return
        assert data.train.classes == data.test.classes and len(data.train.classes) >= 2
        for part in (data.train, data.test):
            assert set(part.labels.tolist()) == set(range(len(part.classes))), (tree, said)
            x, y = quietly(lambda part=part: part.batch(torch.arange(len(part))))[0] or (None, None)
            assert on_disk or x is not None
            assert x is None or x.shape == (len(part), 3, 8, 8) and x.abs().max() <= 1
    finally:
        shutil.rmtree(root)


# ---------------------------------------------------------------- uploads

FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "JPEG2000",
           "SGI"]
PICTURES = [picture(f, (12, 9), m) for f in FORMATS for m in ("RGB", "L")]


@st.composite
def damaged(draw):
    "Bytes of a picture, cut, changed or mixed; or any bytes."
    if draw(st.booleans()) and draw(st.booleans()): return draw(st.binary(max_size=60))
    held = bytearray(draw(st.sampled_from(PICTURES)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(held) - 1)))
        change = draw(st.sampled_from(["byte", "cut", "insert", "remove"]))
        if change == "byte" and held: held[at] = draw(st.integers(0, 255))
        elif change == "cut": del held[at:]
        elif change == "insert": held[at:at] = draw(st.binary(max_size=8))
        else: del held[at:at + draw(st.integers(0, 20))]
    return bytes(held)


def try_upload(content, size, channels):
    "Any bytes give an image in [-1, 1], or a sentence."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = quietly(lambda: read_upload(content, size, channels))
    if found is None: return
    assert found[0].shape == (1, channels, size, size) and found[0].abs().max() <= 1


# ---------------------------------------------------------------- runs

TINY = """--tokenizer-training.steps 2 --generator-training.steps 2
--tokenizer-training.batch-size 8 --generator-training.batch-size 8 --tokenizer-training.warmup 1
--generator-training.warmup 1 --tokenizer.width 32 --tokenizer.decoder-depth 1
--generator.width 32 --generator.depth 1 --generator.heads 2 --evaluation.samples 10
--evaluation.images 10 --evaluation.points 3 --data.limit 60 --device cpu""".split()
DEAR = ("steps", "samples", "images", "points", "width", "depth", "dry", "stage", "compile",
        "trackers", "weights-dir", "data.name", "data.dir", "preset", "save", "grid", "out",
        "init", "device", "losses.", "encoder-start", "checkpointing", "batch-size", "accumulate",
        "limit")
CHEAP = [name for name in OPTIONS if not any(word in name for word in DEAR)]
FEW = ["0", "1", "2", "-1", "0.5", "1e-30", "nan", "inf", "20260917093012"]


def try_run(option, value):
    """A short run with one setting changed ends with its results, or is refused before its first
    step.
    """
    folder = tempfile.mkdtemp()
    words = [*TINY, "--out", folder, option, *value]
    try:
        status, said = quietly(lambda: main(words))
        status = 2 if status is None else status
        found = Path(folder, "metrics.json")
        begun = Path(folder, "log.jsonl").exists()
        # that a rate is too large shows in training alone
        begun = begun and "lower --" not in said
        ends = (status, found.exists()) == (0, True) or (status, begun) == (2, False)
        assert ends, (words, status, said[-600:])
        if status == 0: json.loads(found.read_text(), parse_constant=lambda c: 1 / 0)
    finally:
        shutil.rmtree(folder)


KIND = dict(parse=(try_parse, dict(words=arguments(OPTIONS))),
            folders=(try_folder, dict(tree=trees(), on_disk=st.booleans())),
            uploads=(try_upload, dict(content=damaged(), size=st.sampled_from([8, 28, 64]),
                                      channels=st.sampled_from([1, 3]))),
            runs=(try_run, dict(option=st.sampled_from(CHEAP),
                                value=st.lists(st.sampled_from(FEW), min_size=1, max_size=2))))


def fuzz(kind, runs):
    "Try `runs` inputs of a kind; an input that breaks the product is raised, as small as it gets."
    call, inputs = KIND[kind]
    shrink = [] if kind == "runs" else [Phase.shrink]
    trial = settings(max_examples=runs, deadline=None, database=None, derandomize=True,
                     phases=[Phase.generate, *shrink],
                     suppress_health_check=list(HealthCheck))(given(**inputs)(call))
    trial()


def command(kind: tyro.conf.Positional[str] = "all", runs: int = 2000):
    """Try many inputs of a kind.

    Args:
        kind: parse, folders, uploads, runs (a second each, so a twentieth of the number), or all.
        runs: How many of each kind.
    """
    for name in KIND if kind == "all" else [kind]:
        count = max(1, runs // 20) if name == "runs" and kind == "all" else runs
        fuzz(name, count)
        print(f"{name}: {count} tried, none broke it", flush=True)


if __name__ == "__main__": tyro.cli(command, prog="python tests/fuzz.py")
