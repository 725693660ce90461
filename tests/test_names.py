"""Names of other people in pictures, pages, files and output: shown as written where they can be,
escaped where not, and never a reason to lose a result.
"""
import ast
import io
import json
import os
import socket
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from lgm_nb import train
from lgm_nb.base import glyphs
from lgm_nb.base.errors import UserError, exit_status
from lgm_nb.base.glyphs import drawable
from lgm_nb.base.names import distinct, look_of, shown
from lgm_nb.base.plots import never_costly, save_figure, show_grid
from lgm_nb.evaluation import pictures
from lgm_nb.evaluation.paper import cost_figure
from lgm_nb.evaluation.results import publish
from lgm_nb.explore import views
from lgm_nb.explore.page import explore
from lgm_nb.explore.pictures import classes_of
from lgm_nb.training.runs import Run, States, open_trackers

PACKAGE = Path(train.__file__).parent
BYTES = os.fsdecode(b"caf\xe9")
NAMES = ["$1_$5", "US$5-US$10", "$\\frac{1}{0}$", r"a\$b", "\\$", "$", "_nolegend_", "__",
         "100 %s {} {x}", "\\alpha", "two\nlines",
         BYTES, "\u202egnp.tac", "e\u0301", "\U0001f431\u200d\U0001f408",
         "\u0642\u0637\u0629", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u732b", "\ufffe", " ", "",
         "<!--<script>", "</script>", "a&b\"'", "\u2028", "\x1b[2J", "w" * 255]
TINY = ("--preset cifar10 --tokenizer-training.steps 2 --generator-training.steps 2 "
        "--tokenizer-training.batch-size 8 --generator-training.batch-size 8 "
        "--tokenizer-training.warmup 1 --generator-training.warmup 1 --tokenizer.width 32 "
        "--tokenizer.decoder-depth 1 --generator.width 32 --generator.depth 1 --generator.heads 2 "
        "--evaluation.samples 10 --evaluation.images 10 --evaluation.points 3 "
        "--evaluation.lengths 64 4 --device cpu --precision float32").split()


@pytest.fixture(autouse=True)
def same_fonts():
    "The fonts in use and the list of fonts, as before the test."
    known = font_manager.fontManager.ttflist[:]
    with matplotlib.rc_context(): yield
    font_manager.fontManager.ttflist[:] = known
    glyphs.look_for_new_fonts.cache_clear()
    plt.close("all")


@pytest.fixture
def no_more_fonts(monkeypatch):
    "A machine that has the fonts of matplotlib only."
    monkeypatch.setattr(glyphs, "other_fonts", list)


def cat_font(path, character="\u732b"):
    "A font file with a square for one character."
    pen = TTGlyphPen(None)
    for i, corner in enumerate([(0, 0), (0, 800), (800, 800), (800, 0)]):
        (pen.lineTo if i else pen.moveTo)(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "cat"])
    font.setupCharacterMap({ord(character): "cat"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable(dict(familyName="A Cat Sans", styleName="Regular"))
    font.setupOS2(sTypoAscender=800, usWeightClass=400)
    font.setupPost()
    font.save(path)
    return path


def drawn(name, **how):
    "Pixels of a figure with a name as title; every warning is an error."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = plt.figure(figsize=(4, 0.5), dpi=60)
        fig.text(0.02, 0.3, name, fontsize=10, **how)
        fig.canvas.draw()
        pixels = np.asarray(fig.canvas.buffer_rgba()).copy()
    plt.close(fig)
    return pixels


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_name_is_drawn_as_it_is_shown(name):
    words = drawable(name)
    literal = "".join(glyphs.escaped(c) if c in glyphs.add_fonts(shown(name)) else c
                      for c in shown(name))
    assert (drawn(words) == drawn(literal, parse_math=False)).all()


def test_no_name_is_hidden_from_a_legend():
    labels = [drawable(name, 100) for name in NAMES if name.strip()]
    fig, ax = plt.subplots(figsize=(4, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for label in labels: ax.plot([0, 1], label=label)
        ax.legend()
        fig.canvas.draw()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == labels


def test_without_a_font_a_character_is_escaped(no_more_fonts):
    assert drawable("\u732b a") == r"\u732b a" and drawable("\U00020000") == r"\U00020000"
    drawn(drawable("\u732b"))


def test_a_font_of_the_machine_is_found(tmp_path, monkeypatch):
    "Also one that was installed after matplotlib had written its list, beside a damaged one."
    path, broken = cat_font(tmp_path / "cat.ttf"), tmp_path / "broken.ttf"
    broken.write_bytes(path.read_bytes()[:200])
    known = [e for e in font_manager.fontManager.ttflist if "DejaVu" in e.name]
    font_manager.fontManager.ttflist[:] = known
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(broken), str(path)])
    glyphs.look_for_new_fonts.cache_clear()
    assert drawable("\u732b $1$ \u72ac") == r"""\u732b \$1\$ \u72ac""".replace(r"\u732b", "\u732b")
    assert matplotlib.rcParams["font.family"][-1] == "A Cat Sans"
    assert drawn(drawable("\u732b")).min() < 100
    fig = show_grid([torch.zeros(2, 1, 4, 4)], column_labels=["\u732b", "dog"], title="\u732b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.canvas.draw()
    assert fig.axes[0].get_title() == "\u732b"


@pytest.mark.parametrize("dpi", [72, 90, 100, 144, 200])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_labels_stay_in_their_place(count, dpi):
    long = ["W" * 255, "\u732b" * 80, "$" * 255, "i" * 255, "_" * 255] * 2
    fig = show_grid([torch.zeros(count, 1, 8, 8)] * 2, ["r" * 255, BYTES * 60], long[:count],
                    title="t" * 255)
    fig.set_dpi(dpi)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.canvas.draw()
    whole = fig.bbox
    titles = [ax.title.get_window_extent() for ax in fig.axes[:count]]
    rows = [ax.yaxis.label.get_window_extent() for ax in fig.axes[::count]]
    for box in [*titles, *rows]: assert box.x0 >= -2 and box.x1 <= whole.x1 + 2
    assert all(a.x1 <= b.x0 + 4 for a, b in zip(titles, titles[1:]))


def test_alike_names_stay_apart():
    names = ["\u00e9", "e\u0301", "a", "a ", "a", "a (2)", BYTES, r"caf\xe9", "x" * 99, "x" * 98,
             "a\u200db", "ab", *NAMES]
    found = distinct(names)
    assert len({look_of(name) for name in found}) == len(names) and found[:1] == names[:1]
    assert json.dumps(found, ensure_ascii=False).encode() and max(map(len, found)) < 50
    assert distinct(["T-shirt", "Sneaker"]) == ["T-shirt", "Sneaker"]
    choice = classes_of(SimpleNamespace(classes=["a", "a", BYTES]))
    assert choice == [("a", 0), ("a (2)", 1), (r"caf\xe9", 2)]


@pytest.mark.parametrize("name", NAMES)
def test_svg_is_xml(name):
    drawing = views.drawn("svg", 100, 20, [views.drawn("text", 0, 12, name)], name)
    root = ElementTree.fromstring(drawing.encode("utf-8"))
    assert root.attrib["aria-label"] == shown(name) and "".join(root.itertext()) == shown(name)


def test_names_of_files_in_the_figure_of_costs():
    rows = {"64": dict(gflops_per_image=2.0, seconds_per_image=1.0, fid=3.0)}
    record = dict(command="generate", lengths=rows, samples=10, data="d", extractor={"name": "$e$"})
    fig = cost_figure({"$1_$5": record, "_x": record, BYTES: record, "n" * 200: record})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.canvas.draw()
    said = [t.get_text().strip("\u200b") for t in fig.axes[1].get_legend().get_texts()]
    assert said[:3] == [r"\$1_\$5", "_x", r"caf\xe9"] and len(said[3]) < 60


def test_a_picture_that_is_the_result_fails_in_one_sentence(tmp_path, capsys):
    fig = plt.figure()
    fig.text(0, 0, "$\\frac$")
    with pytest.raises(UserError, match="could not be drawn"): save_figure(tmp_path / "a.png", fig)
    assert not list(tmp_path.iterdir()) and not plt.get_fignums()
    with never_costly("b.png"): raise RuntimeError("no\nfont")
    assert "b.png was not drawn (no); the results are kept." in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt), never_costly("c.png"): raise KeyboardInterrupt


# ------------------------------------------------------------------ a run on such names

ODD = ("$1_$5", "\u732b", BYTES, "_a", "<!--<script>", "two\nlines")


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory):
    "(words of the command, folder) of a finished run; data and classes have the oddest names."
    place = tmp_path_factory.mktemp("names")
    data, draw = place / os.fsdecode(b"data\xff \xe7\x8c\xab"), np.random.default_rng(0)
    for name in ODD:
        (data / name).mkdir(parents=True)
        for i in range(4):
            pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(data / name / f"{i}.png")
    words = [*TINY, "--data.name", f"folder:{data}", "--out", str(place / "run")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert train.main(words) == 0
    return words, place / "run"


def test_a_run_on_odd_names_has_everything(odd_run):
    folder = odd_run[1]
    for name in (*pictures.PICTURES, "metrics.json", "timing.json"):
        assert (folder / name).is_file()
    metrics = json.loads((folder / "metrics.json").read_bytes().decode("utf-8"))
    assert r"data\xff" in metrics["data"] and "\u732b" in metrics["data"]


def test_a_failed_picture_costs_nothing_and_comes_later(odd_run, monkeypatch, capsys, tmp_path):
    words, folder = odd_run
    words = [*words[:-1], str(tmp_path / "run")]
    seen = {}

    def broken(*rest):
        seen.update({name: (tmp_path / "run" / name).is_file() for name in ("metrics.json",
                                                                            "timing.json")})
        raise RuntimeError("no font")
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "sample_grid", broken)
        assert train.main(words) == 0
    said = capsys.readouterr().out
    assert seen == {"metrics.json": True, "timing.json": True}
    assert "samples.png was not drawn (no font); the results are kept." in said
    assert "PSNR dB" in said and said.count("samples.png") == 1
    assert (tmp_path / "run" / "curves.png").is_file()
    before = (tmp_path / "run" / "curves.png").stat().st_mtime_ns
    assert train.main(words) == 0
    again = (tmp_path / "run" / "samples.png").read_bytes()
    assert again == (folder / "samples.png").read_bytes()
    assert (tmp_path / "run" / "curves.png").stat().st_mtime_ns == before
    (tmp_path / "run" / "samples.png").unlink()
    (tmp_path / "run" / "generator.safetensors").unlink()
    capsys.readouterr()
    assert train.main(words) == 0 and "samples.png was not drawn" in capsys.readouterr().out


class Facts(HTMLParser):
    "The JSON of the page, and how many scripts a browser would see."
    def __init__(self):
        super().__init__()
        self.scripts, self.facts, self.inside = 0, "", False

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.inside = dict(attributes).get("id") == "data"

    def handle_data(self, data):
        if self.inside: self.facts += data
        self.inside = False


def test_the_page_holds_odd_names(odd_run, tmp_path):
    explore(html=tmp_path / "page.html", run=odd_run[1])
    page = (tmp_path / "page.html").read_bytes().decode("utf-8")
    reader = Facts()
    reader.feed(page)
    assert reader.scripts == 4 and "<!--<script" not in page
    facts = json.loads(reader.facts)
    said = {*facts["classes"], *(image["name"] for image in facts["images"])}
    assert {r"caf\xe9", "<!--<script>"} <= said <= {*map(shown, ODD)}
    explore(animation=tmp_path / "film.gif", run=odd_run[1])
    assert (tmp_path / "film.gif").stat().st_size > 1000


def test_own_pictures_do_not_replace_the_table_of_the_readme(odd_run, tmp_path, capsys):
    "They did, from any folder and without a word."
    page = tmp_path / "page.md"
    page.write_text("<!-- table fashion -->\n<!-- /table fashion -->\n", encoding="utf-8")
    with pytest.raises(UserError, match="write another --name"): publish(odd_run[1], readme=page)
    assert "|" not in page.read_text(encoding="utf-8")


def test_trackers_take_odd_names(odd_run, tmp_path):
    pytest.importorskip("tensorboard")
    settings = train.parse([*odd_run[0][:-1], str(tmp_path), "--trackers", "tensorboard"])
    assert open_trackers(settings, tmp_path)[0].name == "tensorboard"


def test_the_holder_of_a_lock_may_have_any_name(odd_run, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "\u732b" + BYTES)
    Run(train.parse([*odd_run[0][:-1], str(tmp_path / "run")]))
    told = next((tmp_path / "run").glob(".lock-holder")).read_bytes().decode("utf-8")
    assert told.endswith("on \u732bcaf\\xe9")


def test_a_state_is_read_from_any_folder(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    States(folder, "tokenizer").save(3, x=torch.ones(2))
    assert States(folder, "tokenizer").load()["step"] == 3


# ------------------------------------------------------------------ output

class Refusing(io.StringIO):
    "A stream that takes nothing."
    def __init__(self, error): self.error, self.asked = error, 0

    def write(self, text):
        self.asked += 1
        raise self.error

    flush = lambda self: self.write("")  # noqa: E731


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left"),
                                   ValueError("I/O operation on closed file"), None])
def test_a_run_goes_on_when_nothing_can_be_printed(odd_run, tmp_path, monkeypatch, error):
    words = [*odd_run[0][:-1], str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, error and Refusing(error))
        before = sys.stdout
        assert train.main(words) == 0 and sys.stdout is before
        assert error is None or before.asked
    assert (tmp_path / "run" / "samples.png").is_file()


def test_a_bar_and_a_wrong_word_need_no_reader(monkeypatch):
    from tqdm import tqdm

    def command():
        for _ in tqdm(range(3), disable=False, mininterval=0): print("line", flush=True)
        raise UserError("wrong")
    with monkeypatch.context() as patch:
        for name in ("stdout", "stderr"): patch.setattr(sys, name, Refusing(BrokenPipeError()))
        assert exit_status(command) == 2


LINES = '''
import os, sys
from lgm_nb.base.errors import exit_status
def command():
    for i in range(3000): print(i, "caf\\u00e9 \\u732b", os.fsdecode(b"\\xff"))
    print("said", file=sys.stderr)
    open(sys.argv[1], "w").close()
    assert os.fstat(1) and os.fstat(2)
sys.exit(exit_status(command))
'''


@pytest.mark.parametrize("redirected", [
    ">&-", ">&- 2>&- <&-", "2>&-", "> /dev/full", "> /dev/full 2>&1", "| head -1", "| true",
    "> out"])
@pytest.mark.parametrize("around", [
    {}, dict(PYTHONIOENCODING="ascii:strict"), dict(PYTHONIOENCODING="cp1252"),
    dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")])
def test_output_never_ends_a_command(tmp_path, redirected, around):
    (tmp_path / "lines.py").write_text(LINES, encoding="utf-8")
    command = f'"{sys.executable}" lines.py done {redirected}; echo ${{PIPESTATUS[0]}} > status'
    there = os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | around
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=there, capture_output=True)
    assert (tmp_path / "status").read_text().strip() == "0", done.stderr
    assert (tmp_path / "done").exists() and b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    if redirected != "> out": return
    line = (tmp_path / "out").read_bytes().splitlines()[2999]
    assert line.startswith(b"2999 caf") and line.endswith(rb"\xff")
    if around: assert rb"\u732b" in line or rb"\xe7\x8c\xab" in line


def test_the_whole_command_speaks_to_an_old_console(odd_run, tmp_path):
    there = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "cp1252"}
    words = [sys.executable, "-m", "lgm_nb.train", *odd_run[0], "--dry-run"]
    done = subprocess.run(words, cwd=tmp_path, env=there, capture_output=True)
    assert done.returncode == 0, done.stderr
    words[words.index("--data.name") + 1] = "folder:\u5199\u771f" + BYTES
    done = subprocess.run([*words[:-1], "--out", "other"], cwd=tmp_path, env=there,
                          capture_output=True)
    assert done.returncode == 2 and b"Traceback" not in done.stderr


def test_text_files_say_their_encoding():
    "open, read_text and write_text name an encoding, or read bytes: no locale changes a file."
    bare = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call): continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name not in ("read_text", "write_text", "open", "fdopen"): continue
            owner = getattr(getattr(node.func, "value", None), "id", "")
            binary = any("b" in str(getattr(a, "value", "")) for a in node.args[1:2])
            if owner in ("Image", "os", "archive") or binary: continue
            if not any(k.arg == "encoding" for k in node.keywords):
                bare.append(f"{path.name}:{node.lineno}")
    assert not bare
