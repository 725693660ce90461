"Links of chapters and pages lead somewhere; the path of the method leads from chapter to chapter."

import json
import re
from pathlib import Path

import pytest
from conftest import PROJECT

PAGES = sorted(
    path
    for path in (*PROJECT.glob("*.md"), *(PROJECT / "nbs").rglob("*.ipynb"))
    if ".ipynb_" not in str(path)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def markdown(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def links(path):
    "(target, anchor) of every link to a file of the project."
    text = re.sub(r"```.*?```|`[^`]*`", "", markdown(path), flags=re.DOTALL)
    found = [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]
    return [
        (path.parent / link.partition("#")[0] if link[0] != "#" else path, link.partition("#")[2])
        for link in found
    ]


def headings(path):
    return {
        line.lstrip("# ").strip().replace(" ", "-")
        for line in markdown(path).splitlines()
        if line.startswith("#")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(page):
    for target, anchor in links(page):
        assert target.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in headings(target), f"{page.name} links to {target}#{anchor}"


def test_every_chapter_is_on_the_map():
    mapped = {target.resolve() for target, _ in links(PROJECT / "nbs" / "index.ipynb")}
    chapters = {path for path in PAGES if path.suffix == ".ipynb" and path.name != "index.ipynb"}
    assert chapters <= mapped, chapters - mapped


def test_the_path_leads_on():
    path = sorted((PROJECT / "nbs" / "method").glob("0*.ipynb")) + [
        PROJECT / "nbs" / "method" / "one_page.ipynb"
    ]
    assert len(path) == 10
    for here, following in zip(path, path[1:]):
        last = [line for line in markdown(here).splitlines() if line.strip()][-1]
        assert f"({Path(following).name})" in last, here.name
