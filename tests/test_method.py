"Wrong input to the method gives one sentence; every form, kind of token and way to shorten runs."

import pytest
import torch

from lgm_nb.base.errors import UserError
from lgm_nb.flow import flow_matching_loss, sample, time_grid
from lgm_nb.generator import DiT, GeneratorSettings
from lgm_nb.merging import MergePattern, MergeTree
from lgm_nb.quantizer import SoftVQ, make_quantizer
from lgm_nb.tokenizer import Tokenizer, TokenizerSettings, token_order
from lgm_nb.truncation import Truncation, TruncationPattern

PATTERN = MergePattern([0, 0, 1, 2, 2, 2])
TREE = MergeTree(torch.eye(64), blocks=4)
SHORT = TREE.cut(16)
FIRST = TruncationPattern(6, 3)


def refused(call, said):
    with pytest.raises(UserError, match=said):
        call()


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: TREE.cut(3), "4..64"),
        (lambda: TREE.cut(8.5), "whole number"),
        (lambda: MergeTree(torch.eye(62)), "62 tokens do not divide into 4 blocks"),
        (lambda: MergeTree(torch.full((8, 8), torch.nan)), "NaN"),
        (lambda: MergePattern([0, 2]), "without gaps"),
        (lambda: PATTERN.merge(torch.zeros(5, 4)), "give all 6"),
        (lambda: MergePattern.from_matrix(torch.ones(4, 2)), "no averaging matrix"),
        (lambda: Truncation(64, blocks=4).pattern(3), "4..64"),
        (lambda: TruncationPattern(64, 0), "1..64"),
        (lambda: FIRST.merge(torch.zeros(5, 4)), "give all 6"),
        (lambda: FIRST.unmerge(torch.zeros(6, 4)), "give 3"),
    ],
)
def test_merging_refuses(call, said):
    refused(call, said)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: make_quantizer("hard", 8), "gaussian, sphere or softvq"),
        (lambda: SoftVQ(8, 4)(torch.randn(2, 63, 8)), "63 tokens do not divide into 4 codebooks"),
    ],
)
def test_quantizer_refuses(call, said):
    refused(call, said)


@pytest.mark.parametrize(
    "choice, said",
    [
        (dict(patch=5), "patch of 5 does not divide"),
        (dict(tokens=32), "one for each of the 64 patches, not 32"),
        (dict(patch=8), "one for each of the 16 patches"),
        (dict(blocks=3), "do not divide into 3 equal rectangles"),
        (dict(blocks=0), "0 blocks hold no tokens"),
        (dict(tied=False, tokens=62), "multiple of 4"),
        (dict(heads=5), "does not divide into 5 heads"),
    ],
)
def test_tokenizer_refuses_sizes(choice, said):
    refused(lambda: Tokenizer(TokenizerSettings(**choice)), said)


def test_tokenizer_refuses_input():
    net = Tokenizer(TokenizerSettings(width=32))
    refused(lambda: token_order(8, 6), "6 equal rectangles")
    refused(lambda: net.encode(torch.zeros(1, 3, 28, 28)), "this tokenizer reads")
    refused(lambda: net.pattern(2), "4..64")


@pytest.mark.parametrize(
    "choice",
    [
        dict(latents="sphere"),
        dict(latents="softvq"),
        dict(shorten="truncate"),
        dict(tied=False),
        dict(tied=False, padding=0, tokens=32),
        dict(blocks=2),
        dict(blocks=16),
    ],
)
def test_every_tokenizer_runs_and_learns(choice):
    torch.manual_seed(0)
    net, x = Tokenizer(TokenizerSettings(width=32, **choice)), torch.randn(2, 1, 28, 28)
    out = net(x, 16)
    (out.images.square().mean() + out.align_loss + out.latent_loss).backward()
    assert out.images.shape == x.shape and net.encoder.to_latent.weight.grad.abs().sum() > 0


def test_truncation_keeps_the_first_tokens():
    net, z = (
        Tokenizer(TokenizerSettings(width=32, shorten="truncate")).eval(),
        torch.randn(2, 64, 8),
    )
    kept = net.merging(z, 16).z
    assert torch.equal(kept[:, :16], z[:, :16]) and kept[:, 16:].abs().sum() == 0


def generator():
    return DiT(settings=GeneratorSettings(width=32, depth=1, heads=2))


@pytest.mark.parametrize(
    "x, pattern", [((4, 64, 8), SHORT), ((4, 64, 4), None), ((4, 3, 8), MergePattern([0, 1, 2, 2]))]
)
def test_generator_refuses_tokens(x, pattern):
    t, y = torch.rand(4), torch.zeros(4, dtype=torch.long)
    refused(lambda: generator()(torch.randn(x), t, y, pattern), "this generator takes")


def test_generator_refuses_sizes():
    refused(
        lambda: DiT(settings=GeneratorSettings(width=100, heads=3)), "does not divide into 3 heads"
    )


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda y: sample(generator(), y, SHORT, noise=torch.zeros(2, 16, 8)), "full-space noise"),
        (
            lambda y: sample(generator(), y, SHORT, guidance=2, guidance_mode="half"),
            "per_position or standard",
        ),
        (lambda y: time_grid(1), "at least 2"),
        (
            lambda y: flow_matching_loss(
                generator(), torch.zeros(2, 64, 8), y, SHORT, noise_scale="big"
            ),
            "merged, unit, unweighted, shifted",
        ),
    ],
)
def test_flow_refuses(call, said):
    refused(lambda: call(torch.tensor([0, 1])), said)
