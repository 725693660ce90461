"The explorers and the page where something is missing or wrong; the page's files in the package."
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from lgm_nb.base.errors import UserError
from lgm_nb.data.images import ImageSet, load_data
from lgm_nb.data.latents import LatentSet
from lgm_nb.explore import page
from lgm_nb.explore.groups import Groups
from lgm_nb.explore.views import VIEWS
from lgm_nb.explore.widgets import AlignmentExplorer, GroupsExplorer
from lgm_nb.tokenizer import Tokenizer
from lgm_nb.weights import load_weights

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained():
    "The shipped weights."
    return load_weights()


@pytest.fixture(scope="module")
def free(trained):
    "Settings of a tokenizer whose tokens have no place in the picture."
    return replace(trained.settings.tokenizer, tied=False, padding=0, image_size=32,
                   image_channels=3)


def test_tokens_without_a_place_stand_in_rows(trained, free):
    net = Tokenizer(free).eval()                     # untrained: only its form matters here
    latents = LatentSet(torch.zeros(0, 64, 8), torch.zeros(0, dtype=torch.long), None,
                        trained.latents.statistics, torch.from_numpy(net.merging.all_labels()))
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    pictures = ImageSet(pixels, torch.arange(40) % 4, list("abcd"))
    other = replace(trained, tokenizer=net, latents=latents, truncation=None,
                    settings=replace(trained.settings, tokenizer=free))
    groups = GroupsExplorer(other, K=16, images=pictures)
    assert not groups.message.value and "of 64 tokens" in groups.picture.value
    assert 'data-k="9"' in AlignmentExplorer(other, K=9, images=pictures).picture.value


def test_page_of_tokens_without_a_place(trained, free):
    rows, tied = Groups(trained.tokenizer.merging.tree(), free), Groups.of(trained.tokenizer)
    assert rows.facts()["grid"] == [16, 4] and not rows.facts()["tied"] and tied.facts()["tied"]
    assert rows.facts()["joins"] == tied.facts()["joins"] and len(rows.facts()["joins"]) == 60
    for groups in (rows, tied):
        trees = groups.draw("trees", K=16)
        assert trees.count("<g ") == 4 and trees.count('class="lgm-branch"') == 60


def test_the_cut_lies_between_joins(trained):
    groups = Groups.of(trained.tokenizer)
    for K in trained.lengths:
        assert (groups.heights < groups.cut(K)).sum() == groups.N - K
        assert groups.draw("trees", K=K).count('stroke="#8a8a8a"') == K - groups.blocks
    def height(K):
        "Of the dashed line, one through all trees, in px from the top."
        parts = ElementTree.fromstring(groups.draw("trees", K=K, height=150)).iter()
        first, = {part.get("points") for part in parts if part.get("stroke-dasharray")}
        return float(first.split(",")[1].split()[0])
    assert 0 < height(4) < height(64) < 150


def test_page_with_one_method_and_without_metrics(trained, tmp_path):
    data = load_data("fashion-small")
    alone = replace(trained, truncation=None, folder=tmp_path)
    facts, weights = page.prepare_page(alone, data)
    assert facts["methods"] == ["merging"] and facts["quality"] == []
    assert "truncation" not in page.as_html(facts, weights, "none").split("<script")[0].lower()


@pytest.mark.parametrize("options, said", [
    (dict(), "--html FILE"), (dict(html="."), "explore.html"), (dict(html="file/a.html"), "file"),
    (dict(animation="film.mp4"), ".gif"), (dict(html="a.html", run="none"), "none")])
def test_wrong_options_are_a_sentence(options, said, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=said):
        page.explore(**{name: tmp_path / value for name, value in options.items()})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_page_too_large_is_not_written(tmp_path):
    with pytest.raises(UserError, match="more than 12 MB"):
        page.write(tmp_path / "big.html", "page", lambda: bytes(12_200_000))
    assert not list(tmp_path.iterdir())


def test_template_needs_every_value():
    with pytest.raises(UserError, match="value for b"): page.fill("{{a}} {{b}}", a=1)


def test_files_of_the_page_are_in_the_package(tmp_path):
    words = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "build_py",
             "--build-lib", tmp_path / "lib"]
    subprocess.run(words, cwd=PROJECT, check=True, capture_output=True)
    packed = {file.name for file in (tmp_path / "lib/lgm_nb/explore/static").iterdir()}
    scripts = {f"{name}.js" for name in (*page.SCRIPTS, *page.ENGINE, *VIEWS)}
    assert packed == {"page.html", "page.css", "kernel.wat", "kernel.wasm", *scripts}
