"The page without Python, opened from disk with the network off: every slider position by keyboard, nothing stale, nothing missing."
import subprocess
import sys

import pytest

SECTIONS = "[data-k]"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    "The page, made by the command that the README names."
    target = tmp_path_factory.mktemp("page") / "explore.html"
    done = subprocess.run([sys.executable, "-m", "lgm_nb.explore", "--html", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout.strip().splitlines()[-1])
    assert target.stat().st_size <= 8_000_000
    return target


@pytest.fixture(scope="module")
def page(file, browser):
    "The open page; page.asked: every address it asked for, page.complaints: what the browser complains of."
    context = browser.new_context(viewport=dict(width=1200, height=900), offline=True)
    opened = context.new_page()
    opened.asked, opened.complaints = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("console", lambda message: opened.complaints.append(message.text) if message.type == "error" else None)
    opened.goto(file.as_uri())
    opened.wait_for_selector(SECTIONS)
    yield opened
    context.close()


def shown(page): return {int(k) for k in page.eval_on_selector_all(SECTIONS, "all => all.map(e => e.dataset.k)")}


def pixels(page):
    "What every canvas shows, as text."
    return page.evaluate("[...document.querySelectorAll('canvas')].map(c => c.toDataURL()).join()")


def test_every_position_by_keyboard(page, pictures):
    slider = page.locator("input[type=range]").first
    slider.focus(); slider.press("Home")
    assert shown(page) == {4}
    seen = [pixels(page)]
    for K in range(5, 65):
        slider.press("ArrowRight")
        assert shown(page) == {K}
        seen.append(pixels(page))
    assert len(set(seen)) == 61
    page.screenshot(path=pictures / "html_64.png", full_page=True)
    for step in range(48): slider.press("ArrowLeft")                     # there and back: the same pictures
    assert shown(page) == {16} and pixels(page) == seen[12]
    page.screenshot(path=pictures / "html_16.png", full_page=True)


def test_no_network_and_no_complaints(page, file):
    assert [a for a in page.asked if not a.startswith(("data:", "blob:", file.as_uri()))] == [] and page.complaints == []


def test_phone(page, pictures):
    page.set_viewport_size(dict(width=360, height=740))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=pictures / "html_phone.png", full_page=True)
