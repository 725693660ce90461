"The number format of a run, compiled blocks, and forms of attention."

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lgm_nb import generator, train
from lgm_nb.base import precision
from lgm_nb.base.errors import UserError
from lgm_nb.base.passes import scaled_norm
from lgm_nb.generator import (
    DiT,
    GeneratorSettings,
    counted_from,
    counted_in_channels,
    counting_operations,
)
from lgm_nb.merging import MergePattern
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings
from lgm_nb.training import runs, speed
from lgm_nb.training.optimisers import Muon, make_optimisers, orthogonalise, split_for
from lgm_nb.training.places import differences
from lgm_nb.training.presets import presets
from lgm_nb.training.runs import Run
from lgm_nb.training.settings import Settings, comparable, digest, from_plain
from lgm_nb.training.stages import tokenizer_step

CPU = torch.device("cpu")


@pytest.mark.parametrize("times, found", [(2.5, "bf16"), (1.2, "float32"), (0.0, "float32")])
def test_auto_is_measured_once_and_kept(tmp_path, monkeypatch, capsys, times, found):
    asked = []
    monkeypatch.setattr(precision, "faster_in_half", lambda device: asked.append(1) or times)
    settings = Settings(out=tmp_path, device="cpu")
    run = Run(settings)
    assert run.settings.precision == found and asked == [1]
    assert f"Precision {found}" in capsys.readouterr().out
    kept = json.loads((tmp_path / "settings.json").read_text())
    assert kept.get("precision", "float32") == found
    (tmp_path / "log.jsonl").write_text("")  # the run has begun
    monkeypatch.setattr(precision, "faster_in_half", lambda device: 3.0 - times)
    assert Run(settings).settings.precision == found  # another machine changes nothing
    other = "float32" if found == "bf16" else "bf16"
    with pytest.raises(UserError, match="precision is"):
        Run(replace(settings, precision=other))


@pytest.mark.parametrize("times, instructions, found", [
    (2.1, False, "bf16"), (1.6, False, "float32"), (1.6, True, "bf16"), (1.4, True, "float32")])
def test_a_busy_moment_changes_nothing_where_there_are_instructions(monkeypatch, times,
                                                                    instructions, found):
    monkeypatch.setattr(precision, "faster_in_half", lambda device: times)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions,
                        raising=False)
    assert precision.choose_precision("auto", CPU)[0] == found


def test_old_runs_are_what_they_were():
    old = comparable(Settings(precision="float32"))
    assert "precision" not in old and from_plain(old).precision == "float32"
    assert digest(old) == digest(comparable(Settings()))
    assert not differences(Settings(), old) and not differences(Settings(), old | dict(
        precision="bf16"))
    assert comparable(Settings(precision="bf16"))["precision"] == "bf16"


def test_words_for_compiling():
    def of(*words): return train.parse(list(words)).compile
    assert of() == "auto" and of("--compile") == "on" and of("--no-compile") == "off"
    assert of("--compile", "--seed", "1") == "on" and of("--compile", "off") == "off"
    assert Settings(compile=True).compile == "on" and Settings(compile=False).compile == "off"


def test_compiling_is_for_long_runs_with_a_compiler(monkeypatch):
    monkeypatch.setattr(speed, "can_compile", lambda kind: True)
    enough = 5 * speed.STEPS_A_GRAPH
    assert speed.pays(Settings(), CPU, enough, 5) and not speed.pays(Settings(), CPU, enough - 1, 5)
    monkeypatch.setattr(speed, "can_compile", lambda kind: False)
    assert not speed.pays(Settings(), CPU, enough, 5)


def test_no_compiler_is_no_error(monkeypatch):
    def fail(*args, **more): raise RuntimeError("no compiler")
    monkeypatch.setattr(torch, "compile", fail)
    speed.can_compile.cache_clear()
    assert not speed.can_compile("cpu")
    speed.can_compile.cache_clear()


@pytest.mark.parametrize("d", [1, 7, 32, 33, 72])
@pytest.mark.parametrize("form", [counted_from, counted_in_channels])
def test_sizes_count_as_a_mask_does(form, d):
    torch.manual_seed(d)
    q, k, v = (torch.randn(2, 3, 9, d, dtype=torch.double, requires_grad=True) for _ in range(3))
    log_sizes = torch.randint(1, 60, (9,)).double().log()
    for sizes in (log_sizes, None):
        mask = None if sizes is None else sizes.expand(9, -1)
        wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        found = form(q, k, v, sizes)
        assert torch.allclose(found, wanted, atol=1e-6)
        weight = torch.randn_like(v)
        for a, b in zip(torch.autograd.grad((found * weight).sum(), (q, k, v)),
                        torch.autograd.grad((wanted * weight).sum(), (q, k, v))):
            assert torch.allclose(a, b, atol=1e-5)


def test_channels_keep_sizes_in_half_precision():
    "One channel of bf16 alone would round log 255 = 5.54 by 0.01."
    log_sizes = torch.tensor([1.0, 255.0, 3.0]).log()
    q, k = torch.zeros(2, 1, 1, 3, 8, dtype=torch.bfloat16)
    v = torch.eye(3, 8, dtype=torch.bfloat16)[None, None]
    found = counted_in_channels(q, k, v, log_sizes)[0, 0, 0, :3].float()
    assert torch.allclose(found, torch.tensor([1.0, 255.0, 3.0]) / 259, rtol=5e-3)


@pytest.mark.parametrize("width", [32, 48])  # hidden 85 is padded to 96, 128 is left alone
def test_padded_widths_change_nothing(width):
    torch.manual_seed(0)
    model = DiT(16, 4, 3, GeneratorSettings(width=width, depth=1, heads=4))
    mlp, x = model.blocks[0].mlp, torch.randn(2, 5, width)
    a, b = mlp.w12(x).chunk(2, -1)
    assert torch.allclose(mlp(x), mlp.w3(F.silu(a) * b), atol=1e-6)
    class Adapted(torch.nn.Linear):
        "As an adapter wraps a layer."
        def forward(self, x): return super().forward(x) + 1
    mlp.w3.__class__ = Adapted
    assert torch.allclose(mlp(x), mlp.w3(F.silu(a) * b), atol=1e-6)


def velocity_and_gradients(model, half, batch=3, pattern=None):
    "What a model makes of one batch, and the gradient of every weight."
    torch.manual_seed(1)
    K = 16 if pattern is None else pattern.K
    x, t, y = torch.randn(batch, K, 8), torch.rand(batch), torch.arange(batch)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = model(x.to(model.pos.dtype), t, y, pattern)
    out.float().square().mean().backward()
    return {"out": out.detach()} | {name: p.grad for name, p in model.named_parameters()}


def awake(width, heads):
    torch.manual_seed(0)
    model = DiT(16, 8, 10, GeneratorSettings(width=width, depth=2, heads=heads)).train()
    for p in model.parameters(): p.data += 0.1 * torch.randn_like(p)  # and not saturated
    return model


def compare_passes(monkeypatch, model, allowed, *args):
    "Velocity and gradients by hand (which is used) against torch's operations."
    used = []
    for name in ("scaled_norm", "normed_heads"):
        own = getattr(generator, name)
        monkeypatch.setattr(generator, name,
                            lambda *a, own=own, name=name: used.append(name) or own(*a))
    found = velocity_and_gradients(model, *args)
    assert used.count("scaled_norm") >= 5 and used.count("normed_heads") >= 2
    used.clear()
    monkeypatch.setattr(generator, "by_hand", lambda x: False)
    plain = velocity_and_gradients(model, *args)
    assert not used and found["out"].dtype == plain["out"].dtype
    for name, wanted in plain.items():
        gap = (found[name] - wanted).float().norm() / wanted.float().norm().clamp_min(1e-6)
        assert gap < allowed, (name, gap)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("width, heads", [(32, 4), (34, 2), (24, 1)])
@pytest.mark.parametrize("half", [False, True])
def test_passes_by_hand_change_nothing(monkeypatch, half, width, heads, checkpointing):
    model = awake(width, heads)
    model.checkpointing = checkpointing
    compare_passes(monkeypatch, model, 0.03 if half else 1e-5, half)


@pytest.mark.parametrize("batch, K", [(1, 16), (1, 1), (2, 5)])
def test_passes_by_hand_for_short_lists_and_single_images(monkeypatch, batch, K):
    pattern = MergePattern(torch.arange(16) * K // 16)
    compare_passes(monkeypatch, awake(32, 4), 1e-4, False, batch, pattern)


def test_passes_by_hand_for_models_in_other_formats(monkeypatch):
    with monkeypatch.context() as m: compare_passes(m, awake(32, 4).double(), 1e-4, False)
    with monkeypatch.context() as m: compare_passes(m, awake(32, 4).bfloat16(), 0.1, False)


def test_passes_by_hand_are_as_exact_where_autocast_is_on_backward(monkeypatch):
    norm = torch.nn.RMSNorm(32)
    x, scale, shift, weight = torch.randn(4, 2, 5, 32, requires_grad=True).unbind()
    scale, shift = scale[:, :1], shift[:, :1]
    def gradient(out): return torch.autograd.grad((out * weight).sum(), x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        own = gradient(scaled_norm(norm, x, shift, scale))
        plain = gradient(torch.addcmul(shift, norm(x), 1 + scale))
    torch.testing.assert_close(own, plain, atol=1e-5, rtol=1e-4)


def test_counting_leaves_zeros_out_and_puts_them_back():
    mlp, x = DiT(16, 4, 3, GeneratorSettings(width=32, depth=1, heads=4)).blocks[0].mlp, torch.ones(
        1, 1, 32)
    wanted = 2 * (2 * 85 * 32 + 85 * 32)  # hidden 85, not 96
    with counting_operations() as counter:
        with counting_operations() as inner: mlp(x)
        assert mlp.multiple == 1  # another still counts
    assert counter.get_total_flops() == inner.get_total_flops() == wanted
    with pytest.raises(KeyError), counting_operations(): raise KeyError
    assert mlp.multiple == 16


@pytest.mark.parametrize("rank", [2, 40])
def test_half_precision_makes_steps_as_orthogonal(rank):
    torch.manual_seed(0)
    x = torch.randn(3, 64, rank) @ torch.randn(3, rank, 160) + 0.05 * torch.randn(3, 64, 160)
    whole, half = orthogonalise(x), orthogonalise(x.bfloat16()).float()
    weight = torch.nn.Parameter(torch.zeros(64, 160))
    theirs = torch.optim.Muon([weight], lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0,
                              adjust_lr_fn="match_rms_adamw")
    weight.grad = x[0].clone()
    theirs.step()  # torch's own, in bf16
    largest = torch.linalg.svdvals(weight.detach()).max() / (0.2 * 160 ** 0.5)
    assert torch.linalg.svdvals(half[0]).max() < 1.05 * largest
    assert torch.cosine_similarity(whole.flatten(), half.flatten(), 0) > 0.98


def test_the_tokenizers_muon_is_not_rounded_on_cpus():
    s = replace(presets()["fashion"], precision="bf16")
    optimisers = tokenizer_step(Tokenizer(s.tokenizer), s, "cpu")[1]
    assert [o.half for o in optimisers if isinstance(o, Muon)] == [False]
    model, training = DiT(settings=s.generator), s.generator_training
    optimisers = make_optimisers(*split_for(model, training), training, s.precision)
    assert [o.half for o in optimisers if isinstance(o, Muon)] == [True]


def test_all_blocks_of_a_tokenizer_see_one_layout():
    "Else each layout is compiled to a graph of its own."
    net, seen = Tokenizer(TokenizerSettings(width=32)), []
    for part in net.modules():
        if isinstance(part, speed.VitBlock):
            part.register_forward_pre_hook(lambda _, given: seen.append(given[0].stride()))
    net(torch.zeros(2, 1, 28, 28), 16)
    assert len(seen) == 3 and set(seen) == {(64 * 32, 32, 1)}


def test_drawing_in_half_leaves_the_blocks_as_they_were():
    model = DiT(settings=GeneratorSettings(width=32, depth=2, heads=4)).eval()
    with speed.sped_up(model):
        assert all(block._compiled_call_impl for block in model.blocks)
    assert not any(block._compiled_call_impl for block in model.blocks)
    with speed.sped_up(model, wanted=False):
        assert not any(block._compiled_call_impl for block in model.blocks)


def test_a_run_in_half_from_start_to_end(tmp_path):
    out = tmp_path / "half"
    words = """--precision bf16 --compile off --data.limit 60 --tokenizer.width 32
        --tokenizer.heads 2 --generator.width 32 --generator.depth 1 --generator.heads 2
        --tokenizer-training.steps 3 --generator-training.steps 3 --evaluation.images 20
        --evaluation.samples 20 --evaluation.lengths 64 4 --evaluation.points 2""".split()
    assert train.main(["--out", str(out), *words]) == 0
    metrics = json.loads((Path(out) / "metrics.json").read_text())
    assert set(metrics["lengths"]) == {"64", "4"}
    assert json.loads((out / "settings.json").read_text())["precision"] == "bf16"
    assert runs.load_json(out / "timing.json")["seconds"]["tokenizer"] > 0
