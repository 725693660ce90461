"The explorers and the page where something is missing or wrong; the page's files in the package."
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lgm_nb.base.errors import UserError
from lgm_nb.data.images import ImageSet, load_data
from lgm_nb.data.latents import LatentSet
from lgm_nb.explore import page
from lgm_nb.explore.groups import BlockTree, Groups, draw_trees
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
    tree, few = trained.tokenizer.merging.tree(), (4, 16, 64)
    rows, _ = page.group_facts(Groups(tree, free), few)
    tied, drawings = page.group_facts(Groups.of(trained.tokenizer), few)
    assert rows["grid"] == [16, 4] and rows["labels"] == tied["labels"] and not rows["tied"]
    assert len(drawings) == 4 and "".join(drawings).count('class="branch"') == 60


def test_the_cut_lies_between_joins(trained):
    groups = Groups.of(trained.tokenizer)
    for K in trained.lengths:
        assert (groups.heights < groups.cut(K)).sum() == groups.N - K
        assert draw_trees(groups, K).count('stroke="#999"') == K - groups.blocks
    tree = BlockTree(groups, 0, 200, 150)
    assert 0 < tree.y(groups.cut(4)) < tree.y(groups.cut(64)) < 150


def test_page_with_one_method_and_without_metrics(trained, tmp_path):
    data = load_data("fashion-small")
    alone = replace(trained, truncation=None, folder=tmp_path)
    facts, trees = page.prepare_page(alone, data, (4, 64))
    assert facts["methods"] == ["merging"] and facts["quality"] == []
    assert "truncation" not in page.as_html(facts, trees, "none").split("<script")[0].lower()


@pytest.mark.parametrize("options, said", [
    (dict(), "--html FILE"), (dict(html="."), "explore.html"), (dict(html="file/a.html"), "file"),
    (dict(animation="film.mp4"), ".gif"), (dict(html="a.html", weights="none"), "none")])
def test_wrong_options_are_a_sentence(options, said, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=said):
        page.explore(**{name: tmp_path / value for name, value in options.items()})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_page_too_large_is_not_written(tmp_path):
    with pytest.raises(UserError, match="more than 8 MB"):
        page.write(tmp_path / "big.html", "page", lambda: bytes(8_200_000))
    assert not list(tmp_path.iterdir())


def test_template_needs_every_value():
    with pytest.raises(UserError, match="value for b"): page.fill("{{a}} {{b}}", a=1)


def test_files_of_the_page_are_in_the_package(tmp_path):
    words = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "build_py",
             "--build-lib", tmp_path / "lib"]
    subprocess.run(words, cwd=PROJECT, check=True, capture_output=True)
    packed = {file.name for file in (tmp_path / "lib/lgm_nb/explore/static").iterdir()}
    assert packed == {"page.html", "page.css", *(f"{name}.js" for name in page.SCRIPTS)}
