"Wrong words, wrong folders, a training that diverges: `python -m lgm_nb.train` says one sentence."

import resource

import pytest
from PIL import Image

from lgm_nb import train

SMALL = (
    "--device",
    "cpu",
    "--data.limit",
    400,
    "--tokenizer.width",
    32,
    "--tokenizer-training.steps",
    12,
    "--tokenizer-training.warmup",
    1,
)


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    "command(*words) -> (status, all that it says), in an empty folder."
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        try:
            status = train.main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return status, " ".join("".join(capsys.readouterr()).split())

    return run


@pytest.mark.parametrize(
    "words, said",
    [
        ("--tokenizer.chanels 4", "--tokenizer.channels"),
        ("--preset fasion", "There is no preset 'fasion'; choose among"),
        ("--init nowhere", "nowhere/settings.json"),
        ("--tokenizer.patch 5", "choose a patch among"),
        ("--tokenizer.padding 34875243911503", "choose a patch among"),  # at once
        ("--tokenizer.blocks 34875243911503", "blocks; choose"),
        ("--tokenizer.tokens 62", "one for each of the 64 patches, not 62"),
        ("--evaluation.lengths 64 2", "4..64"),
        ("--device tpu", "tpu"),
        ("--data.name folder:nowhere", "nowhere"),
        ("--data.name folder:empty", "empty"),
        ("--data.name folder:one", "two"),
    ],
)
def test_wrong_words(command, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "shirts").mkdir(parents=True)
    for i in range(3):
        Image.new("L", (28, 28), 80 * i).save(tmp_path / "one" / "shirts" / f"{i}.png")
    status, text = command(*words.split(), "--out", "run")
    assert status == 2 and said in text and "Traceback" not in text


def test_another_run_is_not_written_over(command, tmp_path):
    assert not command(*SMALL, "--stage", "tokenizer", "--out", "run")[0]
    before = (tmp_path / "run" / "tokenizer.safetensors").read_bytes()
    status, text = command(*SMALL, "--stage", "tokenizer", "--out", "run", "--seed", 9)
    assert status == 2 and "run was made with other settings (seed is 9 here and 0 there)" in text
    status, text = command("--init", "run", "--tokenizer.width", 64, "--out", "new")
    assert status == 2 and "error" in text
    assert (tmp_path / "run" / "tokenizer.safetensors").read_bytes() == before


def test_files_that_are_no_weights(command, tmp_path):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "tokenizer.safetensors").write_bytes(b"not weights at all")
    status, text = command(*SMALL, "--out", "wrong")
    assert status == 2 and "wrong/tokenizer.safetensors" in text and "Traceback" not in text


def test_a_training_that_diverges(command):
    rates = ("--tokenizer-training.lr", "1e30", "--tokenizer-training.matrix-lr", "1e30")
    status, text = command(*SMALL, *rates, "--out", "nan")
    assert status == 2 and "lower --tokenizer-training.lr" in text and "Traceback" not in text


def test_disk_that_fills_up(command, tmp_path):
    "A limit on the size of files plays the disk; with room, the same command finishes."
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        status, text = command(*SMALL, "--out", "full", "--stage", "tokenizer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2 and "room" in text and not list((tmp_path / "full").glob("*.part"))
    assert not command(*SMALL, "--out", "full", "--stage", "tokenizer")[0]
    assert (tmp_path / "full" / "tokenizer.safetensors").exists()


def test_plan(command):
    status, text = command("--dry-run")
    assert not status and "GFLOPs" in text
