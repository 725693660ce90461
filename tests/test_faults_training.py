"Faults of training found by reading and running, one test each."
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from lgm_nb.base.errors import UserError
from lgm_nb.base.precision import Product
from lgm_nb.flow import flow_matching_loss
from lgm_nb.generator import DiT, GeneratorSettings
from lgm_nb.merging import LearnableGlobalMerging, MergePattern, MergeTree
from lgm_nb.quantizer import SoftVQ, make_quantizer
from lgm_nb.release.lora import LoraSettings
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings
from lgm_nb.training.fitting import averaged, fit
from lgm_nb.training.optimisers import make_optimisers
from lgm_nb.training.planning import KEPT_IN_BF16
from lgm_nb.training.presets import presets
from lgm_nb.training.runs import Run
from lgm_nb.training.settings import (
    GeneratorTraining,
    Settings,
    TokenizerTraining,
    comparable,
    digest,
    from_plain,
)
from lgm_nb.training.stages import generator_terms
from lgm_nb.truncation import Truncation

DIGESTS = {"fashion": "b5076780e212", "fashion-long": "e0c50214ac85", "cifar10": "e884e614373d",
           "imagenet64": "a94d9512a045", "imagenet256": "e5a2c1c25dc8"}


def test_fingerprints_of_presets_stay():
    assert {name: digest(comparable(s)) for name, s in presets().items()} == DIGESTS
    for name, s in presets().items():
        assert digest(comparable(from_plain(comparable(s)))) == DIGESTS[name]


@pytest.mark.parametrize("later", [
    dict(init=Path("x")), dict(precision="bf16"), dict(accumulate=2),
    dict(generator_training=GeneratorTraining(noise_scale="unit")),
    dict(tokenizer_training=TokenizerTraining(ema=0.5))])
def test_later_settings_count_where_they_differ(later):
    values = comparable(replace(Settings(), **later))
    assert digest(values) != DIGESTS["fashion"]
    assert comparable(from_plain(values)) == values


def test_every_length_is_logged_with_its_mean(tmp_path):
    "Twenty steps over five lengths: each is in the log, with the mean of its four losses."
    net, training = torch.nn.Linear(1, 1), TokenizerTraining(steps=40, optimiser="adamw")
    run = Run(Settings(out=tmp_path / "run", device="cpu"))

    def terms(step, rows, network):
        return {f"K = {step % 5}": network(torch.zeros(1)).sum() * 0 + step}
    fit(run, "tokenizer", net, make_optimisers([], net.parameters(), training), terms, str,
        training)
    lines = run.read_log("tokenizer")
    assert [line["step"] for line in lines] == [0, 20, 39]
    assert all(line.keys() == {"stage", "step", *(f"K = {k}" for k in range(5))}
               for line in lines[1:])
    assert lines[1]["K = 1"] == (1 + 6 + 11 + 16) / 4 and lines[1]["K = 0"] == (
        5 + 10 + 15 + 20) / 4


def test_unit_noise_is_trained():
    s = Settings(generator_training=GeneratorTraining(batch_size=2, lengths=(2,),
                                                      noise_scale="unit"))
    model, z = DiT(4, 3, 10, GeneratorSettings(width=8, depth=1, heads=1)), torch.randn(2, 4, 3)
    def reader(step, rows): return (z, torch.zeros(2, dtype=torch.long))
    pattern = MergePattern([0, 0, 0, 1])

    def loss(settings):
        torch.manual_seed(0)
        return generator_terms(model, reader, {2: pattern},
                               settings)(0, slice(0, 2), model)["velocity at K = 2"]
    torch.manual_seed(0)
    torch.rand(2)
    t, noise = torch.sigmoid(torch.randn(2)), torch.randn(2, 4, 3)
    expected = {scale: flow_matching_loss(model, z, torch.zeros(2, dtype=torch.long), pattern, t=t,
                                          noise=noise,
                                          noise_scale=scale).mean() for scale in ("unit", "merged")}
    assert torch.equal(loss(s), expected["unit"])
    merged = replace(s, generator_training=replace(s.generator_training, noise_scale="merged"))
    assert torch.equal(loss(merged), expected["merged"]) and expected["unit"] != expected["merged"]


@pytest.mark.parametrize("form", ["gaussian", "sphere", "softvq"])
def test_latents_stay_float32_under_autocast(form):
    torch.manual_seed(0)
    quantize, z = make_quantizer(form, 8, codewords=16), torch.randn(2, 8, 8).bfloat16()
    noise = torch.randn(2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16): half = quantize(z, noise)
    whole = quantize(z.float(), noise)
    assert half.z.dtype == half.loss.dtype == torch.float32
    assert torch.equal(half.z, whole.z) and torch.equal(half.loss, whole.loss)


@pytest.mark.parametrize("training", [True, False])
def test_merging_stays_float32_under_autocast(training):
    torch.manual_seed(0)
    merging, z, noise = LearnableGlobalMerging(16,
                                               8).train(training), torch.randn(
                                                   2, 16, 4).bfloat16(), torch.randn(16, 16)
    whole = merging(z.float(), 6, noise).z
    with torch.autocast("cpu", torch.bfloat16): half = merging(z, 6, noise).z
    assert half.dtype == torch.float32 and torch.equal(half, whole)
    ones = MergePattern([0] * 7 + [1] * 3).merge(torch.ones(10, 1))
    assert (ones - 1).abs().max() < 1e-6


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    "Notes which float32 matrix products run, and what rounding is allowed then."
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm,
                                       torch.ops.aten.baddbmm, torch.ops.aten.addmm):
            self.seen.append((str(function), torch.get_float32_matmul_precision()))
        return function(*args, **(kwargs or {}))


def test_no_product_of_merging_is_rounded_where_tf32_is_allowed():
    "Forward and backward, of merging and of a codebook."
    mode = Products()
    mode.seen = []
    torch.manual_seed(0)
    merging, quantize, z = LearnableGlobalMerging(16, 8).train(), SoftVQ(4, 4, 8), torch.randn(
        2, 16, 4, requires_grad=True)
    torch.set_float32_matmul_precision("high")
    try:
        with mode:
            latents = quantize(z)
            out = merging(latents.z, 6)
            (out.z.square().sum() + out.align_loss + latents.loss).backward()
            out.pattern.merge(z).sum().backward()
        assert torch.get_float32_matmul_precision() == "high"
    finally: torch.set_float32_matmul_precision("highest")
    assert len(mode.seen) > 10 and {precision
                                    for _, precision in mode.seen} == {"highest"}, mode.seen


def test_exact_product_has_the_gradients_of_a_product():
    a, b = (torch.randn(*shape, dtype=torch.double, requires_grad=True)
            for shape in ((3, 4), (2, 4, 5)))
    assert torch.autograd.gradcheck(Product.apply, (a, b))


def test_plan_counts_what_autocast_keeps():
    """Counted on a GPU that is not there: bf16 keeps about 0.72 of the generator's activations, not
    half.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    def kept(model, z, t, y, half):
        found, weights = {}, {p.untyped_storage()._cdata for p in model.parameters()}

        def keep(tensor):
            place = tensor.untyped_storage()
            if place._cdata not in weights: found[place._cdata] = tensor
            return tensor
        torch.set_autocast_enabled("cuda", half)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                model(z, t, y).float().square().mean()
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    with FakeTensorMode(), torch.device("cuda"), torch.nn.attention.sdpa_kernel(
        torch.nn.attention.SDPBackend.MATH):
        model, rows = DiT(128, 32, 1000, GeneratorSettings(size="base")), {}
        for half in (False, True):
            one, two = (kept(model, torch.empty(B, 128, 32), torch.empty(B),
                             torch.zeros(B, dtype=torch.long), half)
                        for B in (2, 4))
            rows[half] = two - one  # the copies of weights fall out
    assert abs(rows[True] / rows[False] - KEPT_IN_BF16["generator"]) < 0.02


def test_entropy_loss_in_evaluation_only_when_read():
    quantize, z = SoftVQ(8, 4, 16), torch.randn(2, 8, 8)
    trained = quantize(z)
    assert trained.loss != 0
    with patch.object(SoftVQ, "entropy_loss") as computed:
        quantize.eval()(z)
    computed.assert_not_called()
    evaluated = quantize(z)
    assert torch.equal(evaluated.z, trained.z) and evaluated.loss == trained.loss


@pytest.mark.parametrize("blocks", [0, -4, 2.0, 5])
def test_blocks_that_cannot_be(blocks):
    settings = TokenizerSettings(tied=False, tokens=8, blocks=blocks)
    for make in (lambda: MergeTree(torch.eye(8), blocks=blocks),
                 lambda: LearnableGlobalMerging(8, 4, blocks=blocks),
                 lambda: Truncation(8, blocks=blocks), lambda: Tokenizer(settings)):
        with pytest.raises(UserError, match="choose"): make()


@pytest.mark.parametrize("name", ["heads", "width", "channels", "tokens", "encoder_depth"])
def test_sizes_that_cannot_be(name):
    with pytest.raises(UserError, match="choose a whole number from 1"):
        Tokenizer(TokenizerSettings(tied=False, **{name: 0}))


def test_average_counts_without_asking_the_device():
    "On the meta device a number that had to be fetched from there would raise."
    with torch.device("meta"): far = torch.nn.Linear(2, 2)
    average = averaged(far, 0.9)
    for _ in range(3): average.update_parameters(far)
    net = torch.nn.Linear(2, 2)
    near, expected = averaged(net, 0.9), net.weight.detach().clone()
    for n in range(40):
        with torch.no_grad(): net.weight.add_(n)
        near.update_parameters(net)
        if n == 0: expected.copy_(net.weight.detach())
        else:
            torch._foreach_lerp_([expected], [net.weight.detach()],
                                 1 - min(0.9, (1 + float(n)) / (10 + float(n))))
    assert torch.equal(near.module.weight.detach(), expected) and near.n_averaged == 40


HOLDER = """
import sys, time
from pathlib import Path
from lgm_nb.training.runs import Run
from lgm_nb.training.settings import Settings
run = Run(Settings(out=Path(sys.argv[1]), device="cpu", precision="float32"))
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_in_use_is_refused_and_a_kill_frees_it(tmp_path):
    out = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE,
                              text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        half = out / ".tokenizer.saving.7.part"
        half.write_bytes(b"half")
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on .*--out"):
            Run(Settings(out=out, device="cpu"))
        assert half.exists()  # the other run's file is left alone
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        Run(Settings(out=out, device="cpu"))
        assert not half.exists()
        Run(Settings(out=out, device="cpu"))  # the same process may open it again
    finally:
        holder.kill()
        holder.wait()


def test_reading_a_finished_run_needs_no_lock(tmp_path):
    out = tmp_path / "run"
    settings = Settings(out=out, device="cpu")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE,
                              text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        (out / "log.jsonl").write_text("")
        for name in ("metrics", "timing"):
            (out / f"{name}.json").write_text(json.dumps({"of": name}))
        assert Run.finished(settings) == ({"of": "metrics"}, {"of": "timing"})
    finally:
        holder.kill()
        holder.wait()


def test_lora_is_written_by_one_process(tmp_path):
    lora = pytest.importorskip("lgm_nb.release.lora")
    pytest.importorskip("peft")
    model = lora.add_lora(DiT(8, 4, 3, GeneratorSettings(width=16, depth=1, heads=2)),
                          lora.LoraSettings(rank=2), 4)
    for number in (1, 0):
        with patch("lgm_nb.release.lora.rank", return_value=number):
            lora.save_lora(model, 4, tmp_path / "lora.safetensors")
        assert (tmp_path / "lora.safetensors").exists() == (number == 0)


def test_patterns_do_not_depend_on_autocast():
    torch.manual_seed(0)
    merging = LearnableGlobalMerging(64, 32)
    with torch.autocast("cpu", torch.bfloat16): half = merging.all_labels()
    assert (half == merging.all_labels()).all()


def test_a_correction_takes_the_noise_of_its_run():
    assert LoraSettings().check().noise_scale is None
    with pytest.raises(UserError, match="merged or unit"): LoraSettings(noise_scale="half").check()


@pytest.mark.parametrize("blocks", [0, -1, 1.5])
def test_codebooks_that_cannot_be(blocks):
    with pytest.raises(UserError, match="whole number"): SoftVQ(8, blocks, 16)
