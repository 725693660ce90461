"""How fast the page that needs no Python computes, in Chromium, from disk, with the network off.

`python tests/bench_page.py` writes data/results/page.json: milliseconds from a question to its
answer (one thread): in a worker with WebAssembly, and in the page with plain JavaScript; and from
opening the file to its first pictures.
"""
import statistics
import tempfile
import time
from pathlib import Path

from conftest import PROJECT, chromium
from playwright.sync_api import sync_playwright
from test_html_page import READY, until

from lgm_nb.base.files import save_json
from lgm_nb.explore.page import explore
from lgm_nb.training.runs import environment

ROUNDS = 15
PLAIN = "delete window.Worker; WebAssembly.instantiate = () => Promise.reject(new Error('no'));"
TIMED = """async ([kind, facts]) => {
    const began = performance.now();
    await new Promise(done => {
        const old = answered;
        answered = message => {
            if (message.id !== -1) return old(message);
            if (message.done) { answered = old; done(); }
        };
        server({kind, id: -1, ...facts, ...(kind === "reconstruct" ? {pictures: given()} :
            {noise: gaussians(0, D.N * D.latent)})});
    });
    return performance.now() - began;
}"""
WISHES = {"eight reconstructions at K = 16, both methods": ("reconstruct", dict(K=16)),
          "eight reconstructions at K = 64, both methods": ("reconstruct", dict(K=64)),
          "a sample of 8 steps at K = 16": ("sample", dict(K=16, y=9, points=9, guidance=4)),
          "a sample of 8 steps at K = 64": ("sample", dict(K=64, y=9, points=9, guidance=4))}


def measure(browser, address, plain):
    "Times of one backend: {what: {median, largest, rounds} in ms}, and seconds to first pictures."
    context = browser.new_context(offline=True)
    if plain: context.add_init_script(PLAIN)
    page = context.new_page()
    began = time.monotonic()
    page.goto(address)
    until(page, READY)
    first = time.monotonic() - began
    until(page, "found.scores")
    page.wait_for_timeout(500)
    found = {}
    for what, wish in WISHES.items():
        times = [page.evaluate(TIMED, list(wish)) for _ in range(ROUNDS + 2)][2:]
        found[what] = dict(median=statistics.median(times), largest=max(times), rounds=ROUNDS)
    backend = page.evaluate("document.body.dataset.ready")
    context.close()
    return backend, dict(first_pictures_s=first, milliseconds=found)


def main():
    "Measure, write the file, print the figures."
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        file = Path(folder) / "explore.html"
        explore(html=file)
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        rows = dict(measure(browser, file.as_uri(), plain) for plain in (False, True))
        megabytes, version = file.stat().st_size / 1e6, browser.version
        browser.close()
    save_json(PROJECT / "data" / "results" / "page.json",
              dict(command="python tests/bench_page.py", megabytes=megabytes, chromium=version,
                   backends=rows, environment=environment()))
    for backend, row in rows.items():
        print(f"{backend}: first pictures after {row['first_pictures_s']:.1f} s")
        for what, v in row["milliseconds"].items():
            print(f"  {what}: median {v['median']:.0f} ms, slowest {v['largest']:.0f} ms "
                  f"of {v['rounds']}")


if __name__ == "__main__": main()
