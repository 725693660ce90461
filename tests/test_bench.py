"The bench: what its files hold, and what it does with what is missing, fails or takes too long."
import json
import time

import pytest
import torch

from lgm_nb import bench, bench_parts, bench_peers, bench_plan, bench_versions
from lgm_nb.base.errors import UserError
from lgm_nb.base.files import load_json
from lgm_nb.bench_steps import settings_of

CPU = torch.device("cpu")
TINY = dict(width=32, depth=1, heads=2, batch=4, lengths=(64, 8), rounds=2, warmup=1)
HOW = dict(precision="float32", compile=False, seconds=0.02)


def tiny_cells():
    "One small cell of most kinds."
    def row(name, **more): return bench_plan.cell(name, needs=0, **(dict(seconds=0.02) | more))
    return [row("rates", sizes=(64,)), row("steps", case=TINY, most=60, passes=True),
            row("attention", shapes=((2, 2, 8, 16),), learn=True),
            row("sampling", batches=(2,), points=2), row("tokenizer", batch=2),
            row("profile", what="training", case=TINY | dict(lengths=(8,)))]


def test_a_table_is_measured_in_a_process_of_its_own(tmp_path):
    broken = bench_plan.cell("stage", needs=0, stage="generator", K=300)
    plan = dict(kind="cpu", seed=0, command="python -m lgm_nb.bench cpu", perceptual=True, steps=2,
                warmup=2, batches=dict(generator=2), ends=time.time() + 3600,
                cells=[broken, *tiny_cells()])
    found = bench.bench(plan, tmp_path / "table.json")
    assert load_json(tmp_path / "table.json") == found
    states = [c["state"] for c in found["cells"]]
    assert states == ["failed"] + ["measured"] * 6, [c["remark"] for c in found["cells"]]
    assert "K = 300" in found["cells"][0]["remark"]
    assert {"model", "cores", "threads", "versions", "commit"} <= found["environment"].keys()
    assert all("took" in c for c in found["cells"])
    steps, attention = found["cells"][2], found["cells"][3]
    for what in ("training", "forward"):
        for K in ("64", "8"):
            row = steps[what][K]
            assert {"low", "median", "high", "count"} == row["seconds"].keys()
            assert row["share"] > 0 and row["gflops"] > 0
    assert steps["graphs"] == 0 and steps["training"]["64"]["operation_ratio"] == 1
    assert attention["rows"][0]["difference"] < 1e-5
    assert {"masked", "folded", "attend", "layer"} == attention["rows"][0]["ratios"].keys()
    for c in found["cells"]: assert "\n" not in bench.table_line(c)


def test_a_peer_that_is_not_installed_is_left_out_with_a_sentence(monkeypatch):
    monkeypatch.setattr(bench_peers, "find_spec", lambda name: None)
    times, facts, left_out = bench_peers.network_seconds(TINY | HOW, CPU, ("ours", "diffusers"),
                                                         False, 0)
    assert set(times) == set(facts) == {"ours"}
    assert "pip install" in left_out["diffusers"] and left_out["diffusers"].count(".") < 4


def test_the_masked_form_is_the_same_function():
    outputs, case = [], TINY | HOW | dict(lengths=(8,))
    for name in ("ours", "masked"):
        model, call, _ = bench_peers.ready_network(name, case, CPU)
        torch.manual_seed(1)
        with torch.no_grad():
            for p in model.parameters(): p.copy_(torch.randn_like(p) / p.shape[-1] ** 0.5)
            outputs.append(call(torch.randn(2, 8, 8), torch.rand(2), torch.arange(2)))
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("heads", [16, 64, 72])
def test_forms_of_attention_agree(heads):
    q, k, v = torch.randn(3, 2, 2, 8, heads)
    log_sizes = torch.tensor([1, 1, 2, 3, 1, 4, 8, 1.0]).log()
    forms = {name: form(q, k, v, log_sizes) for name, form in bench_parts.FORMS.items()}
    for name in ("folded", "attend"): torch.testing.assert_close(forms[name], forms["masked"])
    assert not torch.allclose(forms["plain"], forms["masked"])


def test_every_cell_can_be_asked_for():
    for kind in ("cpu", "gpu"):
        for c in bench_plan.cells(kind):
            json.dumps(c)
            if "case" in c:
                case = c["case"] | dict(precision=c["precision"], compile=c["compile"])
                settings_of(case, CPU).generator.resolve()


def test_versions_are_compared_in_turns(tmp_path):
    case = TINY | dict(precision="float32", compile=False)
    rows = [dict(what=what, turns=2, case=case, who=("old", "new"), state="waiting", remark="")
            for what in ("training", "profile_sampling")]
    here = bench_versions.Path(bench_versions.lgm_nb.__file__).parents[1]
    table = bench_versions.compare(here, tmp_path / "x.json", minutes=30, rows=rows)
    training, profile = load_json(tmp_path / "x.json")["rows"]
    assert training["state"] == profile["state"] == "measured", table["rows"]
    assert {"old", "new"} == training["seconds"].keys() == profile["profiles"].keys()
    assert training["seconds"]["old"]["64"]["count"] == 4
    assert training["old_over_new"]["8"]["count"] == 2


def test_a_folder_without_a_version_is_told(tmp_path, capsys):
    for words in (["compare", "--old", str(tmp_path)], ["compare"], ["cpu", "--old", "x"]):
        assert bench.main([*words, "--out", str(tmp_path / "x.json")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1, said
        assert "git worktree add" in said or "--old FOLDER" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError): bench_versions.check_version(tmp_path / "nowhere")
