"""The explore page in a real browser: Run All, every slider from end to end, bad input, nothing
stale, no error anywhere. The notebook runs once in each program; the tests share the page."""
import io
import time

import pytest
from conftest import PATIENCE
from PIL import Image
from playwright.sync_api import TimeoutError, expect

EXPLORERS = ("groups", "reconstructions", "alignment", "samples", "quality")
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
STARTED = """() => [...document.querySelectorAll('.jp-InputPrompt')]
    .some(prompt => /[*0-9]/.test(prompt.textContent))"""        # a kernel that starts is busy, too
CHANGED = """([name, old]) => {
    const picture = document.querySelector(`.lgm-${name} .lgm-picture`);
    return picture && picture.innerHTML !== old; }"""
STANDS = "explorer => Number(explorer.querySelector('.widget-readout').innerText)"
# press play; pause in the page itself when the slider stands at 12 and pictures come along: no
# round trip comes late
PLAYED = f"""explorer => new Promise(done => {{
    const stands = () => ({STANDS})(explorer), end = Date.now() + {1000 * PATIENCE};
    const drawn = () => Number(explorer.querySelector(".lgm-picture").dataset.k);
    const button = explorer.querySelector(".widget-play button");
    button.click();
    const timer = setInterval(() => {{
        if ((stands() < 12 || drawn() < 8) && Date.now() < end) return;
        clearInterval(timer);
        button.click();
        setTimeout(() => done(stands()), 1000);
    }}, 20);
}})"""

expect.set_options(timeout=1000 * PATIENCE)


def opened_page(browser, kind, address):
    """The page after Run All. page.complaints: what the browser complains of;
    page.first: seconds to the first picture."""
    opened = browser.new_page(viewport=dict(width=1400, height=1000))
    opened.set_default_timeout(1000 * PATIENCE)
    opened.kind, opened.complaints = kind, []
    opened.goto(address)
    opened.wait_for_selector(".jp-Notebook .jp-CodeCell")
    opened.wait_for_selector(IDLE, state="attached")
    opened.locator(".jp-Notebook .jp-Cell").first.click()
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))  # not while loading
    opened.first = first_picture(opened)
    opened.wait_for_selector(IDLE, state="attached")
    return opened


@pytest.fixture(scope="module")
def page(server, browser):
    "The page in JupyterLab, then in Notebook 7, each after one Run All."
    opened = opened_page(browser, *server)
    yield opened
    opened.close()


def repeated(page, attempt, what):
    "Try until an attempt succeeds; a page that is still loading may swallow a click."
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try: return attempt()
        except TimeoutError: page.keyboard.press("Escape")
    raise AssertionError(f"{what} within {PATIENCE} seconds")


def menu(page, title, entry):
    "Choose an entry of a menu by mouse; opened again until the notebook has put its entries there."
    bar = page.locator(".lm-MenuBar-item", has_text=title).first
    wanted = page.locator(".lm-Menu-item", has_text=entry).first
    def choose():
        bar.click(timeout=60000)
        wanted.click(timeout=60000)
    repeated(page, choose, f"the menu {title} has no entry {entry}")


def run_all(page, again=False):
    """Run All Cells; once more when a page that is still loading swallowed it. The time it began.
    again: although cells have begun before."""
    began = time.monotonic()
    def start():
        nonlocal began
        if page.evaluate(STARTED) and not again: return began    # the last attempt was only slow
        if (accept := page.locator(".jp-Dialog .jp-mod-accept")).count(): accept.first.click()
        began = time.monotonic()
        menu(page, "Run", "Run All Cells")
        page.wait_for_function(STARTED, timeout=60000)
        return began
    return repeated(page, start, "Run All Cells started nothing")


def first_picture(page):
    """Seconds from Run All to the first picture. Where nothing comes for long, all cells are run
    once more: a kernel that was still starting may have lost them."""
    for attempt in range(4):
        began = run_all(page, again=attempt > 0)
        if bring(page, "groups", -2000, PATIENCE / 4): return time.monotonic() - began
    raise AssertionError(f"no picture within {PATIENCE} seconds")


def bring(page, name, step=700, patience=PATIENCE):
    """Scroll an explorer into view and return it, or None: a notebook puts off what is far away,
    and after Run All its end is near. step: px, downwards; patience: seconds to look for it."""
    found, deadline = page.locator(f".lgm-{name}"), time.monotonic() + patience
    drawn = found.locator(".lgm-picture, .lgm-old")
    while not drawn.count() and time.monotonic() < deadline:
        page.mouse.move(700, 600)
        page.mouse.wheel(0, step)
        page.wait_for_timeout(250)
    if not drawn.count(): return None
    found.first.scroll_into_view_if_needed()
    return found.first


def handle(explorer):
    "The knob of the token slider."
    return explorer.locator(".noUi-handle").first


def settled(page, name, K):
    "Wait until the explorer shows the picture of K."
    page.wait_for_selector(f'.lgm-{name} .lgm-picture[data-k="{K}"]')


def changed(page, name, old):
    "Wait until the explorer shows another picture than `old`."
    page.wait_for_function(CHANGED, arg=[name, old])


def go(page, explorer, end):
    """Move the token slider to its first or last value: by arrow keys in JupyterLab. Notebook 7
    takes the arrow keys of every ipywidgets slider for itself, so there the mouse drags it."""
    knob = handle(explorer)
    if page.kind == "lab":
        knob.click()
        for _ in range(60): page.keyboard.press("ArrowLeft" if end == "first" else "ArrowRight")
        return
    track = explorer.locator(".noUi-base").first.bounding_box()
    place = knob.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.down()
    goal = track["x"] - 40 if end == "first" else track["x"] + track["width"] + 40
    page.mouse.move(goal, place["y"] + 4, steps=40)
    page.mouse.up()


def go_to_end(page, name, end):
    "Move the token slider of a named explorer to its first or last value; the explorer, settled."
    explorer = bring(page, name)
    go(page, explorer, end)
    settled(page, name, 4 if end == "first" else 64)
    return explorer


def contents(page, name):
    "The picture as text."
    return page.locator(f".lgm-{name} .lgm-picture").first.inner_html()


@pytest.mark.parametrize("name", EXPLORERS)
def test_slider_from_end_to_end(page, pictures, name):
    explorer = go_to_end(page, name, "first")
    first = contents(page, name)
    explorer.screenshot(path=pictures / f"{page.kind}_{name}_04.png")
    go_to_end(page, name, "last")
    explorer.screenshot(path=pictures / f"{page.kind}_{name}_64.png")
    assert first != contents(page, name)
    page.wait_for_timeout(1500)                      # still the picture of the last move
    assert page.locator(f'.lgm-{name} .lgm-picture[data-k="64"]').count() == 1
    expect(explorer.locator('.lgm-cost[data-k="64"]')).to_contain_text("64")
    go_to_end(page, name, "first")
    assert explorer.locator(".lgm-message").count() == 0


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_token_count(page, name):
    "A key for each count from 4 to 64: the picture follows, nothing is said to be wrong."
    if page.kind != "lab": pytest.skip("Notebook 7 keeps the arrow keys for itself")
    explorer = go_to_end(page, name, "first")
    seen = {contents(page, name)}
    for K in range(5, 65):
        page.keyboard.press("ArrowRight")
        settled(page, name, K)
        expect(explorer.locator(f'.lgm-cost[data-k="{K}"]')).to_have_count(1)
        assert explorer.locator(".lgm-message").count() == 0
        seen.add(contents(page, name))
    assert len(seen) == 61                           # no two alike


def test_play_button(page):
    explorer = go_to_end(page, "reconstructions", "first")
    stands = explorer.evaluate(PLAYED)               # moves on; paused, it stands
    assert 12 <= stands < 64
    settled(page, "reconstructions", stands)         # moves that were on their way arrive
    page.wait_for_timeout(1000)                      # it stays there
    expect(explorer.locator(".lgm-cost")).to_have_attribute("data-k", str(stands))
    assert explorer.evaluate(STANDS) == stands


def test_groups_follow_image_and_token(page):
    explorer = bring(page, "groups")
    before = contents(page, "groups")
    token = explorer.locator(".noUi-handle").nth(1)
    token.drag_to(explorer.locator(".noUi-base").nth(1), force=True)
    changed(page, "groups", before)
    before = contents(page, "groups")
    explorer.locator("select").select_option("Bag")
    changed(page, "groups", before)


def test_group_lights_up_under_the_mouse(page):
    explorer = go_to_end(page, "groups", "first")
    region = explorer.locator(".lgm-region").nth(3)
    edge = region.locator(".lgm-edge")
    page.mouse.move(5, 5)
    expect(edge).to_have_css("stroke-opacity", "0")
    region.hover()
    expect(edge).to_have_css("stroke-opacity", "1")
    assert region.locator("title").text_content().startswith("group 4: ")


def test_quality_has_two_kinds_of_features(page):
    explorer = bring(page, "quality")
    before = contents(page, "quality")
    explorer.locator("button", has_text="detail features").click()
    changed(page, "quality", before)
    assert "detail features" in contents(page, "quality")


def test_each_image_its_own_length(page, pictures):
    explorer = go_to_end(page, "reconstructions", "last")
    before = contents(page, "reconstructions")
    explorer.get_by_text("each image its own K").click()
    changed(page, "reconstructions", before)
    at_most_64 = contents(page, "reconstructions")
    assert "on average" in at_most_64
    explorer.screenshot(path=pictures / f"{page.kind}_own_lengths.png")
    go_to_end(page, "reconstructions", "first")
    assert "at most 4" in contents(page, "reconstructions")
    explorer.get_by_text("each image its own K").click()
    page.wait_for_function("!document.querySelector('.lgm-reconstructions .lgm-picture')"
                           ".innerHTML.includes('on average')")


def picture(width, height, form="jpeg"):
    "The bytes of an image file."
    buffer = io.BytesIO()
    Image.effect_mandelbrot((width, height), (-2, -1.5, 1, 1.5), 40).save(buffer, format=form)
    return buffer.getvalue()


def test_uploads(page, pictures):
    explorer = bring(page, "reconstructions")
    def give(name, content):
        with page.expect_file_chooser() as chooser:
            explorer.locator("button.widget-upload").click()
        chooser.value.set_files(dict(name=name, mimeType="image/jpeg", buffer=content))
    for name, content, said in (("notes.jpg", b"these are words", "not an image"),
                                ("dot.png", picture(1, 1, "png"), "at least 8 x 8"),
                                ("photo.jpg", picture(5472, 3648), "5,472 x 3,648")):
        give(name, content)
        explorer.locator(".lgm-message", has_text=said).wait_for()
    explorer.screenshot(path=pictures / f"{page.kind}_upload.png")
    for end in ("first", "last"): go_to_end(page, "reconstructions", end)       # alive


def test_no_upload_is_lost_in_silence(page):
    "The same file after a shuffle, and one that is too large for a message to the kernel."
    explorer = bring(page, "reconstructions")
    def give(content):
        with page.expect_file_chooser() as chooser:
            explorer.locator("button.widget-upload").click()
        chooser.value.set_files(dict(name="a.png", mimeType="image/png", buffer=content))
    expect(explorer.locator(".lgm-upload")).to_contain_text("at most 10 MB")
    for _ in range(2):
        give(picture(64, 48, "png"))
        explorer.locator(".lgm-message", has_text="64 x 48").wait_for()
        explorer.locator("button", has_text="shuffle").click()
        expect(explorer.locator(".lgm-message")).to_have_count(0)
    give(bytes(10_600_000))
    explorer.locator(".lgm-message", has_text="10.6 MB").wait_for()
    go_to_end(page, "reconstructions", "first")
    assert explorer.locator(".lgm-message").count() == 0


def test_seed(page):
    explorer = bring(page, "samples")
    seed = explorer.locator("input[type=text]").first
    before = contents(page, "samples")
    seed.fill("seven")
    seed.press("Enter")
    explorer.locator(".lgm-message", has_text="no whole number").wait_for()
    seed.fill("7")
    seed.press("Enter")
    changed(page, "samples", before)
    expect(explorer.locator(".lgm-message")).to_have_count(0)


def test_truncation_draws_from_the_same_noise(page, pictures):
    explorer = bring(page, "samples")
    assert "truncation" not in contents(page, "samples")
    box = explorer.locator("label", has_text="truncation, same noise").locator("input")
    twin = explorer.locator(".lgm-picture img[alt*=truncation]")
    box.check()
    expect(twin).to_have_count(6)                    # as many as by merging
    explorer.screenshot(path=pictures / f"{page.kind}_twin.png")
    box.uncheck()
    expect(twin).to_have_count(0)


def test_no_errors_anywhere(page, pictures):
    seen = set()
    wrong = ", ".join(f'[data-mime-type="application/vnd.jupyter.{kind}"]'
                      for kind in ("error", "stderr"))
    page.keyboard.press("Escape")
    for _ in range(60):
        page.mouse.move(700, 600)
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(100)
        seen |= {text[:300] for text in page.locator(wrong).all_inner_texts()}
    page.screenshot(path=pictures / f"{page.kind}_end.png")
    assert not seen and not page.complaints, (seen, page.complaints)
