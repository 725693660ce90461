"""The page without Python, opened from disk with the network off: every count by keyboard,
nothing stale or missing."""
import subprocess
import sys

import pytest
from conftest import PATIENCE

SECTIONS = "[data-k]"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    "The page, made by the command that the README names."
    target = tmp_path_factory.mktemp("page") / "explore.html"
    words = [sys.executable, "-m", "lgm_nb.explore", "--html", target]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout.strip().splitlines()[-1])
    assert target.stat().st_size <= 8_000_000
    return target


@pytest.fixture(scope="module")
def page(file, browser):
    """The open page. page.asked: every address it asked for; page.complaints: what the browser
    complains of."""
    context = browser.new_context(viewport=dict(width=1200, height=900), offline=True)
    context.set_default_timeout(1000 * PATIENCE)
    opened = context.new_page()
    opened.asked, opened.complaints = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    def hear(message):
        if message.type == "error": opened.complaints.append(message.text)
    opened.on("console", hear)
    opened.goto(file.as_uri())
    opened.wait_for_selector(SECTIONS)
    yield opened
    context.close()


def shown(page):
    "The token counts that the sections show: one of them, or the page is stale."
    found = page.eval_on_selector_all(SECTIONS, "all => all.map(e => e.dataset.k)")
    return {int(k) for k in found}


def pixels(page):
    "What every canvas shows, as text."
    return page.evaluate("[...document.querySelectorAll('canvas')].map(c => c.toDataURL()).join()")


def fills(page):
    "Colour of each patch."
    return page.eval_on_selector_all("#regions rect", "all => all.map(e => e.style.fill)")


def test_every_position_by_keyboard(page, pictures):
    slider = page.locator("input[type=range]").first
    slider.focus()
    slider.press("Home")
    assert shown(page) == {4}
    seen, drawn = [pixels(page)], [int(page.locator("#samples").get_attribute("data-drawn"))]
    for K in range(5, 65):
        slider.press("ArrowRight")
        assert shown(page) == {K}
        assert len(set(fills(page))) > 1
        seen.append(pixels(page))
        drawn.append(int(page.locator("#samples").get_attribute("data-drawn")))
        told = f"Drawn with {drawn[-1]} tokens" + ("." if drawn[-1] == K else ", the nearest")
        assert page.locator("#drawn").inner_text().startswith(told)
    assert len(set(seen)) == 61
    assert drawn[:13] == list(range(4, 17)) and drawn[-1] == 64 and drawn == sorted(drawn)
    page.screenshot(path=pictures / "html_64.png", full_page=True)
    for _ in range(48): slider.press("ArrowLeft")    # there and back: the same pictures
    assert shown(page) == {16} and pixels(page) == seen[12]
    page.screenshot(path=pictures / "html_16.png", full_page=True)


def test_a_patch_names_its_group(page, pictures):
    page.locator("#count").fill("16")
    cells, said = page.locator("#regions rect"), page.locator("#said")
    for token in (0, 27, 63):
        cells.nth(token).hover()
        mine = page.evaluate("D.labels[D.lengths.indexOf(16)]")
        size = mine.count(mine[token])
        assert said.inner_text().startswith(f"Group {mine[token] + 1} of 16")
        assert str(size) in said.inner_text() or size == 1
        for marked in ("#regions rect.mine", ".leaf.mine"):
            assert page.locator(marked).count() == size
    page.screenshot(path=pictures / "html_hover.png", full_page=True)
    cells.nth(0).focus()                             # token 0 lies in the upper left corner
    for step, (row, column) in dict(Right=(1, 2), Down=(2, 2), Left=(2, 1), Up=(1, 1)).items():
        page.keyboard.press(f"Arrow{step}")
        name = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert name.startswith(f"patch in row {row}, column {column}: ")


def test_colours_follow_the_groups(page):
    "A group has one colour, and where groups touch, lines are drawn."
    for K in (4, 16, 64):
        page.locator("#count").fill(str(K))
        labels, colours = page.evaluate(f"D.labels[D.lengths.indexOf({K})]"), fills(page)
        assert len({(g, c) for g, c in zip(labels, colours)}) == K == len(set(labels))
        assert len(page.locator("#regions .borders").get_attribute("d")) > 8 * K


def test_charts_show_the_count(page):
    page.locator("#count").fill("8")
    for chart in page.locator("#likeness svg.plot, #aligned svg.plot").all():
        words = chart.get_attribute("aria-label")
        assert "At 8 tokens" in words and "merging" in words and "truncation" in words
    assert page.locator("#aligned .hollow").count() == 2 * (2 * 3 + 2)     # values, and legends
    visible = page.locator("#costs .chart:visible h3")
    assert visible.all_inner_texts() == ["Class features"]
    page.locator("#features button").nth(1).click()
    assert visible.all_inner_texts() == ["Detail features"]


def test_no_network_and_no_complaints(page, file):
    ours = "data:", "blob:", file.as_uri()
    assert [asked for asked in page.asked if not asked.startswith(ours)] == []
    assert page.complaints == []


def test_phone(page, pictures):
    page.set_viewport_size(dict(width=360, height=740))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=pictures / "html_phone.png", full_page=True)
