"Random settings, folders, pictures and short runs: see fuzz.py, which tries more of them."
import pytest
from fuzz import fuzz


@pytest.mark.parametrize("kind, runs", [("parse", 2000), ("folders", 2000), ("uploads", 2000), ("runs", 25)])
def test_nothing_breaks(kind, runs): fuzz(kind, runs)
