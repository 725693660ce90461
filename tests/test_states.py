"""Saved states, run folders and the loop on bad days: damage, malice, a full disk, wrong settings,
broken batches.
"""
import os
import resource
import signal
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from conftest import PATIENCE

from lgm_nb.base.errors import UserError
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings
from lgm_nb.training import watching
from lgm_nb.training.fitting import Stopped, fit
from lgm_nb.training.optimisers import make_optimisers, split_parameters
from lgm_nb.training.runs import Run, States, digest_of
from lgm_nb.training.settings import Settings, TokenizerTraining


class Malicious:
    def __reduce__(self): return os.system, ("echo this must never run > ran",)


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path): path.write_bytes(path.read_bytes()[:-100])


def malicious(path):
    "A hostile file under its true digest."
    torch.save(dict(step=30, weights=Malicious()), path)
    path.rename(f"{path.name[:-20]}.{digest_of(path)}.pt")


@pytest.mark.parametrize("harm", [flip, cut, malicious])
def test_a_damaged_state_gives_way_to_the_one_before(harm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    states = States(Path(), "tokenizer")
    assert states.load() is None
    for step in (10, 20, 30): states.save(step, weights=torch.full((4,), float(step)), seconds=1.5)
    assert len(states.paths()) == 2 and states.load()["step"] == 30
    harm(states.paths()[0])
    state = states.load()
    assert state["step"] == 20 and state["weights"].tolist() == [20.0] * 4 and not Path(
        "ran").exists()
    assert "was left aside" in capsys.readouterr().out
    # the damaged one is out of the way
    assert states.load()["step"] == 20 and len(states.paths()) == 1
    flip(states.paths()[0])
    with pytest.raises(UserError, match="delete these files"): states.load()
    states.clear()
    assert not list(Path().iterdir())


def test_full_disk_leaves_the_earlier_state(tmp_path):
    "A limit on the size of a file stands for the disk: what fails is a write in the middle."
    states = States(tmp_path, "tokenizer")
    states.save(1, weights=torch.zeros(1000))
    before = [(p.name, p.read_bytes()) for p in tmp_path.iterdir()]
    limits, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(
        signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, limits[1]))
    try:
        with pytest.raises(UserError, match="tokenizer.saving"):
            states.save(2, weights=torch.zeros(500_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert [(p.name, p.read_bytes())
            for p in tmp_path.iterdir()] == before and states.load()["step"] == 1


@pytest.mark.parametrize("wrong, said", [
    (dict(out="a", seed=5), "seed is 5 here and 0 there"),
    (dict(out="k", trackers=("paper",)), "tracker paper"),
    (dict(device="tpu"), "no device 'tpu'"), (dict(out="file/run"), "Could not write")])
def test_folders_that_cannot_be_opened(wrong, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run(Settings(out=Path("a"), device="cpu", seed=7))  # nothing was done with these settings,
    # so these take their place
    Run(Settings(out=Path("a"), device="cpu")).log("tokenizer", 0, {"loss": 1.0})
    Path("file").write_text("in the way")
    values = dict(device="cpu", out="r") | wrong
    with pytest.raises(UserError, match=said):
        Run(Settings(**values | dict(out=Path(values["out"]))))


def tiny_run(folder, stop_at=None, poison_at=None, seen=None, **others):
    "(weights, run) after 24 steps of a very small tokenizer on random images."
    tiny, training = TokenizerSettings(width=32, encoder_depth=1,
                                       decoder_depth=1), TokenizerTraining(steps=24, batch_size=8,
                                                                           warmup=4)
    run = Run(Settings(out=Path(folder), device="cpu", tokenizer=tiny, tokenizer_training=training,
                       **dict(precision="float32") | others).check())
    torch.manual_seed(0)
    net = Tokenizer(tiny)
    optimisers = make_optimisers(*split_parameters(net, lambda name: "blocks" in name), training)

    def terms(step, rows, network):
        if seen is not None: seen(step)
        if step == stop_at and rows.start == 0: os.kill(os.getpid(), signal.SIGINT)
        x = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(step))[rows]
        out = network(x, [4, 16, 64][step % 3])
        bad = torch.tensor(float("nan")) if step == poison_at else 0
        return {"reconstruction": (out.images - x).square().mean(),
                "alignment": 0.25 * out.align_loss + bad}
    fit(run, "tokenizer", net, optimisers, terms, lambda step: f"batch {step}", training)
    return net.state_dict(), run


@pytest.mark.parametrize("how", [{}, dict(precision="bf16", accumulate=2)])
def test_stopped_and_continued_is_bit_equal(how, tmp_path):
    straight, whole = tiny_run(tmp_path / "a", **how)
    with pytest.raises(Stopped, match="Stopped after step 11"):
        tiny_run(tmp_path / "b", stop_at=10, **how)
    continued, run = tiny_run(tmp_path / "b", **how)
    assert all(torch.equal(straight[name], continued[name]) for name in straight)
    # the mean of an interval outlives the stop
    assert run.read_log("tokenizer") == whole.read_log("tokenizer")


def test_training_goes_on_while_a_state_is_written(tmp_path, monkeypatch):
    """On a disk that takes eleven steps for the first state: it is that of its step. A disk that is
    full is told.
    """
    straight, _ = tiny_run(tmp_path / "a")
    save, begun, step_12 = States.save, [], Event()

    def slowly(states, step, **state):
        begun.append(step)
        if step > 1: return  # the first one stays on disk
        assert step_12.wait(PATIENCE), "training waits for the disk"
        save(states, step, **state)
    monkeypatch.setattr(States, "save", slowly)
    slow, _ = tiny_run(tmp_path / "b", save_seconds=1e-9,
                       seen=lambda step: step == 12 and step_12.set())
    assert all(torch.equal(straight[name], slow[name]) for name in straight)
    assert begun[0] == 1 and all(step > 12 for step in begun[1:])  # none was begun in between
    assert States(tmp_path / "b", "tokenizer").load()["step"] == 1
    monkeypatch.setattr(States, "save", save)
    continued, _ = tiny_run(tmp_path / "b", save_seconds=1e9)
    assert all(torch.equal(straight[name], continued[name]) for name in straight)

    def full(states, step, **state): raise UserError("no room; make room.")
    monkeypatch.setattr(States, "save", full)
    with pytest.raises(UserError, match="make room"): tiny_run(tmp_path / "c", save_seconds=1e-9)


def test_a_loss_that_is_no_number(tmp_path):
    with pytest.raises(UserError, match=r"alignment loss of the tokenizer became nan at step 5 "
                                        r"\(batch 5\)"):
        tiny_run(tmp_path, poison_at=5)
    assert States(tmp_path, "tokenizer").load()["step"] == 5


def test_a_batch_that_cannot_be_read(tmp_path):
    training, net = TokenizerTraining(steps=4), torch.nn.Linear(2, 1)

    def terms(step, rows, network):
        if step == 3: raise UserError("image 7 cannot be read; repair or remove it.")
        return {"sum": network(torch.ones(1, 2)).sum()}
    run = Run(Settings(out=tmp_path, device="cpu", tokenizer_training=training))
    with pytest.raises(UserError, match="image 7"):
        fit(run, "tokenizer", net, make_optimisers([], net.parameters(), training), terms, str,
            training)
    assert States(tmp_path, "tokenizer").load()["step"] == 3


def test_a_batch_that_cannot_be_read_ahead(tmp_path):
    "`ready` tells before the step begins; what was learned is saved."
    training, net = TokenizerTraining(steps=4), torch.nn.Linear(2, 1)
    def ready(step): return UserError("image 7 cannot be read.") if step == 3 else None
    def terms(step, rows, network): return {"sum": network(torch.ones(1, 2)).sum()}
    run = Run(Settings(out=tmp_path, device="cpu", tokenizer_training=training))
    with pytest.raises(UserError, match="image 7"):
        fit(run, "tokenizer", net, make_optimisers([], net.parameters(), training), terms, str,
            training, ready=ready)
    assert States(tmp_path, "tokenizer").load()["step"] == 3


def test_on_a_gpu_a_loss_is_looked_at_one_step_later(monkeypatch):
    "Played by numbers that say that they lie on a GPU, and come when they are asked for."
    asked = []

    class Far(torch.Tensor):
        is_cuda = True

    def later(values):
        def arrive():
            asked.append(len(asked))
            return values.as_subclass(torch.Tensor)
        return arrive
    monkeypatch.setattr(watching, "download", later)
    stack = torch.stack
    monkeypatch.setattr(watching.torch, "stack", lambda *a: stack(*a).as_subclass(Far))
    watch = watching.Watch(SimpleNamespace(folder=Path("nowhere")), "tokenizer", str)
    watch({"a": torch.tensor(1.0)}, 0)
    assert asked == []  # nothing waits for the step under way
    watch({"a": torch.tensor(float("inf"))}, 1)
    assert asked == [0] and watch.error is None
    with pytest.raises(UserError, match="a loss of the tokenizer became inf at step 1"):
        watch({"a": torch.tensor(1.0)}, 2)
    watch = watching.Watch(SimpleNamespace(folder=Path("nowhere")), "tokenizer", str)
    watch({"a": torch.tensor(float("nan"))}, 5)
    assert "became nan at step 5" in str(watch.trouble())  # before a state is saved
