"""The training command, which stands still at a known place until a signal comes: so no test has to
come in time.
"""
import json
import os
import signal
import sys
import time
from pathlib import Path

from conftest import PATIENCE


def stand(place, stage, step, where="step", ranks=(0, 1)):
    """Let training stand still once, at `step` of `stage` or at the first such place after it.

    where: "step", at the beginning of a step, when the state before it is whole (if one was due);
    "writing", in the middle of writing the state after that step. It goes on when it is asked to
    stop; where nobody asks, it raises. place: a path; the file PLACE.RANK tells that this process
    stands. ranks: which do. For a process of its own: nothing is put back.
    """
    from lgm_nb.training import runs
    from lgm_nb.training.fitting import Fit
    rank = int(os.environ.get("RANK", 0))
    said = Path(f"{place}.{rank}")
    agree, save, write = Fit.agree, runs.States.save, runs.Digesting.write

    def wait(states, at):
        if states.stage != stage or at < step or rank not in ranks or said.exists(): return
        said.touch()
        end = time.monotonic() + PATIENCE
        while signal.getsignal(signal.SIGTERM).__self__.asked is None:
            if time.monotonic() > end: raise TimeoutError("nobody asked to stop")
            time.sleep(0.001)

    def agree_and_wait(self, at, asked, ready):
        agree(self, at, asked, ready)
        wait(self.states, at)

    def save_and_wait(self, at, **state):
        def write_and_wait(into, data):
            if into.file.tell() > 10_000: wait(self, at)
            return write(into, data)
        runs.Digesting.write = write_and_wait
        save(self, at, **state)

    if where == "step": Fit.agree = agree_and_wait
    else: runs.States.save = save_and_wait


if __name__ == "__main__":
    from lgm_nb.train import main
    stand(**json.loads(os.environ["STAND"]))
    sys.exit(main())
