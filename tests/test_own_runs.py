"""Anybody's runs in the explorers, the page and the film: any size, number of classes and kind of
tokens, with whatever the run has. The runs are folders of untrained networks, made in a moment."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgm_nb.base.files import save_json, save_tensors
from lgm_nb.data.latent_space import SPACE, LatentSpace, LatentStatistics
from lgm_nb.explore import (
    AlignmentExplorer,
    GroupsExplorer,
    QualityExplorer,
    ReconstructionExplorer,
    SampleExplorer,
    page,
)
from lgm_nb.explore.own import pictures_of, psnr_of_lengths, unmeasured
from lgm_nb.generator import DiT, GeneratorSettings
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings
from lgm_nb.training.settings import DataSettings, EvaluationSettings, Settings, comparable
from lgm_nb.weights import load_weights

PROJECT = Path(__file__).parents[1]
EXPLORERS = (GroupsExplorer, ReconstructionExplorer, AlignmentExplorer, SampleExplorer,
             QualityExplorer)
SMALL = dict(width=16, encoder_depth=1, decoder_depth=1, heads=2, embedding_dim=8, channels=4,
             codewords=8)
COLOUR = dict(image_channels=3, image_size=32, padding=0)
KINDS = {
    "grey": (2, dict()),
    "colour": (3, COLOUR),
    "64 pixels": (2, COLOUR | dict(image_size=64, patch=8)),
    "120 pixels": (2, COLOUR | dict(image_size=116, padding=2, patch=15)),
    "one length": (2, dict(blocks=64)),
    "one length, free": (2, COLOUR | dict(tied=False, tokens=16, blocks=16)),
    "free": (2, COLOUR | dict(tied=False, tokens=48, blocks=4)),
    "blocks": (2, COLOUR | dict(tied=False, tokens=32, blocks=16)),
    "sphere": (2, COLOUR | dict(latents="sphere")),
    "softvq": (2, COLOUR | dict(latents="softvq")),
    "256 tokens": (2, COLOUR | dict(image_size=64, tokens=256, tied=False)),
    "long names": (120, COLOUR | dict(tokens=16, patch=8)),
    "truncates": (2, COLOUR | dict(tokens=16, patch=8, shorten="truncate")),
}
NAMES = {0: "$1_$5", 1: "<b>" + "long " * 40, 2: "猫"}


def draw_pictures(folder, classes, count=12, size=36):
    "Coloured pictures, one folder a class; returns the folder."
    random = np.random.default_rng(0)
    for c in range(classes):
        place = folder / NAMES.get(c, f"{c:03d}")
        place.mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def make_run(folder, pictures, classes, **sizes):
    "The folder of a finished run without measurements, its networks untrained."
    torch.manual_seed(0)
    s = Settings(data=DataSettings(f"folder:{pictures}"),
                 tokenizer=TokenizerSettings(**SMALL | sizes),
                 generator=GeneratorSettings(width=16, depth=1, heads=2),
                 evaluation=EvaluationSettings(points=(3,), guidance=(2.0,)))
    net = Tokenizer(s.tokenizer).eval()
    t = s.tokenizer
    one = torch.ones(1, 1, t.channels)
    space = LatentSpace(LatentStatistics(0 * one, one), torch.as_tensor(net.merging.all_labels()))
    save_tensors(folder / "tokenizer.safetensors", net.state_dict())
    generator = DiT(t.tokens, t.channels, classes, s.generator)
    save_tensors(folder / "generator.safetensors", generator.state_dict())
    space.save(folder / SPACE)
    save_json(folder / "settings.json", comparable(s))
    return folder


def run_of(tmp_path, kind):
    "The folder of a run of one of `KINDS`; its pictures lie beside it."
    classes, sizes = KINDS[kind]
    pictures = draw_pictures(tmp_path / "pictures", classes, 12 if classes < 9 else 2)
    return make_run(tmp_path / "run", pictures, classes, **sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_explorers(tmp_path, kind):
    trained = load_weights(run_of(tmp_path, kind))
    for explorer in EXPLORERS:
        shown = explorer(trained)
        for K in {trained.lengths[0], trained.lengths[-1], trained.lengths[len(trained.lengths) // 3]}:
            shown.count.slider.value = K
            assert f'data-k="{K}"' in shown.picture.value and not shown.message.value
            assert "nan" not in re.sub('"data:[^"]*"', "", shown.picture.value)
        if hasattr(shown, "chosen"):
            for _, value in shown.chosen.options[-2:]:
                shown.chosen.value = value
                assert not shown.message.value
        assert "<b>long" not in shown.picture.value
    assert "--stage evaluate" in unmeasured(trained)
    curves, count = psnr_of_lengths(trained, pictures_of(trained).test)
    assert count > 1 and [list(curve) for curve in curves.values()] == [list(trained.lengths)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "truncates"])
def test_page_and_film(tmp_path, kind, capsys):
    run = run_of(tmp_path, kind)
    targets = dict(html=tmp_path / "new" / "a.html", animation=tmp_path / "new" / "a.gif")
    page.explore(**targets, weights=run)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Quality against compute is left out")     # before the work
    html = targets["html"].read_text(encoding="utf-8")
    packed = html.split('id="data">')[1].split("</script>")[0]
    facts = json.loads(packed, parse_constant=lambda what: pytest.fail(what))
    trained = load_weights(run)
    assert {facts["lengths"][0], facts["lengths"][-1]} == {trained.lengths[0], trained.lengths[-1]}
    assert len(html) < 8_000_000 and targets["animation"].stat().st_size < 1_000_000
