"""One scorer: even over the classes, part by part, shared among processes, whose number changes no
result.
"""
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import PATIENCE, free_port

from lgm_nb.base.files import load_json
from lgm_nb.data.images import ImageData, load_data
from lgm_nb.evaluation import report, scorer
from lgm_nb.evaluation.extraction import FASHION_EXTRACTOR, Extractor
from lgm_nb.training.runs import Run
from lgm_nb.weights import load_weights

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained():
    return load_weights()


def sorted_by_class(images):
    "The set in the order in which folders are listed."
    return images.subset(images.labels.argsort(stable=True))


def test_sets_sorted_by_class_are_measured_evenly(trained, tmp_path):
    shipped, seen = load_data("fashion-small"), []
    data = ImageData(shipped.name, shipped.source,
                     *map(sorted_by_class, (shipped.train, shipped.test)))
    e = replace(trained.settings.evaluation, lengths=(4,), points=(2,), images=30, samples=70,
                batch_size=20)
    run = Run(replace(trained.settings, out=tmp_path / "run", device="cpu", evaluation=e))
    def few_of(self, count):
        found = whole(self, count)
        seen.append(found.labels.bincount().tolist())
        return found
    whole = scorer.FeatureSet.few
    with patch.object(report, "FEW", 60), patch.object(scorer.FeatureSet, "few", few_of), \
         patch.object(report, "save_pictures"):
        metrics, _ = report.evaluate(run, trained.tokenizer, trained.generator, trained.latents,
                                     data)
    assert seen == [[6] * 10] * 4 and {"frechet_60",
                                       "frechet_detail_60"} <= metrics["lengths"][4].keys()
    reference = report.reference_features(scorer.Job(*[None] * 4, Extractor(FASHION_EXTRACTOR), 20),
                                          data.test, 60)
    assert reference.labels.bincount().tolist() == [6] * 10


def test_never_more_than_a_part_at_once(trained):
    sizes, decode = [], trained.tokenizer.decode
    def counted(z):
        sizes.append(len(z))
        return decode(z)
    job = scorer.Job(trained.tokenizer, trained.generator, trained.latents, trained.settings, None,
                     8)
    load = load_data("fashion-small").test.images.__getitem__
    with patch.object(trained.tokenizer, "decode", counted):
        scorer.sample_parts(job, 4, scorer.Choice.of(trained.settings, 4, points=2), 20)
        scorer.reconstruction_scores(trained.tokenizer, load, 20, {4: trained.pattern(4)}, 8)
    assert sizes == [8, 8, 4] * 2


def test_lpips_sees_clamped_images(trained):
    reach = []
    def perceptual(a, b):
        reach.append(max(a.abs().max().item(), b.abs().max().item()))
        return torch.zeros(len(a), 1, 1, 1)
    bright = patch.object(trained.tokenizer,
                          "decode", lambda z: torch.full((len(z), 1, 28, 28), 1.7))
    with bright:
        found = scorer.reconstruction_scores(trained.tokenizer,
                                             load_data("fashion-small").test.images.__getitem__,
                                                      10, {4: trained.pattern(4)}, 10, None,
                                                      perceptual)
    assert reach == [1.0] and found[4]["lpips"].shape == (10,)


def test_a_run_with_unit_noise_is_sampled_with_it(trained):
    g = replace(trained.settings.generator_training, noise_scale="unit")
    unit, y, seen = replace(trained.settings, generator_training=g), torch.arange(2), []
    def sample(*_, noise_scale, noise, **__):
        seen.append(noise_scale)
        return torch.zeros(2, 4, 8)
    with patch.object(scorer, "sample", sample):
        for s in (trained.settings, unit):
            scorer.draw(trained.generator, trained.tokenizer, trained.latents, y, 4,
                        scorer.sampling_noise(2, s), s)
            job = scorer.Job(trained.tokenizer, trained.generator, trained.latents, s, None, 2)
            scorer.sample_parts(job, 4, scorer.Choice.of(s, 4), 2)
    assert seen == ["merged"] * 2 + ["unit"] * 2


def python(*words, processes=1):
    "Output of a command of the package, in so many processes; it must end with status 0."
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}",
                f"--master-port={free_port()}"] if processes > 1 else []
    done = subprocess.run([sys.executable, *launcher, "-m", *map(str, words)], capture_output=True,
                          text=True, timeout=PATIENCE,
                          cwd=PROJECT, env=os.environ
                          | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


SMALL = """
    --device cpu --data.limit 100 --tokenizer.width 32 --tokenizer.heads 2
    --tokenizer.encoder-depth 1 --tokenizer.decoder-depth 1 --tokenizer-training.steps 4
    --tokenizer-training.batch-size 8 --generator.width 32 --generator.depth 1 --generator.heads
    2 --generator-training.steps 4 --generator-training.batch-size 8 --evaluation.lengths 16 4
    --evaluation.points 3 --evaluation.images 50 --evaluation.samples 50
    --evaluation.guidance-samples 30 --evaluation.guidance-grid 1 2 --evaluation.points-grid 3
    --evaluation.batch-size 12 --precision float32
""".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "Folder of a small run, trained and measured by one process."
    out = tmp_path_factory.mktemp("alone") / "run"
    python("lgm_nb.train", "--out", out, *SMALL)
    return out


def test_two_processes_measure_a_run_as_one_does(run):
    alone = (run / "metrics.json").read_bytes()
    (run / "metrics.json").unlink()
    said = python("lgm_nb.train", "--out", run, "--stage", "evaluate", *SMALL, processes=2)
    assert (run / "metrics.json").read_bytes() == alone and said.count("Pictures: ") == 1
    python("lgm_nb.train", "--out", run, "--stage", "guidance", *SMALL)
    searched = (run / "guidance.json").read_bytes()
    said = python("lgm_nb.train", "--out", run, "--stage", "guidance", *SMALL, processes=2)
    assert (run / "guidance.json").read_bytes() == searched and said.count("Best: ") == 1


@pytest.mark.parametrize("words", [("reconstruct", "--no-lpips", "--images", 40),
                                   ("generate", "--samples", 40, "--points", 3),
                                   ("search", "--samples", 200, "--guidance", 1, 2, "--shift", 0.5,
                                    "--interval", 0.1, 1.0)])
def test_two_processes_make_the_numbers_of_one(words, tmp_path):
    for processes in (1, 2):
        said = python("lgm_nb.paper_numbers", words[0], "data/weights", *words[1:], "--out",
                      tmp_path / f"{processes}.json", "--lengths", 4,
                      "--data", "fashion-small", "--batch-size", 10, "--device", "cpu",
                      processes=processes)
        assert said.count("Best: " if words[0] == "search" else "K =   4: ") == 1
    one, two = (load_json(tmp_path / f"{processes}.json")["lengths"] for processes in (1, 2))
    for row in (one["4"], two["4"]):
        for name in ("seconds_per_image", "images_per_second", "processes"): row.pop(name, None)
    assert json.dumps(one) == json.dumps(two)
