"The claims: every way to shorten a list, records that are never lost, words that are wrong."
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from lgm_nb.base.errors import UserError
from lgm_nb.claims import kept, measuring, plan, reading, verdicts, work
from lgm_nb.claims.trials import QUICK, Trial, trial_settings
from lgm_nb.data.latents import LatentSet
from lgm_nb.flow import merged_noise, sample
from lgm_nb.generator import DiT, GeneratorSettings
from lgm_nb.merging import MergePattern
from lgm_nb.strategies import pattern_of
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings
from lgm_nb.training.pipeline import load_images
from lgm_nb.training.settings import Settings, comparable

WAYS = ("merge", "truncate", "near", "random", "measured", "own")


@pytest.mark.parametrize("shorten", WAYS)
def test_every_way_to_shorten_trains_and_is_stored(shorten):
    torch.manual_seed(0)
    net = Tokenizer(TokenizerSettings(shorten=shorten, width=32)).train()
    x = torch.randn(4, 1, 28, 28)
    out = net(x, 16)
    (out.images.square().mean() + out.align_loss).backward()
    assert all(p.grad is not None for p in net.encoder.parameters())
    again = Tokenizer(TokenizerSettings(shorten=shorten, width=32))
    again.load_state_dict(net.state_dict())
    table = torch.from_numpy(net.eval().merging.all_labels())
    z = net.encode(x).detach()
    for K in (4, 16, 63, 64):
        stored, own = pattern_of(table[64 - K], 4), again.eval().pattern(K)
        assert stored.K == own.K == K
        assert torch.allclose(stored.project(z), own.project(z), atol=1e-5)
        assert torch.allclose(own.project(z), net.merging(z, K).z, atol=1e-5)
        assert stored.shorten(z).shape == (4, K, 8)


@pytest.mark.parametrize("shorten", WAYS)
@pytest.mark.parametrize("scale", ["merged", "unit", "unweighted", "shifted"])
def test_a_generator_draws_from_every_pattern(shorten, scale):
    net = Tokenizer(TokenizerSettings(shorten=shorten, width=32)).eval()
    model = DiT(settings=GeneratorSettings(width=32, depth=1, heads=2, merged_positions=False,
                                           count_sizes=False))
    z = sample(model, torch.tensor([0, 1]), net.pattern(16), points=3, noise_scale=scale)
    assert z.shape == (2, 16, 8) and z.isfinite().all()


def test_shifted_noise_is_as_strong_as_merged_noise():
    torch.manual_seed(0)
    noise, pattern = torch.randn(4000, 64, 2), MergePattern(torch.arange(64) // 4)
    power = {scale: merged_noise(noise, pattern, scale).square().mean().item()
             for scale in ("merged", "shifted", "unit")}
    assert power["merged"] == pytest.approx(0.25, rel=0.02)
    assert power["shifted"] == pytest.approx(power["merged"], rel=0.02)
    assert power["unit"] == pytest.approx(1, rel=0.02)


def test_old_fingerprints_stay():
    names = json.dumps(comparable(Settings()))
    assert "merged_positions" not in names and "count_sizes" not in names
    changed = replace(Settings(), generator=GeneratorSettings(count_sizes=False))
    assert comparable(changed) != comparable(Settings())


def test_shortest_is_the_first_that_reaches():
    torch.manual_seed(0)
    net, x = Tokenizer(TokenizerSettings(width=32)).eval(), torch.randn(6, 1, 28, 28).clamp(-1, 1)
    with torch.no_grad():
        quality = torch.stack([10 * torch.log10(4 / (net.reconstruct(x, K).clamp(-1, 1) - x)
                                                .square().flatten(1).mean(1))
                               for K in range(4, 65)], 1)
    wish = quality.median().item()
    found = net.shortest(x, wish)
    for row, K in zip(quality, found.tolist()):
        enough = torch.where(row >= wish)[0]
        assert K == (enough[0].item() + 4 if len(enough) else 0)


def test_a_record_is_kept_and_one_of_another_scale_is_not(tmp_path):
    data = load_images(trial_settings(Trial(), QUICK, tmp_path))
    first = kept.finish_record(Trial(), QUICK, tmp_path, tmp_path, data)
    assert kept.kept_record(Trial(), QUICK, tmp_path)["seed"] == first["seed"]
    with pytest.raises(UserError, match="another budget, and stays"):
        kept.finish_record(Trial(), replace(QUICK, steps=13), tmp_path, tmp_path, data)
    (tmp_path / f"{Trial().name}.json").unlink()
    again = kept.finish_record(Trial(), QUICK, tmp_path, tmp_path, data)
    assert again["lengths"][16]["psnr"] == first["lengths"][16]["psnr"]
    stored = LatentSet.load(tmp_path / Trial().name / "latents")
    assert len(stored) == len(data.train)


def test_names_tell_all_experiments_apart():
    everything = plan.trials_of()
    assert len({e.name for e in everything}) == len(everything)
    with pytest.raises(UserError, match="choose among joint"): plan.trials_of(["beauty"])


@pytest.mark.parametrize("words, said", [
    (["beauty"], "There is no claim 'beauty'"), (["--quick"], "folder of its own"),
    (["--seeds", "0"], "--seeds must be at least 1"),
    (["--jobs", "0"], "--jobs must be at least 1"),
])
def test_wrong_words_get_one_sentence(words, said, tmp_path):
    done = subprocess.run([sys.executable, "-m", "lgm_nb.claims", *words], capture_output=True,
                          text=True, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())


def test_everything_in_miniature_by_two_processes(tmp_path):
    words = [sys.executable, "-m", "lgm_nb.claims", "--quick", "--jobs", "2", "--out",
             str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = reading.records(tmp_path / "out")
    assert set(held) == {one.name for one in plan.trials_of((), 1)}
    assert any("pair" in r for r in held.values()) and any("drawing" in r for r in held.values())
    assert verdicts.headline_table(held).count("one seed") > 20
    again = subprocess.run(words, capture_output=True, text=True)
    assert "0 of them to be done" in again.stdout and work.ready(Trial(), QUICK, tmp_path)


def test_a_tokenizer_trained_otherwise_is_not_taken(tmp_path):
    data = load_images(trial_settings(Trial(), QUICK, tmp_path))
    measuring.trained_code(Trial(), QUICK, tmp_path, data)
    with pytest.raises(UserError, match="trained otherwise"):
        measuring.trained_code(Trial(), replace(QUICK, steps=13), tmp_path, data)
