"""Anybody's runs in the explorers, the page and the film: any size, number of classes and kind of
tokens, with whatever the run has. The runs are folders of untrained networks, made in a moment."""
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgm_nb.base.errors import UserError
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
from lgm_nb.explore.pictures import read_upload
from lgm_nb.explore.uploads import LIMIT, upload_guard
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
NOW = datetime.now()
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


@pytest.fixture(autouse=True)
def no_event_loop(monkeypatch):
    "As in plain Python, where samples are drawn at once; the browser of other tests has a loop."
    def none(): raise RuntimeError("no running event loop")
    monkeypatch.setattr("asyncio.get_running_loop", none)


@pytest.mark.parametrize("kind", KINDS)
def test_explorers(tmp_path, kind):
    trained = load_weights(run_of(tmp_path, kind))
    lengths = trained.lengths
    for explorer in EXPLORERS:
        shown = explorer(trained)
        for K in {lengths[0], lengths[-1], lengths[len(lengths) // 3]}:
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
    page.explore(**targets, run=run)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Quality against compute is left out")     # before the work
    html = targets["html"].read_text(encoding="utf-8")
    packed = html.split('id="data">')[1].split("</script>")[0]
    facts = json.loads(packed, parse_constant=lambda what: pytest.fail(what))
    trained = load_weights(run)
    assert {facts["lengths"][0], facts["lengths"][-1]} == {trained.lengths[0], trained.lengths[-1]}
    assert len(html) < 12_000_000 and targets["animation"].stat().st_size < 1_000_000


def test_pictures_are_found_where_they_lie_now(tmp_path, monkeypatch):
    "A relative path from elsewhere, a moved folder, and one that is gone: explorers, page, Python."
    pictures = draw_pictures(tmp_path / "pictures", 2)
    run = make_run(tmp_path / "runs" / "mine", "pictures", 2, **COLOUR)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert len(pictures_of(load_weights(run)).test) == 2
    pictures.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="There is no folder pictures.*--data PATH"):
        GroupsExplorer(load_weights(run))
    page_file = tmp_path / "a.html"
    with pytest.raises(UserError, match="--data PATH"): page.explore(html=page_file, run=run)
    assert not page_file.exists()
    for explorer in (SampleExplorer, QualityExplorer):       # these need no pictures
        assert not explorer(load_weights(run)).message.value
    for given in (tmp_path / "moved", f"folder:{tmp_path / 'moved'}", Path("../moved")):
        assert not GroupsExplorer(load_weights(run, data=given)).message.value
    monkeypatch.setenv("HOME", str(tmp_path))
    page.explore(html=Path("~/a.html"), run=Path("~/runs/mine"), data=Path("~/moved"))
    assert page_file.exists() and list(elsewhere.iterdir()) == []
    with pytest.raises(UserError, match="There is no folder"):
        pictures_of(load_weights(run, data=tmp_path / "nowhere"))
    draw_pictures(tmp_path / "other", 3)
    with pytest.raises(UserError, match="3 classes, and the run learned 2"):
        pictures_of(load_weights(run, data=tmp_path / "other"))


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_class_without_a_readable_test_image(tmp_path, on_disk):
    for part, count in (("train", 60), ("val", 20)):
        draw_pictures(tmp_path / "pictures" / part, 2, count)
    val = sorted((tmp_path / "pictures" / "val").iterdir())[1]
    for file in sorted(val.iterdir())[1:]: file.unlink()
    last = next(val.iterdir())
    last.write_bytes(last.read_bytes()[:200])
    run = make_run(tmp_path / "run", tmp_path / "pictures", 2, **COLOUR)
    stored = json.loads((run / "settings.json").read_text())
    stored["data"]["on_disk"] = on_disk
    save_json(run / "settings.json", stored)
    trained = load_weights(run)
    for explorer in (GroupsExplorer, ReconstructionExplorer, SampleExplorer):
        shown = explorer(trained)
        shown.chosen.value = 0
        before, shown.chosen.value = shown.picture.value, 1
        assert shown.picture.value != before and not shown.message.value
        assert "(training)" in shown.chosen.label or explorer is SampleExplorer
    page.explore(html=tmp_path / "a.html", animation=tmp_path / "a.gif", run=run)


def test_too_few_pictures_for_neighbours(tmp_path, capsys):
    run = make_run(tmp_path / "run", draw_pictures(tmp_path / "pictures", 2, 5), 2, **COLOUR)
    assert "give 3 or more" in AlignmentExplorer(load_weights(run)).picture.value
    page.explore(html=tmp_path / "a.html", run=run)
    assert "Alignment is left out: it needs 3" in capsys.readouterr().out
    assert 'aria-labelledby="h3" hidden>' in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_measurements_in_part_and_damaged(tmp_path):
    run = run_of(tmp_path, "colour")
    rows = {"64": dict(frechet=3.0, gflops_per_image=1.0, rfd=float("nan")),
            "16": dict(frechet=5.0, gflops_per_image=0.3), "4": dict(psnr=3.0)}
    save_json(run / "metrics.json", dict(data="images in /a, b, 5 train / 2 test", lengths=rows))
    trained = load_weights(run)
    quality = QualityExplorer(trained)
    assert list(quality.quality.rows["merging"]) == [64, 16] and len(quality.features.options) == 1
    page.explore(html=tmp_path / "a.html", run=run)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    facts = text.split('id="data">')[1].split("</script>")[0]
    assert "Training data: images, 5 train / 2 test." in text and "NaN" not in facts
    assert [curve["y"] for curve in json.loads(facts)["quality"][0]["curves"]] == [[5.0, 3.0]]
    for damaged in ("[]", "{", '{"lengths": 3}', '{"lengths": {"a": {}}}'):
        (run / "metrics.json").write_text(damaged)
        with pytest.raises(UserError, match="metrics.json"): QualityExplorer(trained)
        with pytest.raises(UserError, match="metrics.json"):
            page.explore(html=tmp_path / "b.html", run=run)


def test_a_run_without_a_generator_is_a_sentence(tmp_path):
    run = run_of(tmp_path, "grey")
    (run / "generator.safetensors").unlink()
    with pytest.raises(UserError, match="--stage generator"): load_weights(run)
    shutil.rmtree(run)
    with pytest.raises(UserError, match="no trained weights"): load_weights(run)


def picture(form="png", size=(40, 30)):
    "The bytes of an image file."
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format=form)
    return buffer.getvalue()


def test_the_same_upload_twice_and_several():
    shown = ReconstructionExplorer()
    for _ in range(2):
        shown.choose()
        assert not shown.message.value
        before = shown.picture.value
        take(shown, picture())
        assert "Your picture" in shown.message.value and shown.picture.value != before
        assert shown.upload.value == ()
    take(shown, picture(), b"%PDF-1.7", picture("bmp"))
    assert shown.message.value.count("Your picture") == 2 and "1.jpg: " in shown.message.value
    take(shown, *[picture()] * 11)
    assert "3 more files were left out" in shown.message.value and len(shown.strip.x) == 8


def take(explorer, *contents):
    "Upload files with these contents."
    explorer.upload.value = tuple(
        dict(name=f"{i}.jpg", type="", size=len(content), content=content, last_modified=NOW)
        for i, content in enumerate(contents))


def bomb(width, height):
    "A PNG that says it has so many pixels, and has none."
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(
            ">I", zlib.crc32(name + body))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("content, said", [
    (b"", "empty"), (b"words", "not an image"), (b"<svg xmlns='a'/>", "SVG"), (b"%PDF-1.7", "PDF"),
    (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"), (bomb(60000, 60000), "too many pixels"),
    (bomb(9000, 9000), "81 million"), (picture()[:60], "damaged"), (bomb(20, 20), "damaged"),
    (picture(size=(4, 90)), "4 x 90")])
def test_what_is_no_picture_is_a_sentence(content, said):
    with pytest.raises(UserError, match=said): read_upload(content, 28, 1)


def test_damaged_uploads_are_sentences():
    "Pictures with bytes changed, cut and added."
    random = np.random.default_rng(0)
    for form in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
        whole = picture(form)
        for _ in range(40):
            content = bytearray(whole)
            for place in random.integers(0, min(80, len(content)), 3): content[place] ^= 0xFF
            content = bytes(content[:random.integers(1, len(content) + 1)])
            try: assert read_upload(content, 28, 3)[0].shape == (1, 3, 28, 28)
            except UserError as error: assert "\n" not in str(error)


def test_the_limit_stands_beside_the_button():
    guard = upload_guard()
    assert f"at most {LIMIT // 1_000_000} MB" in guard and str(LIMIT) in guard
    assert LIMIT < 10 * 2 ** 20 and guard.count("<img") == 1


def test_nothing_is_written_into_the_package_or_here(tmp_path):
    run = run_of(tmp_path, "colour")
    here = tmp_path / "here"
    here.mkdir()
    words = [sys.executable, "-m", "lgm_nb.explore", "--html", str(tmp_path / "a.html")]
    done = subprocess.run([*words, "--weights", run], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0 and not list(here.iterdir()), done.stderr
    done = subprocess.run([*words[:4], "x" * 300], cwd=here, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
