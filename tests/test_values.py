"""Values that are accepted at the start must work to the end; numbers that are none are left out of
files; places are stored whole.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgm_nb import bench, forms, train
from lgm_nb.base.absent import Absent, measured, one_row, reasons
from lgm_nb.base.errors import UserError
from lgm_nb.base.files import load_json, load_tensors, save_json
from lgm_nb.base.seeds import seed32
from lgm_nb.data.images import batch_indices, load_data, split_off_test
from lgm_nb.data.latents import flip_rule
from lgm_nb.evaluation import extraction, features, report, results
from lgm_nb.evaluation.card import card_table, quality_figure
from lgm_nb.evaluation.metrics import precision_recall, sample_metrics
from lgm_nb.evaluation.paper import numbered_noise
from lgm_nb.evaluation.scorer import sampling_noise
from lgm_nb.release import paper_numbers
from lgm_nb.training.fitting import seed_step
from lgm_nb.training.pipeline import load_images, load_run
from lgm_nb.training.places import continues, stored
from lgm_nb.training.presets import presets
from lgm_nb.training.runs import Run, States
from lgm_nb.training.settings import DataSettings, Settings, comparable

SEEDS = (-1, 2**32, 20260917093012, -(10**30))
PROJECT = Path(__file__).parents[1]
TINY = """
    --device cpu --tokenizer.width 16 --tokenizer.heads 2 --tokenizer.encoder-depth 1
    --tokenizer.decoder-depth 1 --generator.width 16 --generator.depth 1 --generator.heads 2
    --tokenizer-training.steps 2 --generator-training.steps 2 --tokenizer-training.batch-size 8
    --generator-training.batch-size 8 --evaluation.samples 13 --evaluation.images 12
    --evaluation.points 2 --evaluation.lengths 64 4 --precision float32
""".split()
CLOTHES = [*TINY, "--data.limit", "100"]
PICTURES = ["--preset", "cifar10", *TINY]


@pytest.fixture
def say(tmp_path, capsys, monkeypatch):
    "say(command, *words) -> (status, all that it says), in an empty folder that is HOME too."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(command, *words):
        capsys.readouterr()
        try:
            status = command([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return status, " ".join("".join(capsys.readouterr()).split())

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A finished tiny run on clothes, whose seed is a date."
    out = tmp_path_factory.mktemp("finished") / "run"
    assert train.main([*CLOTHES, "--seed", "20260917093012", "--out", str(out)]) == 0
    return out


def draw(folder, counts, size=12, start=0):
    "Small noisy pictures: so many in each folder below `folder`."
    rng = np.random.default_rng(start)
    for name, count in counts.items():
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = rng.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(noise).save(Path(folder) / name / f"{i}.png")


def damage(path):
    "Cut a file in the middle."
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def strict(path):
    "A JSON file as any reader takes it: NaN and Infinity are refused."

    def refuse(word):
        raise AssertionError(f"{path} holds {word}")

    text = Path(path).read_text()
    parts = text.splitlines() if Path(path).suffix == ".jsonl" else [text]
    return [json.loads(part, parse_constant=refuse) for part in parts]


def test_seeds_of_old_give_what_they_gave():
    assert [seed32(s) for s in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    mixed = int(np.random.SeedSequence([5, 1]).generate_state(1, np.uint64)[0] >> 1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(mixed))
    assert torch.equal(batch_indices(10, 4, 3, 5), order[4:8])
    torch.manual_seed(((5 * 31 + sum(map(ord, "latents"))) * 1_000_003 + 9) % 2**63)
    old = torch.rand(3)
    seed_step(5, "latents", 9)
    assert torch.equal(old, torch.rand(3))
    first = torch.randn(64, 8, generator=torch.Generator().manual_seed(5 + 1))
    assert torch.equal(sampling_noise(1, Settings(seed=5))[0], first)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_whole_number_is_a_seed(seed):
    images = load_data("fashion-small", limit=40).train
    assert len(batch_indices(10, 4, 3, seed)) == 4
    assert len(split_off_test(images, seed)[1]) == 10
    assert flip_rule(seed, 0, range(8)).shape == (8,)
    assert sampling_noise(2, Settings(seed=seed).check()).shape == (2, 64, 8)
    assert numbered_noise(seed, Settings())(torch.arange(2)).shape == (2, 64, 8)
    pictures = images.images
    assert sample_metrics(pictures, pictures.flip(0), seed=seed)["seed"] == seed
    quick = features.FeatureSettings(epochs=1, batch_size=20, seed=seed, dtype="float32")
    features.train_feature_network(pictures, images.labels, quick)
    assert forms.trial("sphere", "merge", 3, seed).seed == seed


def test_a_run_with_a_date_as_seed(finished, say):
    for name in ("metrics.json", "timing.json", "settings.json", "environment.json", "log.jsonl"):
        assert strict(finished / name)
    assert load_json(finished / "settings.json")["seed"] == 20260917093012
    words = (finished, "--lengths", 4, "--seed", -1)
    status, text = say(paper_numbers.main, "generate", *words, "--samples", 10, "--out=~/n.json")
    assert status == 0, text
    held = strict("n.json")[0]["lengths"]["4"]
    assert "inception_score" not in held and "fewer than 2" in held["without"]["inception_score"]
    assert "Without inception_score" in text and not Path("~").exists()
    out = ("--out", "s.json")
    few = ("--guidance", 2, "--shift", 0.5, "--interval", 0, 1, "--batch-size", 10)
    status, text = say(paper_numbers.main, "search", *words, *out, "--samples", 20, *few)
    assert status == 0 and "Best: --lengths 4" in text


def numbers():
    "(option, wrong value) for each number of the settings."
    kinds = {int: (-1,), float: (math.nan, math.inf, -math.inf)}
    free = ("seed", "limit")

    def walk(part, prefix):
        for f in fields(part):
            value, name = getattr(part, f.name), (*prefix, f.name)
            if is_dataclass(value):
                yield from walk(value, name)
            elif f.name not in free and value not in (None, ()):
                one = value[0] if isinstance(value, tuple) else value
                for wrong in kinds.get(type(one), ()):
                    if (f.name, wrong) != ("save_seconds", math.inf):
                        yield name, (wrong, *value[1:]) if isinstance(value, tuple) else wrong

    yield from walk(Settings(), ())


def test_every_number_of_the_settings():
    seen = 0
    for (*outer, name), wrong in numbers():
        part = replace(getattr(Settings(), outer[0]) if outer else Settings(), **{name: wrong})
        settings = replace(Settings(), **{outer[0]: part}) if outer else part
        with pytest.raises(UserError):
            settings.check()
        seen += 1
    assert seen > 100
    for settings in presets().values():
        settings.check()


@pytest.mark.parametrize(
    "words",
    [
        "--evaluation.samples 0",
        "--evaluation.images 0",
        "--evaluation.points 1",
        "--evaluation.points-grid",
        "--evaluation.batch-size 0",
        "--evaluation.lengths 3",
        "--evaluation.guidance nan",
        "--evaluation.guidance 1 2",
        "--evaluation.shift 0",
        "--evaluation.shift 1e-20",
        "--evaluation.guidance 1e38",
        "--tokenizer-training.warmup -1",
        "--tokenizer-training.clip 0",
        "--generator-training.label-drop 1.5",
        "--generator-training.ema 1",
        "--generator-training.lr inf",
        "--tokenizer-training.length-weights 0 0 0 0 0",
        "--tokenizer.temperature 0",
        "--losses.perceptual nan",
        "--save-seconds nan",
        "--data.limit 0",
        "--data.limit 3",
        "--data.crop nan",
        "--data.name folder:",
        "--out file",
        f"--out {'long' * 80}",
        "--init nowhere",
        "--init empty",
        "--stage evaluate",
        "--stage generator",
    ],
)
def test_told_at_the_start(say, words):
    Path("file").touch()
    Path("empty").mkdir()
    save_json("empty/settings.json", comparable(presets()["fashion"]))
    for more in ([], ["--dry-run"]):
        status, text = say(train.main, *CLOTHES, "--out", "run", *words.split(), *more)
        assert status == 2 and "Traceback" not in text and "step 1 of" not in text, (more, text)
        assert not Path("run/log.jsonl").exists()


@pytest.mark.parametrize("stage", ["all", "guidance"])
def test_a_damaged_feature_network(say, monkeypatch, stage, finished):
    place = Path("network.safetensors").absolute()
    for content in (None, b"no network"):
        if content:
            place.write_bytes(content)
        monkeypatch.setattr(features, "shipped_weights", lambda: place)
        out = finished if stage == "guidance" else "run"
        seed = ("--seed", 20260917093012 if stage == "guidance" else 0)
        for more in ([], ["--dry-run"]):
            words = (*CLOTHES, *seed, "--stage", stage, "--out", out, *more)
            status, text = say(train.main, *words)
            assert status == 2 and "network.safetensors" in text, text
    assert not Path("run/log.jsonl").exists() and not (finished / "guidance.json").exists()


def test_damaged_files_of_the_stages_before(say, finished):
    for name in ("settings.json", "tokenizer.safetensors", "generator.safetensors"):
        Path("run").mkdir(exist_ok=True)
        Path("run", name).write_bytes((finished / name).read_bytes())
    damage(Path("run/generator.safetensors"))
    words = (*CLOTHES, "--seed", 20260917093012, "--stage", "evaluate", "--out", "run")
    for more in ([], ["--dry-run"]):
        status, text = say(train.main, *words, *more)
        assert status == 2 and "generator.safetensors is no whole" in text
    assert not Path("run/latents").exists()


def test_init_whose_generator_does_not_fit(say, finished):
    draw("two", {"cat": 20, "dog": 20}, 28)
    words = (*TINY, "--data.name", "folder:two", "--init", finished, "--out", "run")
    for more in ([], ["--dry-run"]):
        status, text = say(train.main, *words, *more)
        assert status == 2 and "label.weight" in text, text
    assert not Path("run/log.jsonl").exists()


def test_the_only_test_image_of_a_class(say):
    draw("pics/train", {"cat": 20, "dog": 20}, 32)
    draw("pics/val", {"cat": 12, "dog": 1}, 32)
    damage(Path("pics/val/dog/0.png"))
    words = (*PICTURES, "--data.name", "folder:pics", "--data.on-disk", "--out", "run")
    for more in ([], ["--dry-run"]):
        status, text = say(train.main, *words, *more)
        assert status == 2 and "dog" in text and "step 1 of" not in text, text
    draw("pics/val", {"dog": 1}, 32)
    for i in range(8, 12):
        damage(Path(f"pics/val/cat/{i}.png"))
    status, text = say(train.main, *words)
    assert status == 2 and "cannot be read" in text and "step 1 of" not in text, text


@pytest.mark.parametrize(
    "words",
    [
        "generate RUN --out . --samples 10",
        "generate RUN --out x.parts --samples 10",
        "generate RUN --out x.json --samples 9",
        "generate RUN --out x.json --points 1",
        "generate RUN --out x.json --guidance nan",
        "generate RUN --out x.json --shift 0",
        "generate RUN --out x.json --interval 0.8 0.2",
        "generate RUN --out x.json --batch-size 0",
        "generate RUN --out x.json --reference no.npz",
        "generate RUN --out x.json --samples 10 --save-images file",
        "search RUN --out x.json --samples 50 --batch-size 5",
        "search RUN --out x.json --margin nan",
        "reconstruct RUN --out file/x.json --no-lpips",
        "reconstruct RUN --out x.json --images 3 --no-lpips",
        "plot no.json --out .",
        "generate ~nobody-here/run --out x.json",
    ],
)
def test_paper_numbers_look_first(say, finished, words):
    Path("file").touch()
    status, text = say(paper_numbers.main, *words.replace("RUN", str(finished)).split())
    assert status == 2 and "Traceback" not in text, text
    assert not list(Path().glob("x*"))


def test_other_commands_look_first(say, monkeypatch):
    def main(module, *words):
        monkeypatch.setattr(sys, "argv", ["command", *words])
        return say(lambda _: module.main())

    Path("file").touch()
    for words in (["--out", "x.png"], ["--out", "file/x.json"], ["--steps", "0", "--out", "x.json"],
                  ["--runs", "file", "--out", "x.json"]):
        status, text = main(forms, *words)
        assert status == 2 and "step" not in text.split("error:")[0], text
    for words in (["--out", "x.json"], ["--out", "file/x.safetensors"], ["--epochs", "0"],
                  ["--learning-rate", "nan"], ["--label-smoothing", "1"]):
        if "--out" not in words:
            words += ["--out", "x.safetensors", "--data", "fashion-small"]
        status, text = main(features, *words)
        assert status == 2 and "epoch 1/" not in text, text
    status, text = say(bench.main, "cpu", "--out", "file/x.json")
    assert status == 2 and "measured" not in text
    assert main(results, "--run", "nowhere")[0] == 2
    assert not list(Path().glob("x*"))


def test_numbers_that_are_none(tmp_path):
    row = measured(dict(psnr=math.inf, ssim=0.5, fid=Absent("too few")))
    assert row == dict(ssim=0.5, without=dict(psnr="it came out as inf", fid="too few"))
    assert set(one_row(row, dict(cka=math.nan))["without"]) == {"psnr", "fid", "cka"}
    assert len(reasons({4: row, 8: row})) == 2
    save_json(tmp_path / "a.json", dict(row, table={4: math.nan, 8: 1.0}, some=[math.inf, 2]))
    (held,) = strict(tmp_path / "a.json")
    assert held["table"] == {"8": 1.0} and held["some"] == [None, 2]
    four = precision_recall(torch.rand(3, 5), torch.rand(20, 5))
    assert isinstance(four["recall"], Absent)
    pair = torch.rand(2, 3, 28, 28)
    found = dict(psnr=torch.tensor([20.0, math.inf]))
    assert set(measured(report.mean_scores(found))["without"]) == {"psnr", "ssim"} and len(pair)


@pytest.mark.parametrize("count", [3, 10, 13, 20, 25])
def test_a_sample_is_not_compared_with_itself(count):
    before, i = report.same_class_before(count, 10), torch.arange(count)
    assert torch.equal(before % 10, i % 10)
    if count % 10 == 0 and count > 10:
        assert torch.equal(before, i.roll(10))
    now = torch.rand(count, 6), torch.rand(count, 10)
    found = report.agreement(now, [])
    assert isinstance(found["same_class_other_noise"], Absent) == (count <= 10)
    assert found["same_class"] == 1


def test_few_images_and_samples(say):
    draw("few", {"a": 5, "b": 5, "c": 6}, 8)
    words = (*PICTURES, "--data.name", "folder:few", "--tokenizer.image-size", 8,
             "--tokenizer.patch", 1, "--evaluation.samples", 2, "--out", "run")
    status, text = say(train.main, *words)
    assert status == 0, text
    metrics = strict("run/metrics.json")[0]
    row = metrics["lengths"]["4"]
    assert {"frechet", "recall", "rfd", "cknna_averaged", "ssim"} <= set(row["without"])
    assert "too few" in text and "Without" in text
    assert metrics["lengths"]["64"]["psnr"] > 0
    table = results.markdown_table(results.load_result(Path("run")))
    assert "Without" in table and "too few" in table
    assert "| - |" in card_table(metrics)
    quality_figure(dict(run=metrics))
    for name in ("timing.json", "settings.json", "log.jsonl"):
        assert strict(f"run/{name}")


def test_places_are_stored_whole(say, tmp_path):
    draw("pics", {"cat": 30, "dog": 30}, 32)
    words = (*PICTURES, "--data.name")
    whole = f"folder:{tmp_path}/pics"
    for out, name in (("a", "folder:pics"), ("b", "folder:~/pics"), ("c", whole)):
        status, text = say(train.main, *words, name, f"--out=~/{out}")
        assert status == 0, text
        assert load_json(tmp_path / out / "settings.json")["data"]["name"] == whole
    assert not Path("~").exists()
    assert len({Path(out, "metrics.json").read_bytes() for out in "abc"}) == 1
    for name in ("folder:pics", "folder:~/pics", "folder:./pics", f"folder:{tmp_path}/pics"):
        assert "is finished" in say(train.main, *words, name, "--out", "a")[1]
    Path("other").mkdir()
    os.chdir("other")
    settings = load_run(tmp_path / "a")[3]
    assert len(load_images(settings).test)
    (tmp_path / "pics").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="pics.*--data"):
        load_images(settings)
    status, text = say(paper_numbers.main, "reconstruct", "~/a", "--out", "n.json", "--no-lpips",
                       "--extractor", "fashion-cnn-64")
    assert status == 2
    (tmp_path / "a" / "metrics.json").unlink()
    moved = (*words, "folder:~/gone", "--stage", "evaluate", "--out=~/a")
    status, text = say(train.main, *moved)
    assert status == 0 and "imageshavemoved" in text.replace(" ", ""), text
    assert (tmp_path / "a" / "metrics.json").read_bytes() == Path(
        tmp_path, "b", "metrics.json").read_bytes()


def test_a_run_of_earlier_code_continues(say, tmp_path):
    draw("pics", {"cat": 30, "dog": 30}, 32)
    words = (*PICTURES, "--data.name", "folder:pics", "--out", "run", "--stage")
    for stage in ("tokenizer", "latents"):
        assert say(train.main, *words, stage)[0] == 0
    held = load_json("run/settings.json")
    held["data"]["name"] = "folder:pics"             # as it was typed
    save_json("run/settings.json", held)
    again = train.parse(list(map(str, (*words, "all"))))
    source = load_images(again, Run(again).settings).source
    assert source.startswith("images in pics, ")
    for name in ("folder:pics", f"folder:{tmp_path}/pics", "folder:~/pics"):
        same = replace(again, data=replace(again.data, name=name))
        assert continues(same) and load_images(same, Run(same).settings).source == source
        assert comparable(Run(same).settings) == held
    draw("more", {"cat": 30, "dog": 30}, 32)
    with pytest.raises(UserError, match="other settings"):
        continues(replace(again, data=replace(again.data, name="folder:more")))


def test_paths_in_python(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Settings(out="~/run", init=Path("~/first"), weights_dir="~/w",
                    data=DataSettings("folder:~/x", dir="~/d"))
    assert (made.out, made.init, made.weights_dir) == (
        tmp_path / "run", tmp_path / "first", tmp_path / "w")
    assert made.data.dir == tmp_path / "d" == replace(made).data.dir
    values = stored(made)["data"]
    assert values["dir"] == str(tmp_path / "d") and values["name"] == f"folder:{tmp_path}/x"
    assert "dir" not in comparable(made)["data"]
    with pytest.raises(UserError, match="no-such-user"):
        Settings(out="~no-such-user/run")
    with pytest.raises(UserError, match="zero byte"):
        Settings(data=DataSettings("folder:a\0b")).check()


def test_states_in_a_folder_whose_name_is_no_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    states = States(folder, "tokenizer")
    states.save(3, weights=torch.arange(4.0))
    assert torch.equal(states.load()["weights"], torch.arange(4.0))


def test_a_folder_that_may_not_be_written(tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs root, to become another user")
    tmp_path.chmod(0o755)
    (tmp_path / "shut").mkdir(mode=0o555)
    code = ("import os\nfrom lgm_nb.base.errors import UserError\n"
            "from lgm_nb.training.places import check_out\nos.setuid(65534)\n"
            "for name in ('shut', 'shut/run'):\n"
            f"    try: check_out('{tmp_path}/' + name)\n"
            "    except UserError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(PROJECT)})
    assert done.stdout.count("choose another folder with --out") == 2, done.stderr
    assert not (tmp_path / "shut").stat().st_mode & 0o222


def test_weights_of_a_run_load_again(finished):
    tensors, facts = load_tensors(finished / "tokenizer.safetensors")
    assert tensors and facts["settings"]["seed"] == 20260917093012
    assert extraction.extractor_for(1, 28) == extraction.FASHION_EXTRACTOR
