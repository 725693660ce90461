"Images, latents and files: wrong input, kills, and what a run keeps beside its generator. Seconds."
import gzip
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from lgm_nb.base.errors import UserError
from lgm_nb.base.files import (
    check_target,
    load_into,
    load_json,
    load_tensors,
    read_pickle,
    save_tensors,
    written_beside,
)
from lgm_nb.base.prefetch import prefetch
from lgm_nb.data.folders import FolderImages, list_images, load_folder
from lgm_nb.data.images import IDX_FILES, data_folder, load_data, write_subset
from lgm_nb.data.latents import (
    SPACE,
    LatentSet,
    LatentSpace,
    LatentStatistics,
    ShardSet,
    extract_shards,
    read_latents,
    shard_path,
)
from lgm_nb.data.sets import balanced_indices, balanced_order, batch_indices
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings
from lgm_nb.weights import load_weights

FASHION = data_folder() / "fashion-mnist"


def says(call, *words):
    "The UserError that `call` raises is one sentence with these words."
    with pytest.raises(UserError) as raised: call()
    sentence = str(raised.value)
    assert "\n" not in sentence and all(word in sentence for word in words), sentence


def pictures(folder, classes=("bags", "coats"), n=20):
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(np.full((20, 30, 3), 10 * c + i,
                                    np.uint8)).save(folder / name / f"{i:03}.png")
    return folder


def test_balanced_order_is_even_from_its_beginning():
    "Sorted by class, as test sets are: the first 60 of 5 classes were 40, 20, 0, 0, 0."
    labels = torch.arange(5).repeat_interleave(40)
    for n in (1, 7, 60, 199):
        counts = labels[balanced_order(labels, 200)[:n]].bincount(minlength=5)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(balanced_indices(labels, 60), balanced_order(labels, 60).sort().values)
    says(lambda: batch_indices(0, 10, 0, 0), "n=0")


def test_wrong_names_and_folders(tmp_path):
    for name in ("empty", "no_images/a", "no_images/b", "one/only"):
        (tmp_path / name).mkdir(parents=True)
    few, bad = pictures(tmp_path / "few", n=1), pictures(tmp_path / "bad")
    for i in range(3): (bad / "bags" / f"{i:03}.png").write_bytes([b"", b"GIF89a", b"hello"][i])
    split = tmp_path / "split"
    pictures(split / "train")
    pictures(split / "val", ("bags", "shoes"))
    for call, *words in ((lambda: load_data("fashon"), "'fashion'"),
                         (lambda: load_data(image_size=3), "at least 4"),
                         (lambda: load_data(channels=2), "channels is 2"),
                         (lambda: load_data(limit=0), "limit is 0"),
                         (lambda: load_data(data_dir=tmp_path), "no Fashion-MNIST files")):
        says(call, *words)
    for on_disk in (False, True):
        for path, words in (("", "needs a path"), (tmp_path / "none", "no folder"),
                            (split, "lacks 1 class"),
                            (tmp_path / "empty", "no class folder"),
                            (tmp_path / "one", "only one class"),
                            (tmp_path / "no_images", "holds no images"), (few, "one picture")):
            says(partial(load_data, f"folder:{path}", 8, on_disk=on_disk), words)
    says(lambda: load_data(f"folder:{bad}"), "3 of 40", "(empty file)", "(not an image)", "1 %")
    says(lambda: FolderImages(*list_images(bad), 8, threads=0), "threads is 0")
    says(lambda: FolderImages(*list_images(bad), 8).batch([1], crop=torch.rand(2)), "crop is")
    with pytest.raises(UserError, match="more than 1 %"):
        FolderImages(*list_images(bad), 8).batch(torch.arange(20))


def test_both_readers_agree_and_a_broken_file_is_named(tmp_path, capsys):
    folder = pictures(tmp_path / "good", n=80)
    lazy, now = load_folder(folder, 8, on_disk=True), load_folder(folder, 8)
    for ours, theirs in ((lazy.train, now.train), (lazy.test, now.test)):
        assert torch.equal(ours.batch(torch.arange(len(ours)))[0],
                           theirs.batch(torch.arange(len(theirs)))[0])
    (folder / "bags" / "007.png").write_bytes(b"hello")
    shapes = load_folder(folder, 8)
    assert [Path(p).name
            for p, _ in shapes.skipped] == ["007.png"] and "not an image" in capsys.readouterr().out
    assert len(shapes.train) + len(shapes.test) == 159


def test_damaged_idx_files(tmp_path):
    store, name = tmp_path / "fashion-mnist", IDX_FILES[3]
    store.mkdir()
    for damage, words in ((lambda b: b[:len(b) // 2], "cannot be unpacked"),
                          (lambda b: b"hello", "cannot be unpacked"),
                          (lambda b: (FASHION / IDX_FILES[2]).read_bytes(), "not a whole IDX file"),
                          (lambda b: gzip.compress(gzip.decompress(b)[:-5]),
                           "not a whole IDX file"),
                          (lambda b: gzip.compress(b""), "not a whole IDX file"),
                          (lambda b: (FASHION / IDX_FILES[1]).read_bytes(),
                           "do not belong together")):
        for file in IDX_FILES: (store / file).write_bytes((FASHION / file).read_bytes())
        (store / name).write_bytes(damage((store / name).read_bytes()))
        says(lambda: load_data(data_dir=tmp_path), words)
    says(lambda: write_subset(tmp_path, 10**6, 2, source=FASHION), "1000000", "1 to")


def test_without_a_network(tmp_path, capsys):
    def fail(*_, **__): raise OSError("no network")
    shutil.copytree(FASHION, tmp_path / "fashion-mnist")
    with (patch("torchvision.datasets.FashionMNIST", fail),
          patch("torchvision.datasets.CIFAR10", fail),
          patch("lgm_nb.data.images.DEBIAN_FASHION", Path("nowhere"))):
        assert "shipped subset" in load_data("fashion", data_dir=tmp_path).source
        says(lambda: load_data("cifar10", data_dir=tmp_path), "cifar-10-python.tar.gz",
             "no network")
    assert "could not be downloaded" in capsys.readouterr().out


def test_files_are_whole_or_untouched(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"w": torch.arange(6.)})
    whole = path.read_bytes()
    def interrupted():
        with written_beside(path) as beside:
            beside.write_bytes(whole[:10])
            raise OSError(28, "No space left on device")
    says(interrupted, "No space left", "untouched")
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]
    says(lambda: check_target(tmp_path), "is a folder")
    says(lambda: load_into(torch.nn.Linear(3, 2), load_tensors(path)[0], path), "do not fit")
    path.write_bytes(whole[:-4])
    says(lambda: load_tensors(path), "no whole safetensors")
    says(lambda: load_json(path.with_name("other")), "no file")
    torch.save({"model": torch.zeros(1000)}, tmp_path / "half.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "half.pt").read_bytes()[:2000])
    says(lambda: read_pickle(tmp_path / "half.pt"), "no whole PyTorch file")
    says(lambda: read_pickle(tmp_path / "none.pt"), "no file")


def test_prefetch_ends_with_its_loop():
    def until(step):
        if step == 3: raise KeyError(step)
        return step * step
    assert list(prefetch(lambda step: step, 3, 8)) == [3, 4, 5, 6, 7]
    seen, ahead = [], prefetch(until, 0, 9, depth=5)
    with pytest.raises(KeyError): seen.extend(value for value in ahead)
    assert list(ahead) == []
    says(lambda: prefetch(until, 0, 5, depth=0), "depth is 0")


WORKER = """
import os, signal, sys, torch
from lgm_nb.data.images import load_data
from lgm_nb.data.latents import extract_shards
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings
folder, writes = sys.argv[1], int(sys.argv[2])
def fsync(file):
    global writes
    writes -= 1
    if writes == 0: os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
torch.manual_seed(0)
torch.set_num_threads(1)
tokenizer = Tokenizer(TokenizerSettings(width=32)).eval()
some = load_data("fashion-small").train.subset(torch.arange(40))
extract_shards(tokenizer, some, folder, flips=True, shard_size=16, source="demo", quiet=True)
"""


def test_extraction_killed_while_it_writes(tmp_path):
    "Killed before its second shard is renamed, then started again: the same folder, byte for byte."
    def start(name, kill_at=0):
        return subprocess.run([sys.executable, "-c", WORKER, str(tmp_path / name),
                               str(kill_at)]).returncode
    assert start("killed", kill_at=2) == -signal.SIGKILL
    names = [p.name for p in (tmp_path / "killed").iterdir()]
    assert any(name.endswith(".part") for name in names) and shard_path("", 0).name in names
    assert start("killed") == start("whole") == 0
    both = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
            for name in ("killed", "whole")]
    assert both[0] == both[1] and len(both[0]) == 5


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "latents"
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerSettings(width=32)).eval()
    some = load_data("fashion-small").train.subset(torch.arange(40))
    options = dict(flips=True, shard_size=16, source="demo", quiet=True)
    for rank in range(5): extract_shards(tokenizer, some, folder, rank=rank, processes=5, **options)
    return folder, tokenizer, some, options


def test_memory_and_disk_agree(extracted):
    folder, tokenizer, *_ = extracted
    memory, disk = LatentSet.load(folder), ShardSet(folder)
    indices, flip = torch.randint(40, (30,)), torch.rand(30) < 0.5
    assert all(map(torch.equal, memory.batch(indices, flip), disk.batch(indices, flip)))
    exact = LatentStatistics.of(torch.cat([memory.z, memory.z_flip]))
    assert torch.allclose(exact.std, memory.statistics.std, rtol=1e-5)
    assert torch.equal(disk.pattern(8).labels, tokenizer.pattern(8).labels)


def test_sampling_needs_no_latents_folder(extracted, tmp_path):
    """A run whose latents are deleted, and the shipped weights without theirs, draw the same
    pictures.
    """
    folder = extracted[0]
    space = tmp_path / SPACE
    read_latents(folder.parent).save(space)
    again = read_latents(tmp_path)
    assert torch.equal(again.pattern(16).labels, ShardSet(folder).pattern(16).labels) and len(
        again) == 0
    says(lambda: again.pattern(0), "outside")
    shipped, moved = data_folder() / "weights", tmp_path / "moved"
    moved.mkdir()
    for name in ("settings.json", "tokenizer.safetensors", "generator.safetensors"):
        shutil.copy(shipped / name, moved)
    read_latents(shipped).save(moved / SPACE)
    noise = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0))
    draw = [load_weights(place).sample([3], 8, noise=noise, steps=2) for place in (shipped, moved)]
    assert torch.equal(*draw)
    save_tensors(space, dict(mean=torch.zeros(1)))
    says(lambda: LatentSpace.load(space), "lacks")


def test_faulty_folders_of_latents(extracted, tmp_path):
    folder, tokenizer, some, options = extracted
    broken = Tokenizer(TokenizerSettings(width=32))
    broken.encoder.to_latent.weight.data[:] = float("nan")
    def again(tokenizer=tokenizer, **changes):
        return lambda f: extract_shards(tokenizer, some, f, **options | changes)
    def relabel(f):
        tensors, facts = load_tensors(shard_path(f, 2))
        save_tensors(shard_path(f, 2), tensors, **facts | dict(source="other"))
    cases = ((shutil.rmtree, ShardSet, "no shard such as"),
             (lambda f: shard_path(f, 1).unlink(), ShardSet, "lacks"),
             (lambda f: shard_path(f, 2).unlink(), ShardSet, "32 of 40"),
             (lambda f: os.truncate(shard_path(f, 1), 5000), LatentSet.load, "no whole shard"),
             (lambda f: (f / "statistics.safetensors").unlink(), ShardSet, "no statistics"),
             (relabel, ShardSet, "does not belong"),
             (lambda f: None, again(source="other"), "something else"),
             (lambda f: None, again(shard_size=20), "shard_size 16, not 20"),
             (lambda f: None, again(rank=2, processes=2), "cannot be"),
             (lambda f: shard_path(f, 0).unlink(), again(broken), "NaN"))
    for i, (damage, call, words) in enumerate(cases):
        copy = Path(shutil.copytree(folder, tmp_path / str(i)))
        damage(copy)
        says(partial(call, copy), words)
