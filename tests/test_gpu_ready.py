"""Is the package ready for a GPU? Counted on a pretended one: what would stop its queue, how many
operations a step gives it, and how many graphs a compiled block becomes.
"""
import shutil
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.utils._python_dispatch import _disable_current_modes

from lgm_nb import merging
from lgm_nb.base.pretend import pretended_gpu, walk_back
from lgm_nb.base.transfers import upload
from lgm_nb.data.images import load_data
from lgm_nb.data.latent_space import LatentStatistics
from lgm_nb.data.latents import LatentSet, ShardSet, extract
from lgm_nb.data.sets import ImageSet
from lgm_nb.flow import sample
from lgm_nb.generator import DiT, GeneratorSettings
from lgm_nb.losses.discriminator import DinoDiscriminator, Frozen
from lgm_nb.merging import MergePattern
from lgm_nb.tokenizer import Tokenizer
from lgm_nb.training.batches import Reader
from lgm_nb.training.fitting import averaged, fit
from lgm_nb.training.optimisers import make_optimisers, split_for
from lgm_nb.training.presets import presets
from lgm_nb.training.stages import generator_terms, tokenizer_step, tokenizer_terms
from lgm_nb.truncation import TruncationPattern

GPU = torch.device("cuda")
SMALL = {
    "fashion": {},
    "imagenet256": dict(
        tokenizer=dict(image_size=64, patch=4, width=48, heads=3, encoder_depth=2,
                       decoder_depth=2, codewords=64, embedding_dim=16),
        losses=dict(pretrained=False, feature_model="test_vit", feature_depth=1, feature_width=48,
                    discriminator_model="test_vit", discriminator_size=32,
                    discriminator_depths=(1, 3, 5), adversarial_start=0, perceptual_ramp=1))}


class RealTree(merging.MergeTree):
    "A tree of real numbers: the CPU clusters for real, while the GPU is pretended."
    def __init__(self, similarity, blocks=4):
        with _disable_current_modes(): super().__init__(torch.rand(similarity.shape), blocks)

    def cut(self, K):
        with _disable_current_modes(): return super().cut(K)


def settings_of(preset, steps):
    "A preset with small networks, at so many steps of 8."
    s, small = presets()[preset], SMALL[preset]
    parts = {name: replace(getattr(s, name), **values) for name, values in small.items()}
    how = dict(steps=steps, batch_size=8, warmup=1)
    return replace(s, save_seconds=1e9, generator=GeneratorSettings(width=32, depth=2, heads=2),
                   tokenizer_training=replace(s.tokenizer_training, encoder_start="", **how),
                   generator_training=replace(s.generator_training, **how), **parts)


def images_like(s):
    shape = 16, s.image_channels, s.image_size, s.image_size
    images = ImageSet(torch.zeros(shape, dtype=torch.uint8), torch.zeros(16).long(), ["all"])
    images.load = lambda indices, crop=None, smallest=1: images.subset(indices)
    return images


def tokenizer_run(preset, steps, folder):
    s = settings_of(preset, steps)
    images, training = images_like(s.tokenizer), s.tokenizer_training
    run = SimpleNamespace(device=GPU, settings=s, folder=folder, log=lambda *_: None)
    with patch.object(merging, "MergeTree", RealTree), pretended_gpu() as traffic:
        tokenizer = Tokenizer(s.tokenizer).to(GPU)
        model, optimisers = tokenizer_step(tokenizer, s, GPU)
        average = (averaged(tokenizer, training.ema), tokenizer) if training.ema else None
        reader = Reader(images, training, s, GPU, s.data.crop)
        fit(run, "tokenizer", model, optimisers, tokenizer_terms(reader, s), str, training, average,
            model.losses.discriminator, ready=reader.ready)
    return traffic


def generator_run(preset, steps, folder):
    s = settings_of(preset, steps)
    t, training = s.tokenizer, s.generator_training
    run = SimpleNamespace(device=GPU, settings=s, folder=folder, log=lambda *_: None)
    patterns = {K: MergePattern(torch.arange(t.tokens) % K) for K in training.lengths}
    z = torch.randn(16, t.tokens, t.channels)
    latents = LatentSet(z, torch.zeros(16).long(), None, LatentStatistics.of(z))
    with pretended_gpu() as traffic:
        model = DiT(t.tokens, t.channels, 10, s.generator).to(GPU).train()
        average = averaged(model, training.ema), model
        reader = Reader(latents, training, s, GPU)
        fit(run, "generator", model, make_optimisers(*split_for(model, training), training),
            generator_terms(model, reader, patterns, s), str, training, average,
            ready=reader.ready)
    return traffic


def sampling_run(preset, steps, folder):
    s = settings_of(preset, 1)
    pattern = MergePattern(torch.arange(s.tokenizer.tokens) % 16)
    with pretended_gpu() as traffic:
        model = DiT(s.tokenizer.tokens, s.tokenizer.channels, 10, s.generator).to(GPU).eval()
        with torch.autocast("cuda", torch.bfloat16, enabled=s.precision == "bf16"):
            sample(model, torch.zeros(4).long(), pattern, points=steps + 1, guidance=3.0)
    return traffic


def a_step(run, preset, few, many, folder):
    "(what stops the GPU, operations) of a step: the difference of a longer and a shorter run."
    short, long = run(preset, few, folder), run(preset, many, folder)
    stops = Counter({what: (n - short.blocking[what]) / (many - few)
                     for what, n in long.blocking.items()})
    return +stops, (long.operations - short.operations) / (many - few)


# operations: measured, and a tenth more; most of an imagenet256 step is its losses
@pytest.mark.parametrize("run, preset, few, many, stopped, operations", [
    (tokenizer_run, "fashion", 2, 4, 2, 850), (tokenizer_run, "imagenet256", 2, 4, 2, 5200),
    (generator_run, "fashion", 7, 14, 1, 650), (generator_run, "imagenet256", 7, 14, 1, 550),
    (sampling_run, "fashion", 2, 6, 0, 120), (sampling_run, "imagenet256", 2, 6, 0, 180)])
def test_a_step_hardly_stops_a_gpu(run, preset, few, many, stopped, operations, tmp_path, capsys):
    stops, done = a_step(run, preset, few, many, tmp_path)
    print(run.__name__, preset, dict(stops), done)
    assert stops.total() <= stopped, stops
    assert done <= operations


def test_the_count_can_fail():
    "What would stop a GPU is seen, and what would not is not."
    where = torch.arange(3)
    stopping = {"item": lambda x: x.sum().item(), "truth": lambda x: bool((x > 0).any()),
                "list": lambda x: x.tolist(), "mask": lambda x: x[x > 0],
                "constant": lambda x: torch.tensor([0.5, 0.2], device="cuda"),
                "unpinned": lambda x: torch.ones(3).to("cuda", non_blocking=True),
                "places": lambda x: x[where], "waited for": lambda x: x.cpu(),
                "nonzero": lambda x: x.nonzero()}
    free = {"pinned": lambda x: upload(torch.ones(3), "cuda"),
            "full": lambda x: x.new_full((3,), 2), "where": lambda x: torch.where(x > 0, 1.0, x),
            "indices": lambda x: x[(x > 0).long()]}
    for stops, works in ((1, stopping), (0, free)):
        for name, work in works.items():
            with pretended_gpu() as traffic:
                x = torch.ones(3, device="cuda")
                with suppress(DynamicOutputShapeException): work(x)
            assert traffic.blocking.total() == stops, name


def test_the_walk_back_is_the_backward_pass():
    torch.manual_seed(0)
    model = DiT(16, 4, 3, GeneratorSettings(width=16, depth=2, heads=2))
    with torch.no_grad():
        for p in model.parameters(): p.add_(0.1 * torch.randn_like(p))
    pattern = MergePattern(torch.arange(16) % 4)
    out = model(torch.randn(2, 4, 4), torch.rand(2), torch.tensor([0, 2]), pattern)
    loss = out.square().mean()
    expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    found = walk_back(loss, list(model.parameters()))
    walk_back(loss)
    for e, f, p in zip(expected, found, model.parameters()):
        assert torch.allclose(e, f, atol=1e-6) and torch.allclose(e, p.grad, atol=1e-6)


def test_a_compiled_block_is_one_graph_for_each_length():
    "No breaks, and no graph but for the lengths; every block shares them."
    for block, inputs in (
        (DiT(16, 4, 3, GeneratorSettings(width=16, depth=1, heads=2)).blocks[0],
         lambda K: (torch.randn(2, K, 16), torch.randn(2, 16),
                    MergePattern(torch.arange(16) % K).log_sizes)),
        (timm.create_model("test_vit", pretrained=False).blocks[0],
         lambda K: (torch.randn(2, K, 64),))):
        torch._dynamo.reset()
        explained = torch._dynamo.explain(block)(*inputs(8))
        assert explained.graph_break_count == 0 and explained.graph_count == 1
        graphs = []
        def count(graph, example, graphs=graphs):
            graphs.append(graph)
            return graph
        torch._dynamo.reset()
        block.compile(dynamic=False, backend=count)
        for K in (8, 4, 2, 8, 4, 2): block(*inputs(K))
        assert len(graphs) == 3
    torch._dynamo.reset()


def test_patterns_are_copied_once_for_each_format():
    x = torch.randn(2, 6, 3)
    for pattern in (MergePattern([0, 0, 1, 2, 2, 2]), TruncationPattern(6, 3)):
        for name in ("sizes", "labels"):
            assert pattern.on(x, name) is pattern.on(x, name)
            assert torch.equal(pattern.on(x, name).double(), getattr(pattern, name).double())
        assert pattern.on(x, "sizes").dtype == x.dtype
        assert pattern.on(x.double(), "sizes").dtype == torch.float64


def test_frozen_networks_in_half_precision_round_as_autocast_does():
    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False, num_classes=0)
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = network.eval()(x)
        half = Frozen(network).hasten(half=True)(x)
    assert torch.equal(whole, half)
    kinds = {p.dtype for p in network.parameters()}
    assert kinds == {torch.float32, torch.bfloat16}  # norms and positions stay


def test_the_discriminator_reads_several_batches_as_one_by_one():
    torch.manual_seed(0)
    eyes = timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=0)
    critic = DinoDiscriminator(eyes, depths=(1, 3), size=32).eval()
    batches = torch.randn(3, 2, 1, 32, 32)
    for together, alone in zip(critic(*batches), map(critic, batches)):
        assert torch.allclose(together, alone, atol=1e-4)


def test_latents_on_disk_take_half_the_room(tmp_path):
    "And lose about three digits of seven; folders in 32 bits, or mixed ones, are still read."
    torch.manual_seed(0)
    images = load_data("fashion-small", limit=40).train
    tokenizer = Tokenizer().eval()
    whole = extract(tokenizer, images, tmp_path / "whole", shard_size=20)
    extract(tokenizer, images, tmp_path / "half", shard_size=20, half=True)
    size = {kind: sum(p.stat().st_size for p in (tmp_path / kind).glob("latents_rank*"))
            for kind in ("whole", "half")}
    assert size["half"] < 0.55 * size["whole"]
    second = "latents_rank00_shard001.safetensors"
    for mixed in (False, True):
        if mixed: shutil.copy(tmp_path / "whole" / second, tmp_path / "half" / second)
        found = ShardSet(tmp_path / "half").batch(torch.arange(40))[0]
        assert found.dtype == torch.float32
        off = (found - whole.batch(torch.arange(40))[0]).abs().max()
        assert 0 < off < 2 ** -10 * found.abs().max()
    assert torch.allclose(LatentSet.load(tmp_path / "half").z, whole.z, rtol=2 ** -10, atol=1e-6)


def test_a_reader_sends_bytes(tmp_path):
    s = settings_of("fashion", 2)
    s = replace(s, data=replace(s.data, flip=True))
    images = load_data("fashion-small", limit=30).train
    with closing(Reader(images, s.tokenizer_training, s, torch.device("cpu"))) as reader:
        pixels, labels, flip = reader.read(0, slice(0, 8))
        assert pixels.dtype == torch.uint8 and flip.dtype == torch.bool
        x, y = reader(0, slice(0, 8))
        assert torch.equal(x, reader.source.batch(torch.stack(
            [(images.images == one).flatten(1).all(1).nonzero()[0, 0] for one in pixels]), flip)[0])
        assert torch.equal(y, labels)
