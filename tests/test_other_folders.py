"""Folders, names and places as other people have them: what is no picture is counted, splits go by
many names, and what the operating system refuses is one sentence. Seconds.
"""
import os
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from test_data import says

from lgm_nb.base.files import (
    check_target,
    load_json,
    load_tensors,
    plain_file,
    read_pickle,
    save_json,
    save_tensors,
)
from lgm_nb.base.names import whole_path
from lgm_nb.data.folders import load_folder, split_parts
from lgm_nb.data.images import load_data
from lgm_nb.data.latent_space import LatentSpace, LatentStatistics
from lgm_nb.data.shard_files import list_shards
from lgm_nb.losses.pretrained import find_weights
from lgm_nb.release.commands import main as release
from lgm_nb.release.files import synthetic_release
from lgm_nb.training.planning import count_images
from lgm_nb.training.presets import presets
from lgm_nb.training.runs import States

BYTES = os.fsdecode(b"caf\xe9 ")


def fill(folder, n=12, suffix=".png", kind="PNG", first=0):
    "n small pictures, all different, in one folder."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = np.full((12, 12, 3), (first + 7 * i) % 256, np.uint8)
        with open(folder / f"{i:03}{suffix}", "wb") as file:
            Image.fromarray(pixels).save(file, kind)
    return folder


def lay(root, *parts, classes=("cat", "dog"), n=12):
    "A folder with these parts, each with a folder of pictures for each class."
    for part in parts:
        for c, one in enumerate(classes): fill(root / part / one, n, first=100 * c)
    return root


def both(call, *words):
    for on_disk in (False, True): says(partial(call, on_disk=on_disk), *words)


def test_every_picture_that_can_be_read_is_read(tmp_path, capsys):
    "Only the .png were taken, without a word: 10 of 60, and none of a class of .jfif."
    lay(tmp_path, "", n=5)
    kinds = [(".jfif", "JPEG"), (".jpe", "JPEG"), ("", "PNG"), (".JPG?w=9", "JPEG"),
             (".tga", "TGA"), (".jp2", "JPEG2000"), (".pcx", "PCX"), (".PnG ", "PNG")]
    if features.check("avif"): kinds.append((".avif", "AVIF"))
    for i, (suffix, kind) in enumerate(kinds):
        fill(tmp_path / "cat" / ("deep/er" if i % 2 else ""), 3, suffix, kind, 40 + i)
    data = load_folder(tmp_path, 8)
    assert len(data.train) + len(data.test) == 10 + 3 * len(kinds) and not data.skipped
    assert not data.left_out and "left out" not in capsys.readouterr().out
    lazy = load_folder(tmp_path, 8, on_disk=True)
    assert torch.equal(lazy.test.batch(torch.arange(len(lazy.test)))[0],
                       data.test.batch(torch.arange(len(data.test)))[0])


def clutter(root):
    "What other programs leave in a folder of classes."
    for name in ("labels.csv", "cat/Thumbs.db", "cat/a.txt", "dog/b.TXT", "dog/.DS_Store", "dog/x",
                 "cat/shot.heic", "__MACOSX/._a.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("BM P5 no picture")
    (root / "dog" / "nothing").touch()
    for link, to in (("bird", "/nowhere/bird"), ("cat/x.jpg", "gone.jpg"), ("dog/me", "me"),
                     ("dog/up", "..")): (root / link).symlink_to(to)
    os.mkfifo(root / "dog" / "pipe.png")
    fill(root, 2)
    return root


def test_what_is_left_out_is_counted_in_one_line(tmp_path, capsys):
    root = clutter(lay(tmp_path / "pets", ""))
    data = load_folder(root, 8)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("left out in ")
    for words in ("5 files that are no pictures", ".txt 2", ".db 1", ".csv 1", "no suffix 1",
                  "1 picture of a kind that is not read (.heic 1)", "1 empty file", "3 dead links",
                  "bird", "1 link that leads back (dog/up)", "1 pipe or device (dog/pipe.png)",
                  "1 hidden entry (.DS_Store)", "(__MACOSX)", "2 pictures beside"):
        assert words in said, words
    assert data.train.classes == ["cat", "dog"] and len(data.train) + len(data.test) == 24
    assert data.left_out["dead"].total() == 3
    settings = presets()["cifar10"]
    settings.data.name = f"folder:{root}"
    assert count_images(settings)[:2] == (24, 2) and capsys.readouterr().out == said
    empty = root / "cat"
    for name in empty.glob("*.png"): name.unlink()
    both(partial(load_folder, root, 8), "cat holds no images", ".heic 1")


@pytest.mark.parametrize("parts", [("train", "valid"), ("train", "validation"), ("train", "dev"),
                                   ("Train", "Val"), ("TRAINING", "VALID"), ("training", "testing"),
                                   ("train", "holdout"), ("train", "Eval"),
                                   ("seg_train/seg_train", "seg_test/seg_test"),
                                   ("training_set", "test_set"), ("a/b/train", "a/b/test")])
def test_splits_by_all_their_names(tmp_path, parts):
    "Taken for classes called train and valid, or refused."
    lay(tmp_path, *parts, n=3)
    lay(tmp_path, parts[1], n=2)
    assert split_parts(tmp_path) == [tmp_path / part for part in parts]
    data = load_folder(tmp_path, 8)
    assert data.train.classes == ["cat", "dog"] and len(data.train) == len(data.test) == 6


def test_splits_that_could_mean_two_things(tmp_path, capsys):
    root = lay(tmp_path / "both", "train", "Val", "test", n=3)
    assert split_parts(root)[1].name == "Val"
    load_folder(root, 8)
    assert "(test); the split is train and Val" in capsys.readouterr().out
    lay(root, "val")
    both(partial(load_folder, root, 8), "Val and val", "rename")
    for part in ("train", "valid"): fill(tmp_path / "flat" / part)
    both(partial(load_folder, tmp_path / "flat", 8), "train holds pictures and no class folders")
    both(partial(load_folder, lay(tmp_path / "alone", "train", "rest"), 8), "train beside rest",
         "train and val")
    both(partial(load_folder, lay(tmp_path / "no", "val", "test"), 8), "no train")
    for part in ("train", "bus"): fill(tmp_path / "vehicles" / part)
    assert load_folder(tmp_path / "vehicles", 8).train.classes == ["bus", "train"]
    wrapped = lay(tmp_path / "zip" / "zip" / "train", "")
    assert split_parts(tmp_path / "zip") == [wrapped]


def test_class_names_that_look_the_same(tmp_path):
    for part, one in (("train", "Cat"), ("val", "cat")):
        lay(tmp_path / "a", part, classes=(one, "x"))
    both(partial(load_folder, tmp_path / "a", 8), "'Cat' is 'cat' there")
    lay(tmp_path / "b", "", classes=("caf\u00e9", "cafe\u0301"))
    both(partial(load_folder, tmp_path / "b", 8), "two ways")
    lay(tmp_path / "c", "", classes=("A", "a", "10", "9"))
    assert load_folder(tmp_path / "c", 8).train.classes == ["10", "9", "A", "a"]


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_class_without_a_readable_picture_is_told_at_the_start(tmp_path, part):
    "One bad file of 241 was skipped with a line, and its class had no test image."
    lay(tmp_path, "train", "val", n=60)
    bad = tmp_path / part / "dog"
    shutil.rmtree(bad)
    fill(bad, 1)
    (bad / "000.png").write_bytes(b"hello")
    both(partial(load_folder, tmp_path, 8), "dog", str(bad / "000.png"), "not an image")


def counted(root, limit=None):
    "What a dry run counts in a folder."
    settings = presets()["cifar10"]
    settings.data.name, settings.data.limit = f"folder:{root}", limit
    return count_images(settings)


def test_too_few_for_a_test_image_is_told_by_a_dry_run_too(tmp_path):
    "A dry run went through, and a limit was told as a class with one readable image."
    lay(tmp_path / "lone", "", n=1)
    lay(tmp_path / "three", "", classes=("a", "b", "c"), n=4)
    for root, limit, words in (("lone", None, ("lone/cat", "holds one picture and needs 2")),
                               ("three", 5, ("limit 5", "3 classes", "write 6 or more"))):
        both(partial(load_folder, tmp_path / root, 8, limit=limit), *words)
        says(partial(counted, tmp_path / root, limit), *words)
    assert len(load_folder(tmp_path / "three", 8, limit=6).train) == 3
    assert counted(lay(tmp_path / "parts", "train", "val", n=1))[:2] == (2, 2)


def test_what_lies_in_place_of_class_folders_is_told(tmp_path):
    "Packed or hidden classes were passed over without a word; a dry run took a file for ImageNet."
    lay(tmp_path / "pets", "", classes=(".cat", ".dog"))
    (tmp_path / "pets" / "cat.zip").write_bytes(b"PK")
    both(partial(load_folder, tmp_path / "pets", 8), "no class folder", ".zip 1", ".cat, .dog")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dead").symlink_to("nowhere")
    for name, words in (("pets/cat.zip", "no folder"), ("dead", "no folder"), ("loop", "check")):
        says(partial(counted, tmp_path / name), words)
    assert counted(tmp_path / "none")[1] == 1000


def test_names_that_are_no_text(tmp_path, capsys):
    root = tmp_path / os.fsdecode(b"set\xff\n# folder:%")
    try: lay(root, "", classes=(BYTES, "-dog"), n=8)
    except OSError: pytest.skip("this disk takes only names that are text")
    data = load_data(f"folder:{root}", 8)
    assert data.train.classes == ["-dog", BYTES]
    data.source.encode("utf-8")
    assert "\n" not in data.source
    capsys.readouterr().out.encode("utf-8")
    path = root / f"{BYTES}.safetensors"
    save_tensors(path, {"w": torch.arange(3.)}, name=BYTES)
    tensors, facts = load_tensors(path)
    assert torch.equal(tensors["w"], torch.arange(3.)) and facts == {"name": BYTES}
    save_tensors(tmp_path / "plain", {"w": torch.arange(3.)}, name=BYTES)
    assert (tmp_path / "plain").read_bytes() == path.read_bytes()
    with open(root / f"{BYTES}.pt", "wb") as file: torch.save({"a": 1}, file)
    assert read_pickle(root / f"{BYTES}.pt") == {"a": 1}
    States(root, "tokenizer").save(3, w=torch.arange(3.))
    assert torch.equal(States(root, "tokenizer").load()["w"], torch.arange(3.))
    save_json(root / "settings.json", {"name": BYTES})
    assert load_json(root / "settings.json") == {"name": BYTES}
    made = synthetic_release(root / "release")
    words = ("--tokenizer", made["tokenizer"], "--images", root, "--lengths", 16,
             "--out", root / "o")
    assert release(["reconstruct", *map(str, words)]) == 0
    assert load_json(root / "o" / "reconstructions.json")["images"] == 16


def test_home_is_written_out_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lay(tmp_path / "pets", "")
    made = synthetic_release("~/release")
    assert made["tokenizer"] == tmp_path / "release" / "tokenizer.pt"
    assert load_folder("~/pets", 8).source == load_folder(tmp_path / "pets", 8).source
    save_json("~/a.json", 1)
    assert load_json("~/a.json") == 1 and plain_file("~/a.json").is_absolute()
    scale = LatentStatistics(torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
    space = LatentSpace(scale, torch.zeros(1, 4))
    space.save("~/space.safetensors")
    assert LatentSpace.load("~/space.safetensors").pattern_labels.shape == (1, 4)
    assert len(list_shards("~/release/latents")) == 4
    shutil.copy(made["tokenizer"], tmp_path / "net.pt")
    assert find_weights("~", "net") == tmp_path / "net.pt"
    words = ("--tokenizer=~/release/tokenizer.pt", "--images=~/pets", "--lengths=16", "--out=~/out")
    assert release(["reconstruct", *words]) == 0 and (tmp_path / "out").is_dir()
    assert not (tmp_path / "~").exists()
    assert whole_path(whole_path("./~/x")) == tmp_path / "~" / "x"


def test_pipes_folders_and_devices_in_place_of_files(tmp_path):
    "Some hung for ever; /dev/null was replaced by a file."
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dead").symlink_to("nowhere")
    for read in (load_json, load_tensors, read_pickle):
        for name, words in (("pipe", "pipe or a device"), (".", "is a folder"), ("none", "no file"),
                            ("dead", "no file"), ("x" * 300, "too long")):
            says(partial(read, tmp_path / name), words)
    for name, words in (("pipe", "pipe"), (".", "folder"), ("x" * 300, "too long"),
                        ("pipe/a", "can be written"), ("dead/a", "can be written")):
        says(partial(check_target, tmp_path / name), words)
    says(partial(save_json, tmp_path / "pipe", 1), "pipe")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    long = tmp_path / ("x" * 250)
    check_target(long)
    save_json(long, 1)
    for name in ("folder:" + "x" * 300, "x" * 5000, "a\0b", "folder:a\0b",
                 "folder:~no such user/x"):
        says(partial(load_data, name))


ORDINARY = """
from lgm_nb.base.errors import UserError, exit_status
from lgm_nb.base.files import check_target, load_json, load_tensors, read_pickle, save_json
from lgm_nb.data.images import load_data
from lgm_nb.data.shard_files import list_shards
from lgm_nb.losses.pretrained import find_weights
from lgm_nb.release.commands import main
from pathlib import Path
folder = lambda **how: (lambda name: load_data(f"folder:{name}", 8, **how))
calls = [(folder(), "pets"), (folder(on_disk=True), "pets"), (folder(), "closed"),
         (folder(), "deep"), (load_json, "closed/a"), (load_json, "file"), (load_tensors, "file"),
         (read_pickle, "file"), (read_pickle, "closed/a"), (check_target, "readonly/a"),
         (check_target, "closed/a"), (lambda p: save_json(p, 1), "readonly/a"),
         (list_shards, "closed"), (lambda p: find_weights(p, "net"), "closed"),
         (lambda p: load_data(data_dir=p), "closed")]
for call, name in calls:
    try: print("went through", name, call(name))
    except UserError as error: assert name.split("/")[0] in str(error) and "\\n" not in str(error)
for words in ("reconstruct --tokenizer file --images pets --out o",
              "reconstruct --tokenizer release/tokenizer.pt --images pets --lengths 16 --out o",
              "reconstruct --tokenizer release/tokenizer.pt --images plain --out readonly/a",
              "convert --tokenizer file --generator file --statistics closed --out o",
              "lora --run closed", "lora --run file"):
    assert main(words.split()) == 2, words
"""


def test_what_an_ordinary_user_may_not_do(tmp_path):
    "Permission denied, as a sentence, for each place a path is taken."
    ordinary = []
    if os.getuid() == 0:  # root may read everything
        if shutil.which("setpriv") is None: pytest.skip("root, and no setpriv to drop its rights")
        ordinary = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    root = tmp_path / "place"
    lay(root / "pets", "")
    lay(root / "plain", "")
    lay(root / "deep", "", classes=("cat", "dog/x"))
    synthetic_release(root / "release")
    for name in ("closed", "readonly"): (root / name).mkdir()
    (root / "file").write_text("{}")
    for name in ("pets/cat", "deep/dog/x", "closed", "file"): (root / name).chmod(0)
    (root / "readonly").chmod(0o555)
    done = subprocess.run([*ordinary, sys.executable, "-c", ORDINARY], cwd=root, text=True,
                          capture_output=True)
    for name in ("pets/cat", "deep/dog/x", "closed", "file"): (root / name).chmod(0o700)
    assert done.returncode == 0 and "went through" not in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error: ") == 6


def test_nobody_at_home():
    "A user without HOME and without an entry in the list of users."
    code = ("import os; from lgm_nb.base.names import whole_path\n"
            "os.environ.pop('HOME', None); os.setuid(54321); whole_path('~/x')")
    if os.getuid() != 0: pytest.skip("needs root, to become another user")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UserError: ~/x: no home folder" in done.stderr
