"""Killed, stopped and damaged runs: the same command continues them, and they end with the very
same weights.
"""
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import standing
import torch
from conftest import PATIENCE, PROJECT, free_port

from lgm_nb.base.files import load_json, load_tensors
from lgm_nb.training.runs import Run, States, digest_of
from lgm_nb.training.settings import from_plain

FORKS = multiprocessing.get_context("forkserver")  # children start with everything imported
FORKS.set_forkserver_preload(["lgm_nb.train", "torch.distributed.run", "accelerate", "pytest",
                              "psutil"])
TINY = """
    --device cpu --data.limit 100 --tokenizer.width 32 --tokenizer.heads 2 --tokenizer.patch 8
    --tokenizer.tokens 16 --tokenizer.embedding-dim 8 --tokenizer-training.steps 24
    --tokenizer-training.batch-size 8 --tokenizer-training.lengths 4 8 16
    --tokenizer-training.length-weights 2 1 1 --generator.width 32 --generator.depth 2
    --generator.heads 2 --generator-training.steps 48 --generator-training.batch-size 16
    --generator-training.lengths 16 8 4 --evaluation.lengths 16 8 --precision float32
""".split()
JUDGED = """
    --losses.adversarial 0.4 --losses.adversarial-start 5 --losses.lecam 0.001
    --losses.consistency 1 --losses.no-pretrained --losses.discriminator-model test_vit
    --losses.discriminator-size 32 --losses.discriminator-depths 1 --tokenizer-training.ema 0.9
""".split()
LAST = dict(tokenizer=24, generator=48)


def command(out, stage="all", save_seconds=0, more=JUDGED):
    return ["--out", str(out), "--stage", stage, "--save-seconds", str(save_seconds), *TINY, *more]


def child(words, output, stands, launcher=None, **variables):
    """The real command (or a launcher of it) in a forked process, what it prints appended to a
    file; stands: the arguments of `stand`, or none.
    """
    os.environ.update(variables, STAND=json.dumps(stands), PYTHONPATH=str(PROJECT))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2): os.dup2(file, stream)
    torch.set_num_threads(1)
    from torch.distributed.run import main as torchrun

    from lgm_nb.train import main
    if launcher: sys.exit(torchrun([*launcher, standing.__file__, *words]))
    if stands: standing.stand(**stands)
    sys.exit(main(words))


def start(out, *how, stands=None, **more):
    "The command, begun; stands: where it stands still (`standing.stand`), or None."
    if stands: stands = dict(stands, place=f"{out}.stands")
    for old in out.parent.glob(f"{out.name}.stands.*"): old.unlink()
    process = FORKS.Process(target=child, kwargs=more,
                            args=(command(out, *how), out.with_suffix(".txt"), stands))
    process.start()
    return process


def until_it_stands(process, out, ranks=(0,)):
    places = [Path(f"{out}.stands.{rank}") for rank in ranks]
    wait_for(process, lambda: all(place.exists() for place in places))
    assert process.exitcode is None, out.with_suffix(".txt").read_text()


def ended(process):
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        pytest.fail("the command hangs")
    return process.exitcode


def run(out, *how):
    "(exit status, printed text) of one run of the command."
    out.with_suffix(".txt").unlink(missing_ok=True)
    return ended(start(out, *how)), out.with_suffix(".txt").read_text()


def finish(out):
    for stage in ("tokenizer", "generator"): assert run(out, stage)[0] == 0
    return out


def progress(out, stage):
    """Steps of a stage in the newest saved state; 0 at its beginning, -1 before, all when it is
    finished.
    """
    if (out / f"{stage}.safetensors").exists(): return LAST[stage]
    if states := States(out, stage).paths(): return int(states[0].name.split("-")[1][:9])
    return 0 if stage == "tokenizer" or (out / "tokenizer.safetensors").exists() else -1


def wait_for(process, condition):
    end = time.monotonic() + PATIENCE
    while process.exitcode is None and not condition():
        assert time.monotonic() < end, "the command hangs"
        time.sleep(0.0005)


def same(a, b):
    "Whether two folders hold the same weights, latents, statistics and patterns, bit for bit."
    def names(folder):
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.safetensors"))
    assert names(a) == names(b) and len(names(a)) >= 5
    for name in names(a):
        one, other = load_tensors(a / name)[0], load_tensors(b / name)[0]
        assert one.keys() == other.keys()
        for key in one: assert torch.equal(one[key], other[key]), f"{name}: {key}"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the fork server
    yield finish(tmp_path_factory.mktemp("whole") / "run")
    os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(
        OMP_NUM_THREADS=before)


@pytest.fixture(scope="module")
def killed(reference, tmp_path_factory):
    "(a run killed 20 times and finished, what each kill hit)."
    out, draw, hits = tmp_path_factory.mktemp("killed") / "run", random.Random(0), []
    def steps(stage, count):
        return sorted(draw.randrange(1, LAST[stage] * 2 // 3) for _ in range(count))
    plan = [("tokenizer", n) for n in [0, *steps("tokenizer", 8)]]
    plan += [("generator", n) for n in [0, 0, 0, *steps("generator", 8)]]
    for number, (stage, step) in enumerate(plan):
        reached = max(step, progress(out, stage) + 1)
        if step and number % 2:  # in the middle of writing
            process = start(out, stands=dict(stage=stage, step=reached, where="writing"))
            until_it_stands(process, out)
        else:  # at any moment of some steps, or of the beginning
            process = start(out, stands=dict(stage=stage, step=reached + 3))
            wait_for(process, lambda: progress(out, stage) >= (reached if step else 0))
            time.sleep(draw.uniform(0, 0.1))
        before = set(out.rglob("*.part"))
        process.kill()
        if ended(process) == -signal.SIGKILL:
            hits.append((stage, progress(out, stage), bool(before & set(out.rglob("*.part")))))
    return finish(out), hits


def test_twenty_kills_change_nothing(reference, killed):
    out, hits = killed
    assert len(hits) == 20
    for stage, last in LAST.items():
        assert any(hit == stage and 0 < step < last for hit, step, _ in hits)
        assert sum(hit == stage and writing for hit, _, writing in hits) >= 4
    same(out, reference)


def test_kills_while_a_thread_writes(reference, tmp_path):
    "States every hundredth of a second, written while training goes on, and four kills."
    out, draw = tmp_path / "run", random.Random(1)
    for stage, step in (("tokenizer", 3), ("tokenizer", 9), ("generator", 2), ("generator", 15)):
        process = start(out, "all", 0.01)
        wait_for(process, lambda stage=stage, step=step: progress(out, stage) >= step)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        ended(process)
    same(finish(out), reference)


def test_kills_change_nothing_in_half_precision(reference, tmp_path):
    half = [*JUDGED, "--precision", "bf16"]
    for step in (None, 4):
        out = tmp_path / f"run-{step}"
        if step:
            process = start(out, "tokenizer", 0, half, stands=dict(stage="tokenizer", step=step))
            until_it_stands(process, out)
            process.kill()
            ended(process)
            assert progress(out, "tokenizer") == step
        for stage in LAST: assert run(out, stage, 0, half)[0] == 0
        assert json.loads((out / "settings.json").read_text())["precision"] == "bf16"
    same(out, tmp_path / "run-None")


def test_kills_leave_no_rubbish(killed):
    wanted = (r"\.lock(-holder)?|(settings|environment)\.json|log\.jsonl|latents|"
              r"(latents/)?[a-z]\w+\.safetensors")
    files = [str(path.relative_to(killed[0])) for path in killed[0].rglob("*")]
    assert [name for name in files if not re.fullmatch(wanted, name)] == []


def test_rubbish_of_earlier_kills_goes(reference, tmp_path):
    "A kill between the weights and the removal of the states, and files half written, by hand."
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    (out / "generator.safetensors").unlink()
    rubbish = [out / name for name in (f"tokenizer.step-000000030.{16 * '0'}.pt",
                                       ".tokenizer.saving.7.part", "generator.saving",
                                       ".tokenizer.safetensors.7.part", ".settings.json.7.part",
                                       "latents/.statistics.safetensors.7.part",
                                       ".tmpa1B2c3", "latents/.tmpa1B2c3")]
    for path in rubbish: path.write_bytes(b"half")
    assert run(out, "generator")[0] == 0
    assert [path.name for path in rubbish if path.exists()] == []


def test_kill_while_the_folder_is_begun(reference, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(reference / "settings.json", out)
    assert run(out, "tokenizer")[0] == 0
    assert (out / "environment.json").exists()


def test_log_line_cut_short(reference, tmp_path):
    "By a full disk, or a machine that stopped; the next line follows on the same line."
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    (out / "generator.safetensors").unlink()
    with open(out / "log.jsonl", "a") as file: file.write('{"stage": "tokenizer", "st')
    assert run(out, "generator")[0] == 0
    opened = Run(replace(from_plain(load_json(out / "settings.json")), out=out, device="cpu"))
    assert [line["step"] for line in opened.read_log("generator")] == [0, 20, 40, 47]


def test_damaged_state_falls_back(reference, tmp_path):
    out = tmp_path / "run"
    process = start(out, stands=dict(stage="tokenizer", step=12))
    until_it_stands(process, out)
    process.kill()
    ended(process)
    newest, older = States(out, "tokenizer").paths()[:2]
    whole = bytearray(newest.read_bytes())
    whole[len(whole) // 2] ^= 1
    newest.write_bytes(whole)
    status, text = run(out, "tokenizer")
    assert status == 0
    assert (f"{newest} was left aside: its bytes do not give the digest in its name; continuing "
            f"from {older.name}." in text)
    same(finish(out), reference)


def test_polite_kill_saves_within_a_step(reference, tmp_path):
    out = tmp_path / "run"
    for stage, save_seconds, number, step in (("tokenizer", 0, signal.SIGTERM, 6),
                                              ("tokenizer", 3600, signal.SIGTERM, 21),
                                              ("generator", 0, signal.SIGINT, 6),
                                              ("generator", 3600, signal.SIGTERM, 21)):
        process = start(out, "all", save_seconds, stands=dict(stage=stage, step=step))
        until_it_stands(process, out)
        os.kill(process.pid, number)
        assert ended(process) == (0 if number == signal.SIGTERM else 130)
        assert progress(out, stage) == step + 1
        assert (f"Stopped after step {step + 1} of the {stage}; the same command continues."
                in out.with_suffix(".txt").read_text())
        if save_seconds: finish(out) if stage == "generator" else run(out, "tokenizer")
    same(out, reference)


def test_polite_kill_between_the_stages(reference, tmp_path):
    "While latents are extracted, for hours where there are many images."
    process = start(tmp_path / "run")
    wait_for(process, (tmp_path / "run" / "tokenizer.safetensors").exists)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 0
    same(finish(tmp_path / "run"), reference)


def test_second_polite_kill_is_no_interruption(reference, tmp_path):
    "A scheduler that signals every process of a job signals torchrun's workers twice."
    for seconds in (0.005, 0.02, 0.1):
        out = tmp_path / f"run{seconds}"
        process = start(out, "tokenizer", 3600, stands=dict(stage="tokenizer", step=2))
        until_it_stands(process, out)
        process.terminate()
        time.sleep(seconds)
        process.terminate()
        assert ended(process) == 0 and progress(out, "tokenizer") == 3


def finish_pair(out):
    "The run in two processes, given the variables that torchrun gives its workers."
    for stage in ("tokenizer", "generator"):
        port = str(free_port())
        pair = [start(out, stage, 0, [], RANK=n, LOCAL_RANK=n, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for n in "01"]
        assert [ended(process) for process in pair] == [0, 0]
    return out


def test_polite_kill_of_two_processes(reference, tmp_path):
    out, sentence = tmp_path / "run", lambda: re.findall("Stopped after step .*; the same command "
                                                         "continues.", out.with_suffix(
                                                             ".txt").read_text())
    # torchrun itself ends with 1 on SIGTERM
    for whom, ranks, stage, status in (("worker", [1], "tokenizer", 0),
                                       ("agent", [0, 1], "generator", 1)):
        agent = start(out, "all", 0, [], stands=dict(stage=stage, step=5, ranks=ranks),
                      launcher=["--nproc-per-node=2", f"--master-port={free_port()}"])
        until_it_stands(agent, out, ranks)
        workers = psutil.Process(agent.pid).children()
        assert len(workers) == 2
        second = next(w for w in workers if w.environ()["RANK"] == "1")
        second.terminate() if whom == "worker" else agent.terminate()
        assert ended(agent) == status, out.with_suffix(".txt").read_text()
        assert not any(w.is_running() for w in workers)
        assert progress(out, stage) == 6
        assert "Warning" not in out.with_suffix(".txt").read_text()
        assert sentence()[-1] == f"Stopped after step 6 of the {stage}; the same command continues."
    same(finish_pair(out), finish_pair(tmp_path / "whole"))


def stopped_pair(words, again, **variables):
    """Number 1 asks itself to stop, `again` once more when it has; 0 when nothing is left that may
    crash the end of the process.
    """
    os.environ.update(variables)
    import gc

    from torch.nn.parallel import DistributedDataParallel

    from lgm_nb.base.distributed import in_group, rank
    from lgm_nb.train import main
    from lgm_nb.training.fitting import Fit, StopSignal
    torch.set_num_threads(1)
    agree, leave = Fit.agree, StopSignal.__exit__
    def agree_and_ask(self, step, asked, ready):
        if step == 7 and rank() == 1: os.kill(os.getpid(), signal.SIGTERM)
        return agree(self, step, asked, ready)
    def leave_and_ask(self, *exception):
        leave(self, *exception)
        if again and rank() == 1: os.kill(os.getpid(), signal.SIGTERM)
    Fit.agree, StopSignal.__exit__ = agree_and_ask, leave_and_ask
    status = main(words)
    held = [o for o in gc.get_objects() if isinstance(o, DistributedDataParallel)]
    sys.exit(status or in_group() or len(held))


@pytest.mark.parametrize("again", [False, True])
def test_stopped_processes_part(tmp_path, again):
    "Where the group outlives a stop, or a wrapped network the group, the end may crash."
    words = command(tmp_path / "run", "tokenizer", 3600, [])
    group = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                 MASTER_PORT=str(free_port()))
    pair = [FORKS.Process(target=stopped_pair, args=(words, again),
                          kwargs=dict(group, RANK=n, LOCAL_RANK=n)) for n in "01"]
    for process in pair: process.start()
    assert [ended(process) for process in pair] == [0, 0]
    assert progress(tmp_path / "run", "tokenizer") == 8


def test_finished_run_asked_again_by_two_processes(reference, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    for name in ("metrics", "timing"): (out / f"{name}.json").write_text('{"lengths": {}}')
    pair = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(free_port()))
    workers = [start(out, "all", RANK=str(i), LOCAL_RANK=str(i), **pair) for i in range(2)]
    assert [ended(w) for w in workers] == [0, 0] and out.with_suffix(".txt").read_text().count(
        "is finished") == 1


class Evil:
    "A pickle that creates a file where it is loaded carelessly."
    def __init__(self, marker): self.marker = marker
    def __reduce__(self): return open, (str(self.marker), "w")


def test_pickles_that_run_code_are_refused(reference, tmp_path, capsys):
    from lgm_nb import release
    from lgm_nb.base.errors import UserError
    from lgm_nb.data.latents import ShardSet
    from lgm_nb.losses.pretrained import pretrained_vit
    from lgm_nb.release.interop import (
        load_authors_generator,
        load_authors_latents,
        load_authors_patterns,
    )
    marker, out, shards = tmp_path / "marker", tmp_path / "run", tmp_path / "shards"
    shutil.copytree(reference / "latents", shards)
    (shards / "statistics.safetensors").unlink()
    for zipped in (True, False):  # PyTorch's two file formats
        path = tmp_path / "test_vit.pt"
        torch.save(dict(model=dict(weight=Evil(marker)), mean=Evil(marker), step=5), path,
                   _use_new_zipfile_serialization=zipped)
        out.mkdir(exist_ok=True)
        state = out / f"tokenizer.step-000000005.{digest_of(path)}.pt"
        state.write_bytes(path.read_bytes())
        status, text = run(out, "tokenizer")
        assert status == 2 and str(state) in text and "Traceback" not in text
        state.unlink()
        (shards / "latents_stats.pt").write_bytes(path.read_bytes())
        assert release.main(["reconstruct", "--tokenizer", str(path), "--images", str(tmp_path),
                             "--out", str(tmp_path / "grid.png")]) == 2
        assert "was refused" in capsys.readouterr().err
        for load in (load_authors_generator,
                     load_authors_patterns, lambda p: load_authors_latents(
                         shards), lambda p: ShardSet(shards),
                     lambda p: pretrained_vit("test_vit", 32, weights_dir=tmp_path)):
            with pytest.raises(UserError, match="was refused"): load(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)                                 # the pickle does work
    assert marker.exists()
