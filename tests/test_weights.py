"""The command that makes the trained weights, whole, with small networks and few images."""
from functools import partial
from unittest.mock import patch

from lgm_nb import weights
from lgm_nb.base.files import load_json
from lgm_nb.generator import GeneratorSettings
from lgm_nb.tokenizer import TokenizerSettings
from lgm_nb.training.settings import (
    DataSettings,
    EvaluationSettings,
    GeneratorTraining,
    Settings,
    TokenizerTraining,
)

LENGTHS = (64, 4)
SMALL = Settings(
    device="cpu", precision="float32", data=DataSettings(limit=400),
    tokenizer=TokenizerSettings(width=32, encoder_depth=1, decoder_depth=1, heads=2),
    tokenizer_training=TokenizerTraining(steps=12, warmup=2),
    generator=GeneratorSettings(width=32, depth=1, heads=2),
    generator_training=GeneratorTraining(steps=12, warmup=2),
    evaluation=EvaluationSettings(lengths=LENGTHS, points=(3,), guidance_lengths=LENGTHS,
                                  guidance_samples=20,
                                  guidance=(1.0,), guidance_grid=(1.0, 2.0), points_grid=(3, 4)))


def make(folder):
    with patch.object(weights, "presets", lambda: {"small": SMALL}), \
         patch.object(weights, "measure_stored", partial(weights.measure_stored, samples=1001)):
        weights.make_weights("small", folder / "runs", folder / "out")


def test_trains_searches_stores_measures_and_goes_on(tmp_path, capsys):
    make(tmp_path)
    trained = weights.load_weights(tmp_path / "out")
    for one, run in ((trained, "small"), (trained.truncation, "small-truncate")):
        found = load_json(one.folder / "metrics.json")
        best = load_json(tmp_path / "runs" / run / "guidance.json")["best"]
        assert list(found["lengths"]) == [str(K) for K in LENGTHS] and found["samples"] == 1001
        for K, row in found["lengths"].items():  # measured with what the search found
            assert {name: row[name] for name in ("guidance", "points")} == best[K]
    assert "## Truncation" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert set(load_json(tmp_path / "out" / "lengths.json")["psnr"]) == {"merge", "truncate"}
    capsys.readouterr()
    card = (tmp_path / "out" / "README.md").read_bytes()
    make(tmp_path)  # nothing is trained or searched twice
    said = capsys.readouterr().out
    assert said.count("is trained already") >= 4 and "K = 64, guidance" not in said
    assert (tmp_path / "out" / "README.md").read_bytes() == card
