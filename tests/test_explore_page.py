"The explore page in a real browser: Run All, every slider from end to end, bad input, nothing stale, no error anywhere."
import io
import time

import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

EXPLORERS = ("groups", "reconstructions", "alignment", "samples", "quality")


def opened_page(browser, kind, address):
    "The page after Run All: page.complaints holds what the browser complains of, page.first the seconds to the first picture."
    opened = browser.new_page(viewport=dict(width=1400, height=1000))
    opened.complaints = []
    opened.goto(address)
    opened.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90000)
    opened.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60000)
    opened.locator(".jp-Notebook .jp-Cell").first.click()
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))                # from here on; loading is the program's own affair
    began = run_all(opened)
    opened.wait_for_selector(".lgm-groups .lgm-picture", timeout=120000)
    opened.kind, opened.first = kind, time.monotonic() - began
    opened.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=120000)
    return opened


@pytest.fixture(scope="module")
def page(server, browser):
    opened = opened_page(browser, *server)
    yield opened
    opened.close()


def menu(page, title, entry):
    "Choose an entry of a menu by mouse; opened again until the notebook has put its entries there."
    for _ in range(20):
        page.locator(".lm-MenuBar-item", has_text=title).filter(has_text=title).first.click()
        wanted = page.locator(".lm-Menu-item", has_text=entry).first
        try: return wanted.click(timeout=3000)
        except TimeoutError: page.keyboard.press("Escape")
    raise AssertionError(f"the menu {title} has no entry {entry}")


def run_all(page):
    "Run All Cells; again when a page that is still loading swallowed it. Returns the time it began."
    for _ in range(6):
        if (accept := page.locator(".jp-Dialog .jp-mod-accept")).count(): accept.first.click()
        began = time.monotonic()
        menu(page, "Run", "Run All Cells")
        try:
            page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=busy], .lgm-groups", timeout=5000, state="attached")
            return began
        except TimeoutError: page.keyboard.press("Escape")
    raise AssertionError("Run All Cells started nothing")


def bring(page, name):
    "Scroll an explorer into view (a notebook puts off what is far away) and return it."
    found = page.locator(f".lgm-{name}")
    for _ in range(80):
        if found.count() and found.locator(".lgm-picture, .lgm-old").count(): break
        page.mouse.move(700, 600); page.mouse.wheel(0, 700); page.wait_for_timeout(250)
    found.first.scroll_into_view_if_needed()
    return found.first


def handle(explorer): return explorer.locator(".noUi-handle").first


def settled(page, name, K, seconds=20):
    "Wait until the explorer shows the picture of K; returns the seconds that took."
    began = time.monotonic()
    page.wait_for_selector(f'.lgm-{name} .lgm-picture[data-k="{K}"]', timeout=1000 * seconds)
    return time.monotonic() - began


def go(page, explorer, end):
    """Move the token slider to its first or last value: by arrow keys in JupyterLab. Notebook 7 takes the arrow keys of
    every ipywidgets slider for itself (also of a plain IntSlider), so there the mouse drags it."""
    knob = handle(explorer)
    if page.kind == "lab":
        knob.click()
        for step in range(60): page.keyboard.press("ArrowLeft" if end == "first" else "ArrowRight")
        return
    track, place = explorer.locator(".noUi-base").first.bounding_box(), knob.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2); page.mouse.down()
    page.mouse.move(track["x"] - 40 if end == "first" else track["x"] + track["width"] + 40, place["y"] + 4, steps=40); page.mouse.up()


def contents(page, name): return page.locator(f".lgm-{name} .lgm-picture").first.inner_html()


@pytest.mark.parametrize("name", EXPLORERS)
def test_slider_from_end_to_end(page, pictures, name):
    explorer = bring(page, name)
    go(page, explorer, "first"); settled(page, name, 4)
    first = contents(page, name)
    explorer.screenshot(path=pictures / f"{page.kind}_{name}_04.png")
    go(page, explorer, "last"); settled(page, name, 64)
    last = contents(page, name)
    explorer.screenshot(path=pictures / f"{page.kind}_{name}_64.png")
    assert first != last
    page.wait_for_timeout(1500)
    assert page.locator(f'.lgm-{name} .lgm-picture[data-k="64"]').count() == 1                # still the picture of the last move
    assert "64" in explorer.locator(".lgm-cost").inner_text() and explorer.locator('.lgm-cost[data-k="64"]').count() == 1
    go(page, explorer, "first"); settled(page, name, 4)
    assert explorer.locator(".lgm-message").count() == 0


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_token_count(page, name):
    "One press of a key for each count from 4 to 64: the picture follows, nothing is said to be wrong."
    if page.kind != "lab": pytest.skip("Notebook 7 keeps the arrow keys for itself")
    explorer = bring(page, name)
    go(page, explorer, "first")
    settled(page, name, 4)
    seen = {contents(page, name)}
    for K in range(5, 65):
        page.keyboard.press("ArrowRight")
        settled(page, name, K)
        assert explorer.locator(f'.lgm-cost[data-k="{K}"]').count() == 1
        assert explorer.locator(".lgm-message").count() == 0
        seen.add(contents(page, name))
    assert len(seen) == 61                                                                    # no two alike


def test_play_button(page):
    explorer = bring(page, "reconstructions")
    go(page, explorer, "first"); settled(page, "reconstructions", 4)
    play = explorer.locator(".widget-play button").first
    play.click()
    page.wait_for_function("Number(document.querySelector('.lgm-reconstructions .lgm-picture').dataset.k) >= 8", timeout=30000)
    play.click()                                                                              # pause
    page.wait_for_timeout(1500)
    stands = explorer.locator(".lgm-cost").get_attribute("data-k")
    page.wait_for_timeout(1000)
    assert explorer.locator(".lgm-cost").get_attribute("data-k") == stands == explorer.locator(".lgm-picture").get_attribute("data-k") and int(stands) >= 8


def test_groups_follow_image_and_token(page):
    explorer = bring(page, "groups")
    before = contents(page, "groups")
    token = explorer.locator(".noUi-handle").nth(1)
    token.drag_to(explorer.locator(".noUi-base").nth(1), force=True)
    page.wait_for_function("old => document.querySelector('.lgm-groups .lgm-picture').innerHTML !== old", arg=before)
    before = contents(page, "groups")
    explorer.locator("select").select_option("Bag")
    page.wait_for_function("old => document.querySelector('.lgm-groups .lgm-picture').innerHTML !== old", arg=before)


def test_group_lights_up_under_the_mouse(page):
    explorer = bring(page, "groups")
    go(page, explorer, "first")
    settled(page, "groups", 4)
    region = explorer.locator(".lgm-region").nth(3)
    def lit(): return region.locator(".lgm-edge").evaluate("e => getComputedStyle(e).strokeOpacity")
    page.mouse.move(5, 5)
    assert lit() == "0"
    region.hover()
    assert lit() == "1" and region.locator("title").text_content().startswith("group 4: ")


def test_quality_has_two_kinds_of_features(page):
    explorer = bring(page, "quality")
    before = contents(page, "quality")
    explorer.locator("button", has_text="detail features").click()
    changed = "old => document.querySelector('.lgm-quality .lgm-picture').innerHTML !== old"
    page.wait_for_function(changed, arg=before)
    assert "detail features" in contents(page, "quality")


def picture(width, height, form="jpeg"):
    buffer = io.BytesIO()
    Image.effect_mandelbrot((width, height), (-2, -1.5, 1, 1.5), 40).save(buffer, format=form)
    return buffer.getvalue()


def test_uploads(page, pictures):
    explorer = bring(page, "reconstructions")
    def give(name, content):
        with page.expect_file_chooser() as chooser: explorer.locator("button.widget-upload").click()
        chooser.value.set_files(dict(name=name, mimeType="image/jpeg", buffer=content))
    for name, content, said in (("notes.jpg", b"these are words", "not an image"), ("dot.png", picture(1, 1, "png"), "at least 8 x 8"), ("photo.jpg", picture(5472, 3648), "5,472 x 3,648")):
        give(name, content)
        explorer.locator(".lgm-message", has_text=said).wait_for(timeout=30000)
    explorer.screenshot(path=pictures / f"{page.kind}_upload.png")
    for end, K in (("first", 4), ("last", 64)): go(page, explorer, end); settled(page, "reconstructions", K)      # alive


def test_seed(page):
    explorer = bring(page, "samples")
    seed = explorer.locator("input[type=text]").first
    before = contents(page, "samples")
    seed.fill("seven"); seed.press("Enter")
    explorer.locator(".lgm-message", has_text="no whole number").wait_for(timeout=10000)
    seed.fill("7"); seed.press("Enter")
    page.wait_for_function("old => { const p = document.querySelector('.lgm-samples .lgm-picture'); return p && p.innerHTML !== old }", arg=before, timeout=20000)
    assert explorer.locator(".lgm-message").count() == 0


def test_truncation_draws_from_the_same_noise(page, pictures):
    explorer = bring(page, "samples")
    assert "truncation" not in contents(page, "samples")
    box = explorer.locator("label", has_text="truncation, same noise").locator("input")
    box.check()
    there = "Boolean(document.querySelector('.lgm-samples .lgm-picture img[alt*=truncation]'))"
    page.wait_for_function(there, timeout=30000)
    explorer.screenshot(path=pictures / f"{page.kind}_twin.png")
    box.uncheck()
    page.wait_for_function(f"!{there}", timeout=30000)


def test_no_errors_anywhere(page, pictures):
    seen = set()
    page.keyboard.press("Escape")
    for _ in range(60):
        page.mouse.move(700, 600); page.mouse.wheel(0, 500); page.wait_for_timeout(100)
        for output in page.locator('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]').all(): seen.add(output.inner_text()[:300])
    page.screenshot(path=pictures / f"{page.kind}_end.png")
    assert not seen and not page.complaints, (seen, page.complaints)
