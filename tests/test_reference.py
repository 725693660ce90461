"The numbers of the method's authors, laws of merging for any input, notebooks and their modules."

import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering

from lgm_nb.base.files import load_tensors
from lgm_nb.data.images import data_folder
from lgm_nb.flow import flow_matching_loss, guide, merged_noise, sample
from lgm_nb.generator import Attention, DiT, GeneratorSettings
from lgm_nb.merging import (
    LearnableGlobalMerging,
    MergePattern,
    MergeTree,
    Truncation,
    TruncationPattern,
    alignment_loss,
    pattern_of,
    straight_through,
)
from lgm_nb.release.interop import generator_from_authors, reference_weights, tokenizer_from_authors

# The authors' program was run once on tiny models; weights follow from names: data/reference.


class Reference:
    "The authors' tensors; each comparison notes what it compared."

    def __init__(self):
        self.files = {
            n: load_tensors(data_folder() / "reference" / f"{n}.safetensors")
            for n in ("merge", "tokenizer", "dit")
        }
        self.compared = set()

    def compare(self, file, name, ours, tolerance=1e-4):
        "Our tensor is the stored one, up to the tolerance."
        theirs = self.files[file][0][name]
        gap = (ours.detach().reshape(theirs.shape) - theirs).abs().max().item()
        assert gap <= tolerance, f"{file} {name}: {gap:.2e} > {tolerance:.0e}"
        self.compared.add((file, name))

    def compare_groups(self, file, name, labels):
        "The same partition; the numbering is free."
        theirs = self.files[file][0][name]
        assert same_partition(theirs, labels), f"{file} {name}: other groups"
        self.compared.add((file, name))


def same_partition(a, b):
    pairs = set(zip(a.tolist(), b.tolist()))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def check_merging(reference):
    "In evaluation and in training, gradients included: only they see the soft assignment."
    numbers, facts = reference.files["merge"]
    merging = LearnableGlobalMerging(64, 32, facts["blocks"], facts["tau"], margin=facts["margin"])
    merging.embeddings.data.copy_(numbers["embeddings"])
    compare, groups = reference.compare, reference.compare_groups

    def gradient(scalar, wrt):
        return torch.autograd.grad(scalar, wrt, retain_graph=True)[0]

    for K in facts["Ks"]:
        out = merging.eval()(numbers["x"], K)
        groups("merge", f"eval.{K}.labels", out.pattern.labels)
        compare("merge", f"eval.{K}.out", out.z)
        x = numbers["x"].clone().requires_grad_()
        out = merging.train()(x, K, noise=numbers["noise"])
        groups("merge", f"train.{K}.labels", out.pattern.labels)
        compare("merge", f"train.{K}.out", out.z)
        upstream = (out.z * numbers["cotangent"]).sum()
        compare("merge", f"train.{K}.grad_emb", gradient(upstream, merging.embeddings))
        compare("merge", f"train.{K}.grad_x", gradient(upstream, x))
        compare("merge", f"train.{K}.align_loss", out.align_loss)
        compare("merge", f"train.{K}.grad_emb_align", gradient(out.align_loss, merging.embeddings))


def check_tokenizer(reference):
    "From pixels to pixels, and the quantiser's loss."
    numbers, facts = reference.files["tokenizer"]
    compare = reference.compare
    tokenizer = tokenizer_from_authors(
        reference_weights(facts["keys"], 0.12), facts["vit"]["num_heads"]
    )
    with torch.no_grad():
        raw, z = tokenizer.encode_raw(numbers["x"]), tokenizer.encode(numbers["x"])
        compare("tokenizer", "pre_quant", raw)
        compare("tokenizer", "quant", z)
        compare("tokenizer", "entropy_loss", tokenizer.quantize(raw).loss)
        for K in (8, 16, 48, 64):
            pattern = tokenizer.pattern(K)
            compare("tokenizer", f"latent.{K}", pattern.unmerge(pattern.merge(z)))
            compare("tokenizer", f"recon.{K}", tokenizer.reconstruct(numbers["x"], K))


def authors_generator(reference):
    numbers, facts = reference.files["dit"]
    return generator_from_authors(reference_weights(facts["keys"], 0.15)), numbers, facts


@torch.no_grad()
def check_generator(reference, K):
    "Velocity, loss, guidance and whole samples."
    generator, numbers, facts = authors_generator(reference)
    z, eps, t, y, weight = *(numbers[n] for n in ("z", "eps", "t", "y")), facts["cfg"]
    compare = reference.compare
    pattern = MergePattern(numbers[f"{K}.labels"])
    x_t = pattern.merge(t[:, None, None] * z + (1 - t)[:, None, None] * eps)
    v, v_free = (
        generator(x_t, t, y, pattern),
        generator(x_t, t, torch.full_like(y, facts["num_classes"]), pattern),
    )
    compare("dit", f"{K}.velocity", v)
    compare("dit", f"{K}.loss", flow_matching_loss(generator, z, y, pattern, t=t, noise=eps))
    compare("dit", f"{K}.cfg_none", guide(v, v_free, weight, pattern, "standard"))
    compare("dit", f"{K}.cfg_per_position", guide(v, v_free, weight, pattern, "per_position"))
    draw = dict(noise=eps, points=facts["grid_points"], shift=facts["shift"])
    compare("dit", f"{K}.sample_plain", sample(generator, y, pattern, **draw), 1e-3)
    guided = sample(
        generator,
        y,
        pattern,
        **draw,
        guidance=weight,
        guidance_mode="per_position",
        interval=facts["cfg_interval"],
    )
    compare("dit", f"{K}.sample_cfg", guided, 1e-3)


def test_every_number_of_the_authors():
    reference = Reference()
    check_merging(reference)
    check_tokenizer(reference)
    for K in (8, 24, 64):
        check_generator(reference, K)
    inputs = {("merge", n) for n in ("embeddings", "x", "noise", "cotangent")} | {
        ("tokenizer", "x")
    }
    inputs |= {("dit", n) for n in ("z", "eps", "t", "y", "8.labels", "24.labels", "64.labels")}
    stored = {(file, name) for file, (tensors, _) in reference.files.items() for name in tensors}
    assert stored == inputs | reference.compared, stored ^ (inputs | reference.compared)


def test_the_numbers_see_missing_sizes():
    "The comparison can fail: without sizes the velocity is off by over a hundred tolerances."
    generator, numbers, _ = authors_generator(Reference())
    z, eps, t, y = (numbers[n] for n in ("z", "eps", "t", "y"))
    whole, blind = MergePattern(numbers["8.labels"]), MergePattern(numbers["8.labels"])
    x_t = whole.merge(t[:, None, None] * z + (1 - t)[:, None, None] * eps)
    blind.merge(generator.pos)  # keep the true means, made at the first call
    blind.sizes = torch.ones_like(blind.sizes)
    with torch.no_grad():
        gap = (generator(x_t, t, y, blind) - numbers["8.velocity"]).abs().max().item()
    assert gap > 1e-2


# Laws, for any input that hypothesis draws
laws = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@st.composite
def patterns(draw, tokens=None):
    "Any pattern: labels are renumbered without gaps."
    n = tokens or draw(st.integers(1, 24))
    raw = draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
    return MergePattern(np.unique(raw, return_inverse=True)[1])


seeds = st.integers(0, 2**31 - 1)


def gaussian(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@laws
@given(patterns(), seeds)
def test_unmerge_after_merge_is_a_projection(p, seed):
    x, y = gaussian(seed, 2, p.num_tokens, 3), gaussian(seed + 1, 2, p.num_tokens, 3)
    def P(v): return p.unmerge(p.merge(v))
    assert torch.allclose(P(P(x)), P(x), atol=1e-5)  # twice is once
    assert abs((P(x) * y).sum() - (x * P(y)).sum()) < 1e-3  # orthogonal
    assert torch.allclose(p.merge(P(x)), p.merge(x), atol=1e-5)  # each cluster keeps its mean
    for k in range(p.K):
        assert torch.allclose(
            P(x)[:, p.labels == k], x[:, p.labels == k].mean(1, keepdim=True), atol=1e-5
        )
    assert (
        torch.equal(MergePattern.from_matrix(p.matrix).labels, p.labels)
        and p.sizes.sum() == p.num_tokens
    )


@laws
@given(st.integers(1, 4), st.integers(1, 8), seeds)
def test_patterns_of_a_tree_are_nested(blocks, per_block, seed):
    N = blocks * per_block
    tree = MergeTree(gaussian(seed, N, N), blocks)
    bigger = MergePattern.identity(N)
    for K in range(N, blocks - 1, -1):
        p = tree.cut(K)
        pairs = set(zip(bigger.labels.tolist(), p.labels.tolist()))
        assert p.K == K and len(pairs) == bigger.K  # every group goes into one
        assert all(
            len(set((torch.where(p.labels == k)[0] // per_block).tolist())) == 1 for k in range(K)
        )
        assert torch.equal(p.labels, torch.from_numpy(tree.all_labels()[N - K]))
        bigger = p


@laws
@given(patterns(), seeds)
def test_noise_is_merged(p, seed):
    eps = gaussian(seed, 4, p.num_tokens, 2)
    assert torch.equal(merged_noise(eps, p), p.merge(eps))
    assert torch.allclose(p.matrix.T @ p.matrix, torch.diag(1 / p.sizes.float()), atol=1e-6)
    assert torch.allclose(
        merged_noise(eps, p, "unit"), p.merge(eps) * p.sizes.sqrt()[:, None], atol=1e-5
    )


def test_noise_of_a_group_has_variance_one_over_its_size():
    p = MergePattern([0] * 10 + [1] * 5 + [2] * 3 + [3])
    variance = merged_noise(gaussian(0, 20_000, 19, 1), p).var(0).flatten()
    assert torch.allclose(variance * p.sizes, torch.ones(4), atol=0.05)


def attention():
    torch.manual_seed(0)
    return Attention(16, 2)


@laws
@given(patterns(), seeds)
def test_attention_is_exact_for_equal_tokens(p, seed):
    layer = attention()
    with torch.no_grad():
        short = gaussian(seed, 2, p.K, 16)
        over_K, over_N = layer(short, p.sizes.float().log()), layer(p.unmerge(short))
    assert torch.allclose(p.unmerge(over_K), over_N, atol=1e-5)


def test_attention_without_sizes_is_not_exact():
    layer = attention()
    p, short = MergePattern([0] * 10 + [1] * 5 + [2]), gaussian(1, 1, 3, 16)
    without = (p.unmerge(layer(short)) - layer(p.unmerge(short))).abs().max().item()
    assert without > 1e-2


def test_attention_errs_with_the_square_of_the_spread():
    layer = attention()
    p, short = MergePattern([0] * 10 + [1] * 5 + [2]), gaussian(1, 64, 3, 16)
    spreads, errors = [0.01, 0.03, 0.1, 0.3], []
    for spread in spreads:
        offset = spread * gaussian(2, 64, 16, 16)
        full = p.unmerge(short) + offset - p.unmerge(p.merge(offset))  # the means stay
        with torch.no_grad():
            errors.append(
                (p.merge(layer(full)) - layer(short, p.sizes.float().log())).abs().mean().item()
            )
    slope = np.polyfit(np.log(spreads), np.log(errors), 1)[0]
    assert 1.6 < slope < 2.4


def small_dit():
    torch.manual_seed(0)
    dit = DiT(
        tokens=8, channels=3, num_classes=4, settings=GeneratorSettings(width=16, depth=2, heads=2)
    )
    for parameter in dit.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return dit


class Plain:
    "A network that is never told a pattern."

    def __init__(self, dit):
        self.dit, self.pos, self.channels, self.num_classes = (
            dit,
            dit.pos,
            dit.channels,
            dit.num_classes,
        )

    def __call__(self, x, t, y, pattern):
        return self.dit(x, t, y)


@settings(laws, max_examples=10)
@given(seeds)
def test_at_full_length_nothing_is_told(seed):
    dit, identity = small_dit(), MergePattern.identity(8)
    z, eps, t, y = (
        gaussian(seed, 3, 8, 3),
        gaussian(seed + 1, 3, 8, 3),
        torch.rand(3),
        torch.tensor([0, 3, 4]),
    )
    assert torch.equal(dit(z, t, y, identity), dit(z, t, y))
    loss = flow_matching_loss(dit, z, y, identity, t=t, noise=eps)
    x_t = t[:, None, None] * z + (1 - t)[:, None, None] * eps
    assert torch.allclose(loss, (dit(x_t, t, y) - (z - eps)).square().mean((1, 2)), atol=1e-5)
    assert torch.equal(
        loss, flow_matching_loss(dit, z, y, identity, t=t, noise=eps, noise_scale="unit")
    )
    for mode in ("per_position", "standard"):
        told, plain = (
            sample(m, y, identity, noise=eps, points=5, guidance=3.0, guidance_mode=mode)
            for m in (dit, Plain(dit))
        )
        assert torch.equal(told, plain)
    two = [
        sample(dit, y, identity, noise=eps, points=5, guidance=3.0, guidance_mode=m)
        for m in ("per_position", "standard")
    ]
    assert torch.allclose(*two, atol=1e-4)  # one guidance at K = N


@st.composite
def cuts(draw, tokens=None):
    "Any truncation."
    n = tokens or draw(st.integers(1, 24))
    return TruncationPattern(n, draw(st.integers(1, n)))


@laws
@given(cuts(), seeds)
def test_truncation_is_a_projection(p, seed):
    x, y = gaussian(seed, 2, p.num_tokens, 3), gaussian(seed + 1, 2, p.num_tokens, 3)
    def P(v): return p.unmerge(p.merge(v))
    assert p.merge(x).shape == (2, p.K, 3) and P(x).shape == x.shape
    assert torch.equal(p.merge(x), x[:, : p.K]) and not P(x)[:, p.K :].any()
    assert torch.equal(P(P(x)), P(x)) and torch.equal(p.merge(P(x)), p.merge(x))
    assert abs((P(x) * y).sum() - (x * P(y)).sum()) < 1e-3  # orthogonal
    assert torch.equal(p.merge(x), p.matrix.T @ x) and torch.equal(P(x), p.matrix @ p.matrix.T @ x)
    assert (
        torch.equal(p.labels >= 0, torch.arange(p.num_tokens) < p.K)
        and p.sizes.tolist() == [1] * p.K
    )
    again = pattern_of(p.labels)
    assert isinstance(again, TruncationPattern) == (
        p.K < p.num_tokens
    )  # all kept: nothing to tell apart
    assert torch.equal(again.unmerge(again.merge(x)), P(x))


@laws
@given(cuts(), seeds)
def test_kept_noise_is_unit_noise(p, seed):
    eps = gaussian(seed, 4, p.num_tokens, 2)
    for scale in ("merged", "unit"):
        assert torch.equal(merged_noise(eps, p, scale), eps[:, : p.K])


def shorter(network, K):
    "A network of K tokens with the same weights, and the first K positions."
    short = DiT(tokens=K, channels=3, num_classes=4, settings=network.settings)
    state = network.state_dict()
    short.load_state_dict(state | {"pos": state["pos"][:, :K]})
    return short


@settings(laws, max_examples=10)
@given(cuts(tokens=8), seeds)
def test_truncation_is_a_plain_network_of_K_tokens(p, seed):
    dit = small_dit()
    z, eps, v = gaussian(seed, 3, 8, 3), gaussian(seed + 1, 3, 8, 3), gaussian(seed + 2, 3, p.K, 3)
    K, t, y, plain = p.K, torch.rand(3), torch.tensor([0, 3, 4]), shorter(dit, p.K)
    x_t = t[:, None, None] * z[:, :K] + (1 - t)[:, None, None] * eps[:, :K]
    by_hand = (
        (plain(x_t, t, y) - (z - eps)[:, :K]).square().mean((1, 2))
    )  # every token with weight 1
    for scale in ("merged", "unit"):
        assert torch.allclose(
            flow_matching_loss(dit, z, y, p, t=t, noise=eps, noise_scale=scale), by_hand, atol=1e-5
        )
    both = [guide(v, z[:, :K], 3.5, p, mode) for mode in ("per_position", "standard")]
    assert torch.allclose(*both, atol=1e-5)
    draw = dict(points=5, guidance=3.0)
    two = [
        sample(dit, y, p, noise=eps, guidance_mode=mode, **draw)
        for mode in ("per_position", "standard")
    ]
    told = sample(
        plain, y, MergePattern.identity(K), noise=eps[:, :K], guidance_mode="standard", **draw
    )
    assert torch.allclose(*two, atol=1e-4) and torch.allclose(two[1], told, atol=1e-4)


@settings(laws, max_examples=10)
@given(st.integers(1, 4), st.integers(1, 6), seeds)
def test_gradients_are_finite(blocks, per_block, seed):
    N = blocks * per_block
    torch.manual_seed(seed)
    module, z = LearnableGlobalMerging(N, 5, blocks), torch.randn(2, N, 3, requires_grad=True)
    for K in range(blocks, N + 1):
        out = module(z, K)
        P = straight_through(module.embeddings, out.pattern)
        assert torch.allclose(out.z, out.pattern.unmerge(out.pattern.merge(z)), atol=1e-5)
        assert torch.allclose(P.sum(0), torch.ones(N), atol=1e-5)
        to_e, to_z = torch.autograd.grad(
            (out.z**2).sum() + P.square().sum() + out.align_loss, (module.embeddings, z)
        )
        assert to_e.isfinite().all() and to_z.isfinite().all()


@laws
@given(seeds)
def test_alignment_leaves_latents_alone(seed):
    z, e = gaussian(seed, 2, 8, 3).requires_grad_(), gaussian(seed + 1, 8, 5).requires_grad_()
    loss = alignment_loss(z, e, 4, margin=0.0)
    to_z, to_e = torch.autograd.grad(loss, (z, e), allow_unused=True)
    assert to_z is None and to_e.isfinite().all() and to_e.abs().max() > 0


def project(x, pattern):
    return pattern.unmerge(pattern.merge(x))


def test_both_kinds_of_patterns_at_every_length():
    torch.manual_seed(0)
    x_random = torch.randn(3, 64, 5)
    for way in (LearnableGlobalMerging(64, 32).eval(), Truncation(64, blocks=4).eval()):
        labels = way.all_labels()
        for K in range(4, 65):
            this, longer = way.pattern(K), way.pattern(min(K + 1, 64))
            kept = project(x_random, this)
            assert torch.allclose(project(kept, this), kept, atol=1e-5)
            assert abs((kept * (x_random - kept)).sum()) < 1e-3
            assert torch.allclose(project(project(x_random, longer), this), kept, atol=1e-5)
            assert torch.allclose(this.matrix.T @ x_random, this.merge(x_random), atol=1e-5)
            again = pattern_of(labels[64 - K])
            assert torch.equal(again.labels, this.labels) and torch.equal(again.sizes, this.sizes)
            assert torch.equal(way(x_random, K).z, kept)
            assert type(again) is type(this) or K == 64  # nothing dropped: the same thing
            assert (again.log_sizes is None) == (isinstance(way, Truncation) or K == 64)


def block_distances(S, blocks):
    "1 - similarity from the upper triangle, and 1e6 between blocks."
    D = np.triu(1 - S.astype(float), 1)
    D, block = D + D.T, np.arange(len(D)) * blocks // len(D)
    D[block[:, None] != block] = 1e6
    return D


@pytest.mark.parametrize("N", (64, 256))
@pytest.mark.parametrize("seed", range(20))
def test_one_tree_equals_a_general_clustering_at_every_K(N, seed, blocks=4):
    Ks = range(blocks, N + 1)
    e = F.normalize(gaussian(seed, N, 32), dim=-1)
    ours, D = MergeTree(e @ e.T, blocks).all_labels(), block_distances((e @ e.T).numpy(), blocks)
    with tempfile.TemporaryDirectory() as memory:
        model = AgglomerativeClustering(
            metric="precomputed", linkage="average", memory=memory, compute_full_tree=True
        )
        for K in Ks:
            assert same_partition(ours[N - K], model.set_params(n_clusters=K).fit_predict(D)), (
                N,
                K,
                seed,
            )


def exported_afresh(root, folder):
    "Copy the project's notebooks into folder, export them there, and return the new package."
    for name in ("nbs", "lgm_nb"):
        shutil.copytree(
            root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    shutil.copy(root / "settings.ini", folder)
    for module in (folder / "lgm_nb").rglob("[!_]*.py"):
        module.unlink()
    export = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    done = subprocess.run(
        [sys.executable, "-c", export], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "lgm_nb"


def differing(a, b):
    "Modules, by their place in the package, that are not the same bytes in both."
    names = sorted({str(p.relative_to(folder)) for folder in (a, b) for p in folder.rglob("*.py")})

    def read(path):
        return path.read_bytes() if path.exists() else None

    return [name for name in names if read(a / name) != read(b / name)]


def test_every_notebook_is_its_module(tmp_path):
    pytest.importorskip("nbdev")
    root = data_folder().parent
    fresh = exported_afresh(root, tmp_path)
    assert differing(fresh, root / "lgm_nb") == [], "run nbdev_export"
    with open(fresh / "merging.py", "a") as file:
        file.write("# edited by hand\n")
    assert differing(fresh, root / "lgm_nb") == ["merging.py"]  # the check can fail
