"A real Chromium, and a real JupyterLab on a copy of the notebooks."
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def chromium():
    "Path of a Chromium or Chrome program, or None; the variable CHROMIUM names another one."
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright
    if chromium() is None: pytest.skip("no Chromium here: install one (on Debian: apt install chromium) or name it in CHROMIUM")
    with sync_playwright() as p:
        opened = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def pictures(request):
    "Folder for screenshots: tests/pictures, not kept by git."
    folder = PROJECT / "tests" / "pictures"
    folder.mkdir(exist_ok=True)
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def jupyter(kind, folder):
    "The address of a copy of the explore page in a running JupyterLab (kind lab) or Notebook 7 (kind notebook)."
    port = free_port()
    shutil.copy(PROJECT / "nbs" / "21_explore.ipynb", folder)
    words = [sys.executable, "-m", "jupyter", kind, "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    with open(folder / "server.log", "w") as log: job = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, env=os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config")})
    home = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try: urllib.request.urlopen(f"{home}/api", timeout=1); break
            except OSError: time.sleep(0.5)
        else: raise RuntimeError((folder / "server.log").read_text()[-2000:])
        yield home + ("/lab/tree/21_explore.ipynb" if kind == "lab" else "/notebooks/21_explore.ipynb")
    finally: job.terminate(); job.wait(20)


@pytest.fixture(scope="session", params=["lab", "notebook"])
def server(request, tmp_path_factory):
    "(kind, address of the explore page) in JupyterLab and in Notebook 7."
    if subprocess.run([sys.executable, "-m", "jupyter", request.param, "--version"], capture_output=True).returncode:
        pytest.skip(f"jupyter {request.param} is not installed")
    with jupyter(request.param, tmp_path_factory.mktemp("pages")) as address: yield request.param, address
