"""The page without Python, opened from disk with the network off: it computes what torch computes,
shows nothing stale, says what is wrong, and remembers what was chosen."""
import base64
import io
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import PATIENCE, PROJECT
from firefox import firefox, opened_firefox
from PIL import Image, ImageDraw
from test_own_runs import COLOUR, draw_pictures, make_run, run_of

from lgm_nb.base.errors import UserError
from lgm_nb.base.files import load_tensors, save_tensors
from lgm_nb.data.images import load_data
from lgm_nb.explore.packing import engine_facts
from lgm_nb.explore.page import ENGINE, LIMITS, SCRIPTS, explore
from lgm_nb.explore.pictures import chosen_images, methods_of, read_upload
from lgm_nb.explore.views import VIEWS, static
from lgm_nb.weights import load_weights

READY = "document.body.dataset.ready && found.few && !document.querySelector('.old')"
SETTLED = "[...document.querySelectorAll('[data-k]')].every(e => +e.dataset.k === state.K)" \
          " && !document.querySelector('.old')"
FRESH = """[...document.querySelectorAll('[data-k]')].every(
    e => e.closest('.old') || +e.dataset.k === state.K)"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    "The page, made by the command that the README names."
    target = tmp_path_factory.mktemp("page") / "explore.html"
    words = [sys.executable, "-m", "lgm_nb.explore", "--html", target]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout.strip().splitlines()[-1])
    assert target.stat().st_size <= 12_000_000
    return target


def until(page, wanted):
    "Wait until a condition in JavaScript holds. (The page's own rules forbid playwright's way.)"
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(f"!!({wanted})"):
        assert time.monotonic() < deadline, wanted
        page.wait_for_timeout(15)


def opened(browser, address, before="", wait=READY, **options):
    """A page in a context of its own. page.asked: every address it asked for; page.complaints: what
    the browser complains of. before: a script that runs first."""
    context = browser.new_context(**dict(viewport=dict(width=1200, height=900), offline=True)
                                  | options)
    context.set_default_timeout(1000 * PATIENCE)
    if before: context.add_init_script(before)
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
    page.goto(address)
    if wait: until(page, wait)
    return page


@pytest.fixture(scope="module")
def page(file, browser):
    "The open page, its first pictures drawn."
    page = opened(browser, file.as_uri())
    yield page
    page.context.close()


@pytest.fixture(scope="module")
def trained():
    "The shipped weights, which the page holds."
    return load_weights()


def go(page, K):
    "Move the slider; wait until everything shows K."
    page.locator("#count").fill(str(K))
    until(page, SETTLED)


def made(page, what, channels=1):
    "Pictures that an answer holds, (n, H, W, channels) ints."
    rows = page.evaluate(f"({what}).map(bytes => [...bytes])")
    side = round((len(rows[0]) / channels) ** 0.5)
    return np.array(rows).reshape(-1, side, side, channels)


def levels(images):
    "Images (n, channels, H, W) in [-1, 1] as grey levels 0..255, (n, H, W, channels)."
    return ((images.clamp(-1, 1) + 1) * 127.5).round().int().permute(0, 2, 3, 1).numpy()


def give_noise(page, noise):
    "Let the page draw from these numbers (N, C) in place of its own."
    page.evaluate("numbers => { gaussians = () => Float32Array.from(numbers); }",
                  noise.flatten().tolist())


def test_reconstructions_are_those_of_torch(page, trained):
    "At most 2 grey levels off at any pixel, for both methods; PSNR to a hundredth."
    x, _ = load_data("fashion-small").test.batch(
        chosen_images(load_data("fashion-small").test))
    shown = made(page, "pictures.bytes")
    assert np.abs(shown - levels(x)).max() == 0
    for K in (4, 5, 16, 33, 63, 64):
        go(page, K)
        for name, one in dict(merging=trained, truncation=trained.truncation).items():
            again = one.reconstruct(x, K)
            assert np.abs(made(page, f"found.reconstruct.pictures.{name}")
                          - levels(again)).max() <= 2
            psnr = 10 * torch.log10(4 / (again.clamp(-1, 1) - x).square().flatten(1).mean(1))
            found = torch.tensor(page.evaluate(f"found.reconstruct.psnr.{name}"))
            assert (psnr - found).abs().max() < 0.01


def test_latents_are_those_of_torch(page, trained):
    x, _ = load_data("fashion-small").test.batch(
        chosen_images(load_data("fashion-small").test))
    for K in (7, 64):
        go(page, K)
        until(page, f"found.owned && found.owned.K === {K}")
        z = trained.pattern(K).merge(trained.tokenizer.encode(x[:1]))
        scale = trained.latents.statistics
        wanted = ((z - scale.mean) / scale.std)[0]
        found = torch.tensor(page.evaluate("found.owned.tokens"))
        assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-3


def test_samples_are_those_of_torch(page, trained):
    "The same noise given as numbers: at most 4 grey levels off at any pixel."
    worst = []
    for K, y, steps, guidance in ((64, 9, 8, 4.0), (16, 1, 20, 4.0), (33, 7, 8, 1.0),
                                  (4, 0, 8, 2.5), (5, 3, 30, 6.0)):
        noise = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(K))
        give_noise(page, noise)
        page.evaluate("wish => { Object.assign(state, wish); draw(); }",
                      dict(K=K, y=y, tuned=False, steps=steps, guidance=guidance, seed=K + 1000))
        until(page, f"{SETTLED} && found.sample.seed === {K + 1000}")
        wanted = levels(trained.sample([y], K, noise=noise, guidance=guidance, steps=steps))
        worst.append(np.abs(made(page, "[found.sample.picture]") - wanted).max())
        assert page.evaluate("found.sample.path.length") == 9 and worst[-1] <= 4
        start = made(page, "[found.sample.path[0]]")
        assert np.abs(start - wanted).max() > 20                  # it began as noise
    print(f"largest difference to torch: {max(worst)} grey levels")
    page.reload()
    until(page, READY)


def test_groups_are_those_of_the_tree(page, trained):
    for K in trained.lengths:
        assert page.evaluate(f"labelsAt(g, {K})") == trained.pattern(K).labels.tolist()


def test_every_position_by_keyboard(page, pictures):
    "Nothing stale at any moment: what is not of the slider's count is faded."
    slider = page.locator("#count")
    slider.focus()
    slider.press("Home")
    until(page, SETTLED)
    seen = set()
    for K in range(5, 65):
        slider.press("ArrowRight")
        assert page.evaluate("state.K") == K and page.evaluate(FRESH)
        assert page.locator("#regions").get_attribute("data-k") == str(K)
        seen.add(page.locator("#regions").inner_html())
    until(page, SETTLED)
    assert len(seen) == 60
    page.screenshot(path=pictures / "html_64.png", full_page=True)
    last = page.locator("#strips").inner_html() + page.locator("#made").inner_html()
    go(page, 16)
    page.screenshot(path=pictures / "html_16.png", full_page=True)
    go(page, 64)                                     # there and back: the same pictures
    assert page.locator("#strips").inner_html() + page.locator("#made").inner_html() == last


def test_a_move_ends_a_drawing(page):
    "Of 59 wishes, told while the first is being drawn, the last is drawn to its end, not each."
    page.evaluate("(Object.assign(state, {tuned: false, steps: 30}), go(4), 1)")
    until(page, SETTLED)
    page.evaluate("""() => {
        window.ended = []; window.usual = answered;
        answered = message => {
            usual(message);
            if (message.kind !== "sample") return;
            if (message.done) ended.push(message.id);
            if (state.K > 5) return;
            for (; state.K < 63; want("sample")) state.K++;
            draw();
        };
        go(5); }""")
    until(page, f"state.K === 63 && {SETTLED}")
    page.wait_for_timeout(500)
    ended, last = page.evaluate("[ended, asks.sample.id]")
    assert ended[-1] == last and len(ended) < 5
    page.evaluate("(answered = usual, Object.assign(state, {tuned: true}), draw(), 1)")
    until(page, SETTLED)


def test_there_and_back_while_it_computes(page):
    "A wish that is taken back: what was drawn before stands, unfaded, and the other never comes."
    for there, back in (("go(40)", "go(41)"), ("state.y = 2, draw()", "state.y = 5, draw()"),
                        ("choose(3)", "choose(60)"), ("state.seed = 8, draw()",
                                                      "state.seed = 9, draw()")):
        for pause in (0, 40, 120):
            page.evaluate(f"({there}, 1)")
            until(page, f"{SETTLED} && known('few') && known('owned')")
            page.evaluate(f"""async () => {{ {back};
                await new Promise(done => setTimeout(done, {pause})); {there}; }}""")
            page.wait_for_timeout(500)
            until(page, f"{SETTLED} && ['reconstruct', 'owned', 'sample', 'few'].every(known)")
            assert page.evaluate("[found.reconstruct.K, found.sample.y, found.sample.seed, "
                                 "found.owned.chosen]") == page.evaluate(
                "[state.K, state.y, state.seed, state.token]")


def test_play(page):
    # quick samples, so that they come along on any machine
    page.evaluate("(Object.assign(state, {tuned: false, steps: 2, guidance: 1}), draw(), 1)")
    go(page, 4)
    page.locator("#play").click()
    until(page, "state.K >= 10 && found.sample.K >= 8")      # samples come along
    page.locator("#play").click()
    here = page.evaluate("state.K")
    page.wait_for_timeout(1200)
    assert page.evaluate("state.K") == here
    page.evaluate("(Object.assign(state, {tuned: true, steps: 20, guidance: 4}), draw(), 1)")
    until(page, SETTLED)


def test_a_patch_names_its_group(page, pictures):
    go(page, 16)
    cells, said = page.locator("#regions .lgm-cell"), page.locator("#said")
    labels = page.evaluate("labelsAt(g, 16)")
    for token in (0, 27, 63):
        cells.nth(token).hover()
        size = labels.count(labels[token])
        assert said.inner_text().startswith(f"Group {labels[token] + 1} of 16")
        assert str(size) in said.inner_text() or size == 1
        assert page.locator(".lgm-leaf.lgm-mine").count() == size
    page.screenshot(path=pictures / "html_hover.png", full_page=True)
    page.mouse.move(5, 5)
    cells.nth(0).focus()                             # token 0 lies in the upper left corner
    for step, (row, column) in dict(Right=(1, 2), Down=(2, 2), Left=(2, 1), Up=(1, 1)).items():
        page.keyboard.press(f"Arrow{step}")
        name = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert name.startswith(f"patch in row {row}, column {column}: ")


def test_charts_show_the_count(page):
    go(page, 8)
    until(page, "found.scores")
    for chart in page.locator("#likeness svg, #aligned svg").all():
        words = chart.get_attribute("aria-label")
        assert "At K = 8" in words and "merging" in words and "truncation" in words
    assert page.locator("#aligned .lgm-hollow").count() == 2 * (2 * 3 + 2)   # values, and legends
    before = page.locator("#costs").inner_html()
    page.locator("#features button").nth(1).click()
    assert page.locator("#costs").inner_html() != before
    assert "detail features" in page.locator("#costs svg").get_attribute("aria-label")


def test_the_address_restores_everything(page, file, browser):
    link = "#k=11&image=3&token=20&class=2&noise=77&tuned=0&guidance=2.5&steps=5&features=1"
    other = opened(browser, file.as_uri() + link)
    wanted = dict(K=11, image=3, token=20, y=2, seed=77, tuned=False, guidance=2.5, steps=5,
                  features=1)
    assert other.evaluate("state") == wanted
    assert other.locator("#link").get_attribute("href") == link
    assert "noise 77, 11 tokens, 5 steps, guidance 2.5" in other.locator("#made").inner_text()
    other.locator("#count").fill("12")
    until(other, "location.hash.startsWith('#k=12&image=3')")
    odd = "#k=nonsense&noise=1e99&class=-4&token=9999&guidance=1.3&steps="
    other.evaluate(f"location.hash = '{odd}'")
    until(other, "state.token === 63")
    assert other.evaluate("[state.K, state.y, state.seed, state.guidance, state.steps]") == [
        12, 0, 4294967295, 1.5, 5]
    assert not other.complaints
    other.context.close()


def picture(width, height, form="png", colour="white"):
    "The bytes of an image file: a disc."
    image = Image.new("RGB", (width, height), "black" if colour == "white" else "white")
    for x in range(width // 4, width * 3 // 4):
        image.paste(colour, (x, height // 4, x + 1, height * 3 // 4))
    buffer = io.BytesIO()
    image.save(buffer, format=form)
    return buffer.getvalue()


def cut_out():
    "The bytes of a PNG: a dark disc on nothing."
    image = Image.new("RGBA", (280, 280), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((70, 70, 210, 210), (20, 20, 20, 255))
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def give(page, name, content, kind="image/png"):
    page.locator("#file").set_input_files(dict(name=name, mimeType=kind, buffer=content))


def test_own_pictures(page, pictures, trained):
    go(page, 16)
    give(page, "box.jpg", picture(640, 480, "jpeg"), "image/jpeg")
    until(page, f"{SETTLED} && pictures.names[0] === 'your picture box.jpg'"
                           " && found.reconstruct.version === pictures.version")
    mine = made(page, "[pictures.bytes[0]]")
    assert mine[0, 14, 14, 0] > 240 and mine[0, 0, 0, 0] < 15
    x = torch.tensor(mine).permute(0, 3, 1, 2).float() / 127.5 - 1
    again = made(page, "[found.reconstruct.pictures.merging[0]]")
    assert np.abs(again - levels(trained.reconstruct(x, 16))).max() <= 2
    page.screenshot(path=pictures / "html_own.png", full_page=True)
    give(page, "bright.png", picture(60, 90, colour="black"))       # a bright border: inverted
    until(page, "pictures.names[1] === 'your picture box.jpg'")
    assert made(page, "[pictures.bytes[0]]")[0, 14, 14, 0] > 240
    assert "60 x 90 pixels" in page.locator("#taken").inner_text()
    assert "inverted" in page.locator("#taken").inner_text()
    assert "image=" not in page.locator("#link").get_attribute("href")
    give(page, "cut.png", cut_out())                  # transparent: on white, as Python has it
    until(page, "pictures.names[0] === 'your picture cut.png'")
    wanted, _ = read_upload(cut_out(), 28, 1)
    assert np.abs(made(page, "[pictures.bytes[0]]") - levels(wanted)).mean() < 4
    data = page.evaluate_handle("""bytes => {
        const t = new DataTransfer(), file = [Uint8Array.from(bytes)];
        t.items.add(new File(file, "d.png", {type: "image/png"}));
        return t; }""", list(picture(40, 40)))
    page.dispatch_event("body", "drop", dict(dataTransfer=data))
    until(page, "pictures.names[0] === 'your picture d.png'")
    assert page.locator("#message").is_hidden()
    page.locator("#file").set_input_files([dict(name=f"{i}.png", mimeType="image/png",
                                                buffer=picture(30, 30)) for i in range(10)])
    page.locator("#message", has_text="first 8 of 10").wait_for()
    page.locator("#back").click()
    until(page, f"{SETTLED} && pictures.names[0] === D.images[0].name")
    assert page.locator("#message").is_hidden() and page.locator("#back").is_hidden()


def large(width, height):
    "The head of a PNG that says it has so many pixels."
    return picture(8, 8)[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(40)


@pytest.mark.parametrize("name, content, said", [
    ("notes.png", b"these are words", "no picture"), ("empty.png", b"", "no picture"),
    ("dot.png", picture(4, 90), "4 x 90 pixels"), ("huge.png", large(60000, 50000), "3000 million"),
    ("cut.png", picture(300, 300)[:60], "no picture")])
def test_what_is_no_picture_is_a_sentence(page, name, content, said):
    version = page.evaluate("pictures.version")
    give(page, name, content)
    page.locator("#message", has_text=name).wait_for()
    assert said in page.locator("#message").inner_text()
    assert page.evaluate("pictures.version") == version
    go(page, 9)                                      # alive


def test_a_wrong_noise_is_a_sentence(page):
    for wrong in ("-1", "1.5", "99999999999"):
        page.locator("#seed").fill(wrong)
        page.locator("#message", has_text="whole number").wait_for()
    page.locator("#seed").fill("12")
    until(page, f"{SETTLED} && found.sample.seed === 12")
    assert "whole number" not in page.locator("#message").inner_text()
    page.locator("#seed").fill("-3")
    page.locator("#another").click()
    assert "whole number" not in page.locator("#message").inner_text()


DAMAGED = "document.querySelector('#message').textContent.includes('are damaged')"


def test_half_a_file_is_a_sentence(file, browser, tmp_path):
    text = file.read_text(encoding="utf-8")
    for share, said in ((0.6, "are damaged"), (0.0005, "is incomplete")):
        half = tmp_path / "half.html"
        half.write_text(text[:int(share * len(text))] if share > 0.1
                        else text[:text.index('<script type="application/json"')], encoding="utf-8")
        page = opened(browser, half.as_uri(), wait=f"""document.querySelector('#message')
            .textContent.includes('{said}')""")
        assert page.locator("#message").is_visible()
        page.context.close()


def with_weights(file, target, change):
    "A copy of the page whose weights are changed."
    text = file.read_text(encoding="utf-8")
    start = text.index('id="weights">') + len('id="weights">')
    end = text.index("</script>", start)
    target.write_text(text[:start] + change(text[start:end]) + text[end:], encoding="utf-8")
    return target.as_uri()


@pytest.mark.parametrize("change", [
    lambda w: w[:len(w) // 2], lambda w: w[:100000] + "AAAAAAAA" + w[100008:],
    lambda w: "", lambda w: "?" + w[1:]])
def test_damaged_weights_are_a_sentence(file, browser, tmp_path, change):
    address = with_weights(file, tmp_path / "damaged.html", change)
    page = opened(browser, address, wait=DAMAGED)
    assert page.locator("#regions svg").count() == 1 and not page.complaints
    page.context.close()


@pytest.mark.parametrize("without, backend", [
    ("delete window.Worker", "WebAssembly beside the page"),
    ("window.Worker = class { constructor() { throw new Error('no'); } }", "beside the page"),
    ("window.Worker = class { constructor() { setTimeout(() => this.onerror({}), 50); } }",
     "beside the page"),
    ("delete window.Worker; WebAssembly.instantiate = () => Promise.reject(new Error('no'))",
     "JavaScript beside the page")])
def test_slower_paths(file, browser, without, backend):
    page = opened(browser, file.as_uri(), before=without)
    assert backend in page.locator("#backend").inner_text()
    go(page, 5)
    assert not page.complaints
    page.context.close()


def test_plain_javascript_computes_the_same(file, browser):
    link = file.as_uri() + "#k=16&noise=5&tuned=0&steps=4"
    slow = opened(browser, link, before=(
        "delete window.Worker; WebAssembly.instantiate = () => Promise.reject(new Error('no'))"))
    quick = opened(browser, link)
    for what in ("found.reconstruct.pictures.merging", "[found.sample.picture]"):
        assert np.abs(made(slow, what) - made(quick, what)).max() <= 1
    for page in (slow, quick): page.context.close()


def test_an_old_browser_is_a_sentence(file, browser):
    page = opened(browser, file.as_uri(), before="delete window.DecompressionStream",
                  wait="document.querySelector('#message').textContent.includes('too old')")
    assert not page.complaints
    page.context.close()


def test_everything_has_a_name(page):
    "For screen readers: pictures, drawings, controls."
    nameless = page.evaluate("""[...document.querySelectorAll('img, svg, button, input, progress')]
        .filter(e => !(e.alt || e.getAttribute('aria-label') || e.textContent.trim()
                       || (e.labels && e.labels.length && e.labels[0].textContent.trim())
                       || e.querySelector && e.querySelector('img[alt]')))
        .map(e => e.outerHTML.slice(0, 200))""")
    assert nameless == []


def test_memory_stays(page):
    "Two hundred samples one after the other: nothing is kept of them."
    session = page.context.new_cdp_session(page)
    def used():
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"]
    page.evaluate("Object.assign(state, {K: 4, tuned: false, steps: 2}); draw()")
    def draw(count, first):
        for seed in range(first, first + count):
            page.evaluate(f"state.seed = {seed}; draw()")
            until(page, f"found.sample.seed === {seed}")
    draw(20, 1000)
    before = used()
    draw(200, 2000)
    assert used() < before + 3_000_000


def test_no_network_and_no_complaints(page, file):
    ours = "data:", "blob:", file.as_uri()
    assert [asked for asked in page.asked if not asked.startswith(ours)] == []
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(file, browser, pictures, scheme):
    page = opened(browser, file.as_uri(), viewport=dict(width=360, height=740), color_scheme=scheme)
    until(page, "found.scores")
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=pictures / f"html_phone_{scheme}.png", full_page=True)
    page.context.close()


def test_the_weights_lie_in_the_page_as_shipped(file, trained):
    "Every number of the networks, to the bit."
    import json
    import zlib
    text = file.read_text(encoding="utf-8")
    facts = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["engine"]
    packed = re.search(r'id="weights">(.*?)</script>', text, re.S)[1]
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
    halves = planes.reshape(2, -1).T.copy().view(np.float16).ravel()
    networks = [(facts["methods"][0]["table"], trained.tokenizer.state_dict()),
                (facts["methods"][1]["table"], trained.truncation.tokenizer.state_dict()),
                (facts["generator"]["table"], trained.generator.state_dict())]
    for table, tensors in networks:
        for name, place in table.items():
            n = int(np.prod(place["shape"]))
            got = torch.tensor(halves[place["at"]:place["at"] + n].astype(np.float32))
            assert torch.equal(got, tensors[name].float().flatten())


@pytest.mark.parametrize("kind", ["grey", "colour", "free", "blocks", "sphere", "softvq",
                                  "one length", "long names", "256 tokens"])
def test_any_run_computes_as_torch_does(kind, tmp_path, browser):
    "Other sizes, colours, kinds of tokens and of latents; every weight drawn at random."
    run = run_of(tmp_path, kind)
    tensors, _ = load_tensors(run / "generator.safetensors")
    g = torch.Generator().manual_seed(0)
    for tensor in tensors.values(): tensor += 0.1 * torch.randn(tensor.shape, generator=g)
    save_tensors(run / "generator.safetensors", tensors)
    explore(html=tmp_path / "a.html", run=run)
    trained = load_weights(run)
    for network in (trained.tokenizer, trained.generator):
        network.load_state_dict({name: t.half().float() if t.is_floating_point() else t
                                 for name, t in network.state_dict().items()})
    page = opened(browser, (tmp_path / "a.html").as_uri())
    channels = trained.settings.tokenizer.image_channels
    x = torch.tensor(made(page, "pictures.bytes", channels)).permute(0, 3, 1, 2) / 127.5 - 1
    noise = torch.randn(1, trained.generator.tokens, trained.generator.channels, generator=g)
    give_noise(page, noise)
    for K in {trained.lengths[0], trained.lengths[len(trained.lengths) // 2], trained.lengths[-1]}:
        page.evaluate("wish => { Object.assign(state, wish); draw(); }",
                      dict(K=K, y=1, tuned=False, steps=3, guidance=2, seed=K))
        until(page, f"{SETTLED} && found.sample.seed === {K}")
        again = made(page, "found.reconstruct.pictures[D.methods[0]]", channels)
        assert np.abs(again - levels(trained.reconstruct(x, K))).max() <= 2
        drawn = made(page, "[found.sample.picture]", channels)
        wanted = levels(trained.sample([1], K, noise=noise, guidance=2.0, steps=3))
        assert np.abs(drawn - wanted).max() <= 4 and wanted.std() > 1
        assert page.evaluate(f"labelsAt(g, {K})") == trained.pattern(K).labels.tolist()
    assert not page.complaints
    page.context.close()


@pytest.mark.parametrize("change, said", [
    (dict(shorten="own"), "each image chooses its own"), (dict(width=20), "multiples of 8"),
    (dict(shorten="truncate"), "no merge tree")])
def test_what_a_page_cannot_hold_is_a_sentence(tmp_path, change, said):
    run = make_run(tmp_path / "run", draw_pictures(tmp_path / "pictures", 2), 2,
                   **COLOUR | change)
    with pytest.raises(UserError, match=said): explore(html=tmp_path / "a.html", run=run)
    assert not (tmp_path / "a.html").exists()


def test_networks_too_large_are_told_before_the_work(tmp_path, monkeypatch):
    run = run_of(tmp_path, "colour")
    monkeypatch.setitem(LIMITS, "page", 10_000)
    with pytest.raises(UserError, match="million weights"):
        explore(html=tmp_path / "a.html", run=run)


def test_firefox(file, trained, tmp_path):
    "The same in another browser: pictures, samples, the address, nothing to complain of."
    if firefox() is None: pytest.skip("no Firefox here: install one or name it in FIREFOX")
    noise = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(3))
    with opened_firefox(tmp_path) as page:
        page.goto(file.as_uri() + "#k=16&class=7&tuned=0&steps=8&guidance=4")
        until(page, READY)
        assert page.evaluate("document.body.dataset.ready") == "WebAssembly"
        x = torch.tensor(made(page, "pictures.bytes")).permute(0, 3, 1, 2) / 127.5 - 1
        again = made(page, "found.reconstruct.pictures.merging")
        assert np.abs(again - levels(trained.reconstruct(x, 16))).max() <= 2
        page.evaluate(f"(gaussians = () => Float32Array.from({noise.flatten().tolist()}), 1)")
        page.evaluate("(state.seed = 1, draw(), 1)")
        until(page, f"{SETTLED} && found.sample.seed === 1")
        wanted = levels(trained.sample([7], 16, noise=noise, guidance=4.0, steps=8))
        assert np.abs(made(page, "[found.sample.picture]") - wanted).max() <= 4
        for K in (4, 33, 64):
            page.evaluate(f"(go({K}), 1)")
            assert page.evaluate(FRESH)
            until(page, SETTLED)
        assert page.complaints == []


def test_the_shipped_page_is_of_these_scripts():
    "data/results/explore.html is made again when its scripts, its style or its networks change."
    shipped = (PROJECT / "data" / "results" / "explore.html").read_text(encoding="utf-8")
    for name in (*VIEWS, *SCRIPTS, *ENGINE): assert static(f"{name}.js").strip() in shipped, name
    assert static("page.css").strip() in shipped
    assert engine_facts(load_weights(), methods_of(load_weights()))[1] in shipped
    assert len(shipped) < 12_000_000
