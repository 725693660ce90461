"""How fast the explore page is in a real browser.

`python tests/bench_browser.py` writes data/results/browser.json. First picture: seconds from Run
All to the first explorer's picture, each time in a fresh kernel. Sweep: twenty key presses without
a pause; milliseconds from the last press to the picture of the last token count.
"""
import random
import statistics
import tempfile
import time
from pathlib import Path

from conftest import PROJECT, chromium, jupyter
from playwright.sync_api import sync_playwright
from test_explore_page import EXPLORERS, IDLE, bring, handle, opened_page, settled

from lgm_nb.base.files import save_json
from lgm_nb.training.runs import environment

ROUNDS, SWEEPS = 3, 10


def sweep(page, name, explorer, rng):
    "Milliseconds from the last of twenty presses to the right picture."
    def count(): return int(explorer.locator(".lgm-cost").get_attribute("data-k"))
    here = count()
    right = here <= 44 if not 24 <= here <= 44 else rng.random() < 0.5
    handle(explorer).click()
    goal = min(64, max(4, count() + (20 if right else -20)))
    for _ in range(20): page.keyboard.press("ArrowRight" if right else "ArrowLeft")
    began = time.monotonic()
    settled(page, name, goal)
    return 1000 * (time.monotonic() - began)


def one_kernel(browser, sweeps, rng):
    "Seconds to the first picture in a fresh kernel; adds the times of its sweeps to `sweeps`."
    with tempfile.TemporaryDirectory() as folder, jupyter("lab", Path(folder)) as address:
        page = opened_page(browser, "lab", address)
        for name in EXPLORERS: bring(page, name)
        page.wait_for_selector(IDLE, state="attached")
        page.wait_for_timeout(5000)
        for name in EXPLORERS:
            explorer = bring(page, name)
            sweeps[name] += [sweep(page, name, explorer, rng) for _ in range(SWEEPS)]
        page.close()
        return page.first


def main():
    "Measure, write the file, print the figures."
    sweeps, rng = {name: [] for name in EXPLORERS}, random.Random(0)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        first = [one_kernel(browser, sweeps, rng) for _ in range(ROUNDS)]
    settle = {name: dict(median=statistics.median(v), largest=max(v), sweeps=len(v))
              for name, v in sweeps.items()}
    seconds = dict(median=statistics.median(first), largest=max(first), runs=len(first))
    save_json(PROJECT / "data" / "results" / "browser.json",
              dict(command="python tests/bench_browser.py", first_picture_s=seconds,
                   settle_ms=settle, environment=environment()))
    print(f"first picture: median {seconds['median']:.1f} s, slowest {seconds['largest']:.1f} s "
          f"of {len(first)}")
    for name, v in settle.items():
        print(f"{name:16s} sweep of 20 presses settles: median {v['median']:.0f} ms, "
              f"slowest {v['largest']:.0f} ms of {v['sweeps']}")


if __name__ == "__main__": main()
