"Random settings, folders, pictures and short runs: see fuzz.py, which tries more of them."
import pytest
from fuzz import fuzz

RUNS = dict(parse=2000, folders=2000, uploads=2000, runs=25)


@pytest.mark.parametrize("kind, runs", RUNS.items())
def test_nothing_breaks(kind, runs):
    "Hypothesis raises the smallest input that breaks it."
    fuzz(kind, runs)
