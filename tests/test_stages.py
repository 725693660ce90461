"""The three stages: two processes end with the weights of one, truncation goes the same way, wrong
inputs.
"""
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import PATIENCE

from lgm_nb.base.distributed import batch_slice
from lgm_nb.base.errors import UserError
from lgm_nb.base.files import load_tensors, save_json
from lgm_nb.data.images import load_data
from lgm_nb.data.latents import extract
from lgm_nb.flow import sample
from lgm_nb.generator import DiT, GeneratorSettings
from lgm_nb.losses.terms import paper_losses
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings
from lgm_nb.training.runs import Run
from lgm_nb.training.settings import (
    DataSettings,
    GeneratorTraining,
    Settings,
    TokenizerTraining,
    comparable,
)
from lgm_nb.training.stages import (
    check_stored,
    latent_stage,
    start_from,
    train_generator,
    train_tokenizer,
)
from lgm_nb.truncation import TruncationPattern

STEPS = dict(steps=20, warmup=10, lr=1e-4, optimiser="adamw")
TINY = Settings(device="cpu", precision="float32", save_seconds=1e9, data=DataSettings(limit=200),
                tokenizer=TokenizerSettings(width=32, latents="softvq", codewords=16),
                tokenizer_training=TokenizerTraining(batch_size=16, **STEPS),
                generator=GeneratorSettings(width=32, depth=2, heads=2),
                generator_training=GeneratorTraining(batch_size=16, **STEPS))
FULL = replace(
    TINY, data=DataSettings(flip=True, limit=64),
    tokenizer=TokenizerSettings(image_size=32, image_channels=3, patch=8, tokens=16, channels=8,
                                width=48, heads=3, tied=False, padding=0,
                                latents="softvq", layer_scale=1e-5, init_std=0.02),
    tokenizer_training=TokenizerTraining(batch_size=8, lengths=(4, 8, 16), length_weights=(1, 1, 1),
                                         **STEPS),
    losses=replace(paper_losses(), perceptual_ramp=16, adversarial_start=8, pretrained=False,
                   feature_model="test_vit",
                   discriminator_model="test_vit", discriminator_size=32,
                   discriminator_depths=(1, 3, 5), feature_width=24, feature_heads=1))
PROGRAM = """
import sys
from lgm_nb.training.stages import *
from lgm_nb.training.settings import from_plain
from lgm_nb.base.files import load_json
from lgm_nb.training.runs import Run
from lgm_nb.data.images import load_data
from lgm_nb.base.distributed import leave_group
from dataclasses import replace
for number, name in enumerate(sys.argv[1:3]):
    settings = replace(from_plain(load_json(name)), out=f"{sys.argv[3]}/{number}", device="cpu",
                       save_seconds=1e9)
    run, t = Run(settings), settings.tokenizer
    data = load_data(image_size=t.image_size, channels=t.image_channels, limit=settings.data.limit)
    tokenizer, _ = train_tokenizer(run, data)
    if number == 0: train_generator(run, latent_stage(run, tokenizer, data), data.train.classes)
leave_group()
"""


def test_two_processes_end_with_the_weights_of_one(tmp_path):
    """Tokenizer and generator of the laptop, then a tokenizer with every loss, its discriminator
    from step 8.
    """
    script, plain = tmp_path / "program.py", [str(tmp_path / name)
                                              for name in ("tiny.json", "full.json")]
    script.write_text(PROGRAM)
    for path, settings in zip(plain, (TINY, FULL)): save_json(path, comparable(settings))
    for name, launcher in (("one", []),
                           ("two", ["-m", "torch.distributed.run", "--nproc-per-node", "2"])):
        done = subprocess.run([sys.executable, *launcher, str(script), *plain,
                               str(tmp_path / name)], capture_output=True, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("0/tokenizer", "0/generator", "1/tokenizer"):
        one, two = (load_tensors(tmp_path / name / f"{stage}.safetensors")[0]
                    for name in ("one", "two"))
        assert max((one[n] - two[n]).abs().max().item() for n in one) < 1e-5, stage


def test_truncation_goes_the_same_way(tmp_path):
    "The noise of dropped tokens makes no difference, and that of the kept ones does."
    cut = replace(TINY, tokenizer=replace(TINY.tokenizer, shorten="truncate"),
                  tokenizer_training=replace(TINY.tokenizer_training, steps=6),
                  generator_training=replace(TINY.generator_training, steps=6),
                  out=tmp_path / "run").check()
    clothes, y, run = load_data("fashion-small", limit=200), torch.arange(3), Run(cut)
    tokenizer, _ = train_tokenizer(run, clothes)
    latents = latent_stage(run, tokenizer, clothes)
    generator, _ = train_generator(run, latents, clothes.train.classes)
    assert not list(tokenizer.merging.parameters()) and all(line["alignment"] == 0
                                                            for line in run.read_log("tokenizer"))
    noise, other = torch.randn(2, 3, 64, 8, generator=torch.Generator().manual_seed(0))
    for K in (32, 8):
        pattern = latents.pattern(K)
        assert isinstance(pattern,
                          TruncationPattern) and torch.equal(pattern.labels,
                                                             tokenizer.pattern(K).labels)

        def drawn(eps, pattern=pattern):
            return sample(generator, y, pattern, noise=eps, points=4, guidance=2.0)
        z = drawn(noise)
        with torch.no_grad():
            images = tokenizer.decode(pattern.unmerge(latents.statistics.restore(z)))
        assert z.shape == (3, K, 8) and images.shape == (3, 1, 28, 28) and images.isfinite().all()
        assert torch.equal(z, drawn(torch.cat([noise[:, :K], other[:, K:]], 1)))
        assert not torch.equal(z, drawn(torch.cat([other[:, :K], noise[:, K:]], 1)))


def test_wrong_inputs(tmp_path):
    extract(Tokenizer(TINY.tokenizer).eval(), load_data(limit=60).train, tmp_path / "latents")
    for wrong, said in ((lambda: batch_slice(TINY.generator_training.batch_size, 0, 3),
                         "does not divide into 3"),
                        (lambda: check_stored(tmp_path / "latents",
                                              replace(TINY, tokenizer=TokenizerSettings(
                                                  channels=16))), "takes 64 of 16"),
                        (lambda: start_from(DiT(), tmp_path / "nowhere", "generator"),
                         "is not there; give --init")):
        with pytest.raises(UserError, match=said): wrong()
