"""The paper's preset on 40 pictures: every stage and every loss, with small networks of random
weights.

Two runs: pictures of 256 pixels in float32, and pictures of 32 pixels, cut into as many patches, in
the preset's bf16. Processors without bf16 imitate it many times slower, and LPIPS' network at 256
pixels would then take far too long.
"""
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import PATIENCE
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from lgm_nb.base.files import load_json, load_tensors
from lgm_nb.training.fitting import backward
from lgm_nb.training.runs import Run
from lgm_nb.training.settings import from_plain

PROJECT = Path(__file__).parents[1]
SMALL = """
    --device cpu --save-seconds 0 --tokenizer.width 48 --tokenizer.encoder-depth 2
    --tokenizer.decoder-depth 2 --tokenizer.heads 3 --tokenizer.codewords 64
    --tokenizer.embedding-dim 16 --tokenizer-training.steps 4 --tokenizer-training.batch-size 2
    --tokenizer-training.encoder-start= --tokenizer-training.warmup 2 --generator.size custom
    --generator.width 64 --generator.depth 2 --generator.heads 2 --generator-training.steps 6
    --generator-training.batch-size 4 --losses.no-pretrained --losses.feature-model test_vit
    --losses.feature-depth 1 --losses.feature-width 48 --losses.discriminator-model test_vit
    --losses.discriminator-size 32 --losses.discriminator-depths 1 3 5
    --losses.adversarial-start 3 --evaluation.images 4 --evaluation.samples 4
    --evaluation.points 3 --evaluation.batch-size 4
""".split()
WHOLE = ("--precision", "float32")
HALF = ("--tokenizer.image-size", "32", "--tokenizer.patch", "2")
LOSSES = {"reconstruction", "perceptual", "alignment", "latents", "adversarial", "features",
          "discriminator", "lecam", "consistency"}


def python(*words, timeout=PATIENCE):
    "Output of a real command of the package; it must end with status 0."
    done = subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True,
                          timeout=timeout, cwd=PROJECT,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    "40 JPEGs of 4 classes in train/ and val/, from 300 x 260 pixels up, one of them grey."
    folder, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i in range(40):
        part, kind = "val" if i >= 32 else "train", "abcd"[i % 4]
        coarse = Image.fromarray(draw.integers(0, 256, (6 + i % 4, 8, 3), np.uint8))
        picture = coarse.resize((300 + 10 * (i % 7), 260 + 15 * (i % 5)), Image.Resampling.BICUBIC)
        (folder / part / kind).mkdir(parents=True, exist_ok=True)
        (picture.convert("L") if i == 5 else picture).save(folder / part / kind / f"{i}.jpg")
    return folder


def train(photographs, out, *more):
    "(run folder, printed text) of the whole command."
    return out, python("lgm_nb.train", "--preset", "imagenet256", "--data.name",
                       f"folder:{photographs}", "--out", out, *SMALL, *more)


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory):
    "The run at 256 pixels, in float32."
    return train(photographs, tmp_path_factory.mktemp("full") / "run", *WHOLE)


@pytest.fixture(scope="module")
def half(photographs, tmp_path_factory):
    "The run in bf16, at 32 pixels."
    return train(photographs, tmp_path_factory.mktemp("half") / "run", *HALF)


@pytest.mark.parametrize("run", ["finished", "half"])
def test_every_loss_speaks(run, request):
    lines = [json.loads(line)
             for line in (request.getfixturevalue(run)[0] / "log.jsonl").read_text().splitlines()]
    seen = {stage: {name: value for line in lines if line["stage"] == stage
                    for name, value in line.items() if name not in ("stage", "step")}
            for stage in ("tokenizer", "generator")}
    assert seen["tokenizer"].keys() == LOSSES
    # the discriminator begins later
    assert lines[0].keys() & LOSSES == {"reconstruction", "perceptual", "alignment", "latents",
                                        "features"}
    assert seen["generator"] and all(name.startswith("velocity at K = ")
                                     for name in seen["generator"])
    for line in lines:
        assert all(math.isfinite(value) for name, value in line.items() if name != "stage")
    assert all(seen["tokenizer"][name] != 0 for name in LOSSES)


def test_latents_on_disk_with_flips(finished):
    tensors, facts = load_tensors(finished[0] / "latents" / "latents_rank00_shard000.safetensors")
    assert tensors["latents"].shape == tensors["latents_flip"].shape == (
        32, 256, 32) and not torch.equal(tensors["latents"], tensors["latents_flip"])
    assert facts["images"] == 32 and facts["flips"]
    assert load_tensors(finished[0] / "latents" / "patterns.safetensors")[0]["labels"].shape == (
        253, 256)


def test_results_are_written(finished):
    out, text = finished
    settings, metrics = from_plain(load_json(out / "settings.json")), load_json(
        out / "metrics.json")
    assert (settings.precision == "float32" and settings.tokenizer.tokens
            == settings.tokenizer.image_size == 256)
    assert list(metrics["lengths"]) == ["256", "128", "64",
                                        "32"] and all(math.isfinite(row["psnr"])
                                                      for row in metrics["lengths"].values())
    for name in ("samples", "reconstructions", "curves"):
        with Image.open(out / f"{name}.png") as picture: assert min(picture.size) > 100
    assert not list(out.rglob("*.part")) and not list(out.glob("*.pt"))
    assert {(out / name).stat().st_mode for name in ("tokenizer.safetensors",
                                                     "generator.safetensors")} == {
                                                         (out / "metrics.json").stat().st_mode}
    assert "32 train / 8 test" in text


def test_training_computes_in_bf16(half):
    settings = replace(from_plain(load_json(half[0] / "settings.json")), out=half[0], device="cpu")
    assert settings.precision == "bf16" and settings.tokenizer.tokens == 256
    for stage in ("tokenizer", "generator"):                             # weights stay in float32
        assert {t.dtype for t in load_tensors(half[0] / f"{stage}.safetensors")[0].values()
                if t.is_floating_point()} == {torch.float32}
    layer, seen = torch.nn.Linear(4, 4), []
    def terms(step, rows, network):
        seen.append(network(torch.ones(2, 4)))
        return {"sum": seen[0].float().sum()}
    backward(Run(settings), "tokenizer", layer, terms, str, 0, settings.tokenizer_training)
    assert seen[0].dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    "A file with Inception's weights, drawn at random."
    path, network = tmp_path_factory.mktemp(
        "inception") / "random.pth", FeatureExtractorInceptionV3.__new__(
            FeatureExtractorInceptionV3)
    torch.manual_seed(0)
    with patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
               return_value={}), \
         patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network.__init__("random", ["2048"])
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("name, more, scores",
                         [("reconstruct", ("--images", 10, "--no-lpips"), ("psnr", "ssim", "rfid")),
                                                ("generate", ("--samples", 20, "--points", 3),
                                                 ("fid", "sfid", "inception_score", "precision",
                                                  "recall"))])
def test_numbers_of_papers(finished, photographs, inception, tmp_path, name, more, scores):
    text = python("lgm_nb.paper_numbers", name, finished[0], "--out", tmp_path / "numbers.json",
                  "--lengths", 32, "--batch-size", 10,
                  "--device", "cpu", "--data", f"folder:{photographs}/train", "--extractor-weights",
                  inception, *more)
    row = load_json(tmp_path / "numbers.json")["lengths"]["32"]
    assert all(math.isfinite(row[score]) for score in scores) and "K =  32" in text


def test_plan(tmp_path):
    text = python("lgm_nb.train", "--preset", "imagenet256", "--device", "cpu", "--out",
                  tmp_path / "run", "--dry-run")
    assert ("\ntokenizer\n" in text and "\ngenerator\n" in text
            and "1,281,167 training images" in text)
    assert text.count("GFLOPs per training "
                      "step") == text.count("hours here, roughly") == 2 and not (
                          tmp_path / "run").exists()
