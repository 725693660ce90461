"Launchers and job schedulers, stops, and what a run folder may meet; small networks."

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import standing
from conftest import PATIENCE, PROJECT, free_port
from PIL import Image

from lgm_nb import train
from lgm_nb.base.files import load_tensors
from lgm_nb.data.images import load_data

TINY = """
    --preset cifar10 --data.on-disk --data.crop 0.8 --data.limit 64 --device cpu
    --tokenizer.width 32 --tokenizer.heads 2 --tokenizer-training.optimiser adamw
    --tokenizer-training.lr 1e-4 --tokenizer-training.steps 24 --tokenizer-training.batch-size
    16 --tokenizer-training.warmup 10 --generator.width 32 --generator.depth 2 --generator.heads
    2 --generator-training.optimiser adamw --generator-training.lr 1e-4
    --generator-training.steps 20 --generator-training.batch-size 16 --generator-training.warmup
    10 --evaluation.lengths 64 16 --evaluation.images 8 --evaluation.samples 8
    --evaluation.points 3 --precision float32
""".split()
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(PROJECT),
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}
ACCELERATE = (
    "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--mixed_precision no --dynamo_backend no"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with images/train and images/val, of four classes; one grey JPEG of train is cut off."
    folder, clothes = tmp_path_factory.mktemp("launch"), load_data().train
    for label in (1, 5, 6, 8):
        pictures = clothes.images[clothes.labels == label][:202, 0].numpy()
        for part, chosen in (("train", pictures[:200]), ("val", pictures[200:])):
            home = folder / "images" / part / clothes.classes[label]
            home.mkdir(parents=True)
            for i, picture in enumerate(chosen):
                Image.fromarray(picture).save(home / f"{i:04}.JPEG")
    cut = folder / "images" / "train" / "Bag" / "0150.JPEG"
    cut.write_bytes(cut.read_bytes()[:300])
    return folder


def words(place, out, *more):
    return [*TINY, "--data.name", f"folder:{place / 'images'}", "--out", str(out), *map(str, more)]


@pytest.fixture
def here(place, capfd):
    "The command in this process: here(out, *words) -> (status, what it said)."

    def run(out, *more):
        capfd.readouterr()
        status = train.main(words(place, out, *more))
        return status, "".join(capfd.readouterr())

    return run


def started(place, launcher, out, *more):
    "The command under a launcher, to its end."
    command = [*shlex.split(launcher), "-m", "lgm_nb.train", *words(place, out, *more)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=PATIENCE)


def apart(a, b, stage):
    "Largest difference of any weight between two run folders."
    a, b = (load_tensors(folder / f"{stage}.safetensors")[0] for folder in (a, b))
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def one(place):
    "The run in one process, without evaluation."
    for stage in ("tokenizer", "latents", "generator"):
        assert not train.main(words(place, place / "one", "--stage", stage))
    return place / "one"


@pytest.fixture(scope="module")
def two(place):
    "(the whole run under torchrun in two processes, what it printed)."
    launcher = f"torchrun --nproc-per-node 2 --master-port {free_port()}"
    done = started(place, launcher, place / "torchrun")
    assert done.returncode == 0, done.stderr
    return place / "torchrun", done.stdout


def test_torchrun_gives_the_run_of_one_process(one, two):
    assert "2 processes" in two[1] and (two[0] / "metrics.json").exists()
    for stage in ("tokenizer", "generator"):
        assert apart(one, two[0], stage) < 1e-4


def test_accelerate_gives_the_run_of_one_process(place, one):
    done = started(
        place,
        f"{ACCELERATE} --main_process_port {free_port()}",
        place / "accelerate",
        "--stage",
        "tokenizer",
    )
    assert done.returncode == 0 and "2 processes" in done.stdout, done.stderr
    assert apart(one, place / "accelerate", "tokenizer") < 1e-4


def slurm_script(command, out):
    "The batch script of the chapter on clusters, with other words."
    cells = json.loads((PROJECT / "nbs" / "training" / "scale.ipynb").read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if "def slurm_script" in "".join(c["source"]))
    names = {}
    exec(source[source.index("def slurm_script") : source.index("script = ")], names)
    return names["slurm_script"](command, out)


SRUN = """for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & echo $! >> tasks; done
status=0; for task in $(cat tasks); do wait $task || status=$?; done; rm tasks; exit $status"""
SCONTROL = '[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> requeued'


@pytest.fixture(scope="module")
def job(place):
    "(start it, its run folder, a copy when stopped): Slurm played by scripts, SIGTERM midway."
    folder, out = place / "job", place / "slurm"
    (folder / "bin").mkdir(parents=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    slurm = dict(
        SLURM_NTASKS="2",
        SLURM_JOB_ID="1",
        SLURM_JOB_NODELIST="here",
        PATH=f"{folder / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}",
        STAND=json.dumps(dict(place=str(folder / "stands"), stage="tokenizer", step=5)),
    )

    def start(program="-m lgm_nb.train"):
        script = slurm_script(f"{program} {shlex.join(words(place, out))}", out)
        port = f"MASTER_PORT={free_port()}"
        (folder / "job.sh").write_text(re.sub("MASTER_PORT=[0-9]+", port, script))
        return subprocess.Popen(
            ["bash", "job.sh"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=ENVIRONMENT | slurm,
        )

    process = start(shlex.quote(standing.__file__))  # so that the signals come in time
    end = time.monotonic() + PATIENCE
    while len(list(folder.glob("stands.*"))) < 2:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.01)
    for task in (folder / "tasks").read_text().split():
        os.kill(int(task), signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0 and (folder / "requeued").read_text() == "requeue 1\n", said
    assert "the same command continues" in said
    shutil.copytree(out, place / "stopped")
    return start, out, place / "stopped"


def test_slurm_job_stops_and_goes_on_to_the_same_bits(job, two):
    start, out, _ = job
    second = start()
    said = second.communicate(timeout=PATIENCE)[0]
    assert second.returncode == 0 and (out / "metrics.json").exists(), said
    for stage in ("tokenizer", "generator"):
        assert apart(two[0], out, stage) == 0


def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run", next((tmp_path / "run").glob("tokenizer.step-*.pt"))


def test_damaged_state_of_two_processes_goes_on_in_one(job, two, here, tmp_path):
    out, good = copied(job[2], tmp_path)
    (out / good.name.replace("step-0", "step-1")).write_bytes(good.read_bytes()[:9999])
    status, said = here(out, "--stage", "tokenizer")
    assert not status and "left aside" in said
    assert apart(out, two[0], "tokenizer") < 1e-4


def test_full_disk_leaves_what_was_there(job, here, tmp_path):
    "A limit on the size of files plays the disk; afterwards the same command finishes."
    out, good = copied(job[2], tmp_path)
    kept, limits = good.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        status, said = here(out, "--stage", "tokenizer", "--save-seconds", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2 and "make room" in said and "Traceback" not in said
    assert good.read_bytes() == kept and not list(out.glob("*.part"))
    assert not here(out, "--stage", "tokenizer")[0] and (out / "tokenizer.safetensors").exists()


def test_latents_of_another_size_are_refused(one, here, tmp_path):
    out, eight = tmp_path / "eight", ("--tokenizer.channels", 8, "--stage")
    assert not here(out, *eight, "tokenizer")[0]
    shutil.copytree(one / "latents", out / "latents")
    status, said = here(out, *eight, "generator")
    assert status == 2 and "have 64 tokens of 16 channels, the generator takes 64 of 8" in said


def test_one_unreadable_picture_stops_nothing(here, tmp_path):
    out, everything = (
        tmp_path / "many",
        ("--data.limit", 10_000, "--tokenizer-training.steps", 1, "--stage"),
    )
    assert not here(out, *everything, "tokenizer")[0]
    status, said = here(out, *everything, "latents")
    skipped = [line for line in said.splitlines() if line.startswith("skipped")]
    assert not status and len(skipped) == 1 and "0150.JPEG" in skipped[0]
    assert len(load_tensors(next((out / "latents").glob("latents_rank*")))[0]["labels"]) == 800


def test_torchrun_passes_on_a_refusal(place):
    launcher = f"torchrun --nproc-per-node 2 --master-port {free_port()}"
    done = started(
        place, launcher, place / "odd", "--tokenizer-training.batch-size", 15, "--dry-run"
    )
    assert done.returncode == 1 and "error: A batch of 15 does not divide into 2" in done.stderr
