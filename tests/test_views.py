"""Views: what the explorers draw with the facts of every kind of run is whole markup, with nothing
left out in it; names are words and never tags; an error of a view is one of Python."""
import base64
import re
import threading
from html.parser import HTMLParser
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from test_own_runs import KINDS, run_of

from lgm_nb.base.errors import UserError
from lgm_nb.base.names import shown
from lgm_nb.explore.alignment import Alignment
from lgm_nb.explore.charts import chart_facts, curve_facts
from lgm_nb.explore.groups import Groups, picture_under
from lgm_nb.explore.own import pictures_of
from lgm_nb.explore.pictures import PictureStrip, kept_places, methods_of, picture_row
from lgm_nb.explore.quality import Costs
from lgm_nb.explore.views import beside, drawn, packed
from lgm_nb.weights import load_weights

EVIL = """</text><b a='1' b="2">& &amp; `${K}`"""
ODD = [EVIL, "\x00\x1b", "\udce9", "\ufffe", "猫", "$&$1", "</script>"]


class Markup(HTMLParser):
    "HTML as its tags, attributes and words; AssertionError for a tag that closes no other."
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.values, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.values += [value for _, value in attrs]
        assert len(attrs) == len({name for name, _ in attrs}), attrs
        if tag not in ("img", "br"): self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data): self.words.append(data)


def check(markup):
    "Whole markup without a number or word that is not there; SVG is XML."
    seen = re.sub(r'"data:[^"]*"', '""', markup)
    for wrong in ("NaN", "undefined", "null", "Infinity", "[object"): assert wrong not in seen, seen
    if markup.startswith("<svg"):
        root = ElementTree.fromstring(markup)
        assert float(root.get("width")) > 0 and float(root.get("height")) > 0
        assert root.get("aria-label") and root.get("role")
    return Markup(markup)


def lengths_of(trained):
    "The first, the last, and one between."
    lengths = trained.lengths
    return sorted({lengths[0], lengths[len(lengths) // 3], lengths[-1]})


def group_views(trained, image):
    "All drawings of the groups, of tokens that are chosen and not."
    groups, s = Groups.of(trained.tokenizer), trained.settings.tokenizer
    picture = picture_under(s, image)
    change = torch.rand(s.image_size, s.image_size).tolist()
    for K in lengths_of(trained):
        found = drawn("labelsAt", groups.facts(), K).split(",")
        assert [int(group) for group in found] == groups.at(K).tolist()
        regions = groups.draw("regions", K=K, picture=picture)
        assert regions.count('class="lgm-region"') == regions.count('class="lgm-edge"') == K
        yield regions
        for token in (0, s.tokens - 1):
            yield groups.draw("regions", K=K, chosen=token, picture=picture, press=True)
            yield groups.draw("bordered", K=K, chosen=token, picture=picture)
            yield groups.draw("trees", K=K, chosen=token)
            yield groups.draw("owned", K=K, chosen=token, change=change)
        yield groups.draw("bordered", K=K, picture=picture)
        yield groups.draw("trees", K=K)


def other_views(trained, x, y):
    "Tokens that are kept, latents, charts, strips and cost."
    methods, s = methods_of(trained), trained.settings.tokenizer
    found, strip, costs = Alignment(methods, x, y), PictureStrip(methods, x[:3]), Costs(trained)
    charts = [found.chart("averaged"), found.chart("flattened"), strip.chart()]
    for K in lengths_of(trained):
        yield kept_places(s, K, x[0])
        for name in methods: yield from found.draw(name, K)
        for chart in charts: yield drawn("chart", chart, dict(K=K))
        yield drawn("strip", strip.rows(strip.at(K), True, {name: [K] * 3 for name in methods}))
        yield drawn("row", picture_row("a", x[:2], [1, 2], mark=1, wrap=300))
        facts = dict(K=K, N=s.tokens, step=costs.step(K), full=costs.step(s.tokens))
        yield drawn("cost", facts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_of_every_kind_of_run(tmp_path, kind):
    trained = load_weights(run_of(tmp_path, kind))
    x, y = pictures_of(trained).test.batch(torch.arange(4) % 2)
    for markup in other_views(trained, x, y): check(markup)
    if kind == "truncates":
        with pytest.raises(UserError, match="no merge tree"): Groups.of(trained.tokenizer)
    else:
        for markup in group_views(trained, x[0]): check(markup)


def test_ways_that_the_paper_does_not_know(tmp_path):
    trained = load_weights(run_of(tmp_path, "colour"))
    found = Alignment({"near": trained}, torch.rand(4, 3, 32, 32))
    assert found.paper("near") == {} and not found.chart("averaged")["marks"]
    for markup in found.draw("near", 16):
        check(markup)
        assert "paper" not in markup


def test_a_chart_over_costs_and_one_without_points():
    curves = [curve_facts("a", i, {4: 1.0, 8: float("nan"), 16: 3.0}, {4: 0.5, 16: 2.5}, i == 1)
              for i in range(3)]
    level = ("real images", 7.0)
    facts = chart_facts("t", "GFLOPs", curves, 3, " x", curves[:1], level, zero=True)
    assert facts["yrange"][1] >= 7 and facts["yrange"][0] == 0
    for K in (1, 4, 9, 64):
        markup = drawn("chart", facts, dict(K=K, here=1.0, width=460, height=255))
        assert markup.count('class="lgm-here"') == 3
        check(markup)
    for some in ([], [curve_facts("b", 0, {4: float("inf")})], [curve_facts("b", 0, {4: 1.0})]):
        check(drawn("chart", chart_facts("t", "tokens K", some), dict(K=4)))


@pytest.mark.parametrize("name", ODD)
def test_names_are_words(name):
    x = torch.zeros(2, 1, 8, 8)
    row = picture_row(name, x, [name, name])
    found = check(drawn("strip", [row, row]))
    assert set(found.tags) == {"div", "figure", "figcaption", "img"}
    assert found.words.count(shown(name)) == 6                # a label and two captions a row
    assert f"{shown(name)} 1: {shown(name)}" in found.values
    facts = chart_facts(name, name, [curve_facts(name, 0, {4: 1.0, 8: 2.0})], unit=name,
                        marks=[curve_facts(name, 1, {4: 1.0})], level=(name, 1.5))
    found = check(drawn("chart", facts, dict(K=4)))
    assert {"b", "script"}.isdisjoint(found.tags) and found.words.count(shown(name)) == 3
    one = drawn("svg", 9, 9, [drawn("text", 0, 0, name)], name)
    assert {shown(name)} <= set(check(beside(one, one, titles=[name, name])).words)


def test_the_check_can_fail():
    for wrong in ('<svg width="1" height="1"><b></svg>', '<div a="1" a="2"></div>', "<div></p>",
                  "<div>", '<span a="NaN"></span>', "<p>undefined</p>",
                  drawn("svg", 10, 10, ["<b>"], "a")):
        with pytest.raises((AssertionError, ElementTree.ParseError)): check(wrong)


def test_an_error_of_a_view_is_a_sentence_of_python():
    for view, facts in (("regions", {}), ("nothing", 3), ("chart", {"curves": None})):
        with pytest.raises(RuntimeError, match=f"The view {view} failed: .*Error: ") as raised:
            drawn(view, facts, {})
        assert "\n" not in str(raised.value)
    with pytest.raises(TypeError): drawn("said", np.zeros(3))
    assert "words" in drawn("said", "words")                 # the engine goes on


def test_numbers_that_are_not_finite_are_grey():
    grey = "230,230,230"
    for value in ("nan", "inf", "-inf"): assert drawn("heat", float(value), 0, 1) == grey
    assert drawn("heat", 0.5, 0, 1) != grey
    both = [drawn("heatMap", [[1.0, value]], 0, 1) for value in (0.5, float("nan"))]
    pixels = [np.asarray(Image.open(BytesIO(base64.b64decode(one.split(",")[1]))).convert("RGB"))
              for one in both]
    assert pixels[1][0].tolist() == [[253, 231, 37], [230, 230, 230]] != pixels[0][0].tolist()
    assert packed([[1.5, float("nan")], {"a": (float("inf"),)}]) == '[[1.5,null],{"a":[null]}]'


def test_long_facts_and_many_threads():
    "A text above every buffer, facts that push others out, and eight threads at once."
    wrong = []
    def draw(i):
        facts = packed({"x": [i] * 3000})
        for k in range(20):
            words = drawn("JSON.stringify", facts)
            if words != facts or len(drawn("said", "ab" * 20000)) < 40000: wrong.append((i, k))
    threads = [threading.Thread(target=draw, args=(i,)) for i in range(24)]
    for thread in threads: thread.start()
    for thread in threads: thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)
