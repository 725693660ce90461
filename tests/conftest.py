"A real Chromium, and a real JupyterLab on a copy of the notebooks."
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PATIENCE = 600      # seconds that a busy machine may take, where a free one takes a moment


def chromium():
    "Path of a Chromium or Chrome program, or None; the variable CHROMIUM names another one."
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return os.environ.get("CHROMIUM") or next(filter(None, found), None)


@pytest.fixture(scope="session")
def browser():
    "Chromium without a window."
    from playwright.sync_api import sync_playwright
    if chromium() is None:
        pytest.skip("no Chromium here: install one (on Debian: apt install chromium) "
                    "or name it in CHROMIUM")
    with sync_playwright() as p:
        opened = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"],
                                   timeout=1000 * PATIENCE)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def pictures():
    "Folder for screenshots: tests/pictures, not kept by git."
    folder = PROJECT / "tests" / "pictures"
    folder.mkdir(exist_ok=True)
    return folder


def free_port():
    "A port that nobody listens on, of those that no connection takes for itself meanwhile."
    for port in random.SystemRandom().sample(range(20000, 32000), 1000):
        with suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port from 20000 to 32000")


def answers(address):
    "Whether a server answers there."
    try: return bool(urllib.request.urlopen(address, timeout=5))
    except OSError: return False


@contextmanager
def jupyter(kind, folder):
    "Address of a copy of the explore page in a running JupyterLab (lab) or Notebook 7 (notebook)."
    port, log = free_port(), folder / "server.log"
    shutil.copy(PROJECT / "nbs" / "explore.ipynb", folder)
    words = [sys.executable, "-m", "jupyter", kind, "--no-browser", "--allow-root",
             f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    around = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config")}
    with open(log, "w") as out:
        job = subprocess.Popen(words, stdout=out, stderr=out, cwd=folder, env=around)
    home, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    try:
        while not answers(f"{home}/api"):
            if job.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"jupyter {kind} does not answer: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield home + ("/lab/tree/" if kind == "lab" else "/notebooks/") + "explore.ipynb"
    finally:
        job.terminate()
        job.wait(PATIENCE)


@pytest.fixture(scope="session", params=["lab", "notebook"])
def server(request, tmp_path_factory):
    "(kind, address of the explore page) in JupyterLab and in Notebook 7."
    asked = [sys.executable, "-m", "jupyter", request.param, "--version"]
    if subprocess.run(asked, capture_output=True).returncode:
        pytest.skip(f"jupyter {request.param} is not installed")
    with jupyter(request.param, tmp_path_factory.mktemp("pages")) as address:
        yield request.param, address
