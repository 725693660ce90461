"A Firefox without a window, driven by its own protocol (WebDriver BiDi)."
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import websocket
from conftest import PATIENCE, free_port


def firefox():
    "Path of a Firefox program, or None; the variable FIREFOX names another one."
    found = map(shutil.which, ("firefox", "firefox-esr"))
    return os.environ.get("FIREFOX") or next(filter(None, found), None)


class Page:
    "The one page of a running Firefox. complaints: errors that it told."
    def __init__(self, socket):
        self.socket, self.number, self.complaints = socket, 0, []
        self.ask("session.new", capabilities={})
        self.ask("session.subscribe", events=["log.entryAdded"])
        self.context = self.ask("browsingContext.getTree")["contexts"][0]["context"]

    def ask(self, method, **params):
        "The answer to a command; events that come before it are read."
        self.number += 1
        self.socket.send(json.dumps(dict(id=self.number, method=method, params=params)))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.complaints.append(message["params"]["text"])
            if message.get("id") != self.number: continue
            assert message["type"] == "success", message
            return message["result"]

    def goto(self, address):
        self.ask("browsingContext.navigate", context=self.context, url=address, wait="complete")

    def evaluate(self, words):
        "The value of an expression, through JSON."
        answer = self.ask("script.evaluate", expression=f"JSON.stringify({words})",
                          target=dict(context=self.context), awaitPromise=True)
        assert answer["type"] == "success", answer
        value = answer["result"].get("value")
        return None if value is None else json.loads(value)

    def wait_for_timeout(self, milliseconds): time.sleep(milliseconds / 1000)


@contextmanager
def opened_firefox(folder):
    "A `Page` of a fresh profile in a folder."
    port = free_port()
    words = [firefox(), "--headless", "--no-remote", "--profile", str(folder),
             f"--remote-debugging-port={port}"]
    with open(folder / "firefox.log", "w") as out: job = subprocess.Popen(words, stdout=out,
                                                                          stderr=out)
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                address = f"ws://127.0.0.1:{port}/session"
                socket = websocket.create_connection(address, PATIENCE, suppress_origin=True)
                break
            except OSError:
                assert time.monotonic() < deadline, (folder / "firefox.log").read_text()[-2000:]
                time.sleep(0.3)
        yield Page(socket)
        socket.close()
    finally:
        job.terminate()
        job.wait(PATIENCE)
