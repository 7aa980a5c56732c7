"""The commands that look into a model: each writes a picture that can be read, and says errors in one line."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("matplotlib")
from cases.commands import PICTURES, SIZE, call, small_images, trained
from cases.deadline import slow_where
from matplotlib import image

from vlae_fast import VLAE, checkpoint, data, training
from vlae_fast.evaluation import anomaly_scores
from vlae_fast.experiments import collapse

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.mark.parametrize("command", PICTURES)
def test_each_command_writes_a_picture(command: str, folder: Path, tmp_path: Path) -> None:
    options, expected = PICTURES[command]
    pictures = []
    for name in "ab":  # the same picture for the same seed
        path = tmp_path / f"{name}.png"
        result = call(command, folder, *options, "--out", path)
        assert result.exit_code == 0, result.output
        assert re.search(expected, result.output) and str(path) in result.output
        pictures.append(image.imread(path))
    height, width = pictures[0].shape[:2]
    assert 300 <= height <= 3000 and 600 <= width <= 3000
    assert pictures[0].std() > 0.01 and (pictures[0] == pictures[1]).all()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]


def colour_images() -> data.Images:
    parts = {split: small_images().pixels(split).repeat(1, 3, 1, 1) for split in data.SPLITS}  # type: ignore[arg-type]
    return data.Images("colours", **parts, split="60/12/12", binarization="none", labels=small_images().labels)


MODELS: dict[str, dict[str, Any]] = {
    "plane of classes": {"input_dim": 3, "likelihood": "logistic_mixture", "n_classes": 3, "latent_dim": 2},
    "categorical, iaf": {"input_dim": 3, "likelihood": "categorical", "levels": 256, "posterior": "iaf"},
    "one pass": {"input_dim": 3, "likelihood": "logistic_mixture", "components": 2, "decoder": "mlp"},
}


@slow_where(lambda options: options.get("decoder") != "mlp")  # other commands' tests have classes and posteriors
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_every_command_takes_every_model(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", lambda *_: colour_images())
    model = VLAE(**{"latent_dim": 4, "hidden_dim": 4, "n_layers": 1, "image_size": SIZE, "flow_hidden": 8} | options)
    folder = tmp_path / "c"
    checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), epoch=0, training={}, history=[])
    for command, (arguments, _) in {**PICTURES, "sample": (["-n", 5], "")}.items():
        result = call(command, folder, *arguments, "--out", tmp_path / "x.png")
        assert result.exit_code == 0, (command, result.output)
    result = call("evaluate", folder, "--samples", 3, "--limit", 4)
    assert result.exit_code == 0 and "3 importance samples (4 of 12 images)" in result.output


def test_images_of_other_levels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("reconstruct", folder, "--binarization", "none")
    assert result.exit_code == 2 and "must have the model's 2 levels, got 256: see --binarization" in result.stderr


def test_curves(folder: Path, tmp_path: Path) -> None:
    result = call("curves", folder, "--out", tmp_path / "c.png")
    assert result.exit_code == 0 and "2 epochs" in result.output
    assert image.imread(tmp_path / "c.png").std() > 0.01


def test_embed_draws_a_plane_of_two_dimensions(tmp_path: Path) -> None:
    result = call("embed", trained(tmp_path, latent_dim=2), "--out", tmp_path / "p.png")
    assert result.exit_code == 0, result.output
    height, width = image.imread(tmp_path / "p.png").shape[:2]
    assert width == 2 * height


def test_evaluate_says_everything(folder: Path) -> None:
    result = call("evaluate", folder, "--samples", 4, "--limit", 6)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("digits test (6 of 12 images), epoch 2: ELBO -")
    assert re.search(r"[0-4] of 4 latent dimensions active \(variance of the mean > 0\.01\)\n", result.stdout)
    assert re.search(r"KL per dimension, nats/image, most used first: (\d: -?\d+\.\d\d(, )?){4}\n", result.stdout)
    assert len(re.findall(r"class \d: reconstruction \d+\.\d\d \+ KL -?\d+\.\d\d nats/image", result.stdout)) >= 2
    last = result.stdout.splitlines()[-1]
    assert re.fullmatch(
        r"NLL at most \d+\.\d\d \+- \d+\.\d\d nats/image, \d\.\d{4} bits/dim, by 4 importance samples "
        r"\(6 of 12 images\)",
        last,
    )
    assert "6/6" in result.stderr


def test_detect_against_another_data_set(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randint(0, 256, (12, 1, *SIZE), dtype=torch.uint8)
    strange = data.Images("noise", noise, noise, noise, "none", "threshold")
    monkeypatch.setattr(data, "load", lambda name, *_: strange if name == "noise" else small_images())
    result = call("detect", folder, "--against", "noise", "--samples", 2, "--out", tmp_path / "d.png")
    assert result.exit_code == 0, result.output
    found = re.search(r"digits against noise: AUC (\d\.\d+)", result.output)
    assert found and float(found[1]) > 0.5


@pytest.mark.parametrize(
    ("option", "names"),
    [("--normal=0", "digits class 0 against other classes"), ("--anomalous=1,2", "digits against classes 1,2")],
)
def test_detect_by_class_lists_and_draws_the_most_anomalous(
    option: str, names: str, small_data: None, folder: Path, tmp_path: Path
) -> None:
    """Both options say the same of three classes: same scores, same table, of all test images."""
    result = call("detect", folder, option, "--top", 12, "--out", tmp_path / "d.png")
    assert result.exit_code == 0 and f"{names}: AUC" in result.output, result.output
    images = small_images()
    threshold = float(re.search(r"threshold (\d+\.\d+) nats", result.output)[1])  # type: ignore[index]
    head, *rows = [line.split(",") for line in (tmp_path / "d_top.csv").read_text().splitlines()]
    assert head == ["class", "index", "score", "flagged"] and len(rows) == 12
    model = checkpoint.load(folder).model
    one, others = (anomaly_scores(model, part, "test") for part in (images.only([0]), images.without([0])))
    scores = [float(row[2]) for row in rows]
    assert scores == pytest.approx(torch.cat([one, others]).sort(descending=True).values.tolist(), abs=1e-3)
    assert sorted(int(row[1]) for row in rows) == list(range(12))
    for name, index, score, flagged in rows:
        assert name == f"class {images.labels['test'][int(index)]}"  # type: ignore[index]
        assert flagged == ("yes" if float(score) > threshold else "no") or abs(float(score) - threshold) < 0.01
    assert image.imread(tmp_path / "d_top.png").std() > 0.01
    call("detect", folder, option, "--top", 0, "--out", tmp_path / "without" / "d.png")
    assert [path.name for path in (tmp_path / "without").iterdir()] == ["d.png"]


def test_the_index_is_that_of_the_split_where_only_some_images_are_scored(
    small_data: None, folder: Path, tmp_path: Path
) -> None:
    call("detect", folder, "--normal", 0, "--limit", 3, "--out", tmp_path / "d.png")
    rows = [line.split(",") for line in (tmp_path / "d_top.csv").read_text().splitlines()[1:]]
    assert len(rows) == 6 and all(name == f"class {int(index) % 3}" for name, index, *_ in rows)


TINY = {"hidden_dim": 4, "n_layers": 1, "latent_dim": 2}


def test_collapse_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "MODEL", collapse.MODEL | TINY)
    command = ["collapse", "--windows", "3,5,7", "--epochs", 2, "--jobs", 1, "--out", tmp_path / "c"]
    evaluate, calls = collapse.evaluate, []

    def interrupt(*arguments: Any, **options: Any) -> Any:
        raise training.Interrupted("interrupted")

    train = training.train
    monkeypatch.setattr(training, "train", lambda *a, **k: train(*a, **k) if len(calls) < 1 else interrupt())
    monkeypatch.setattr(collapse, "evaluate", lambda *a, **k: (calls.append(1), evaluate(*a, **k))[1])
    result = call(*command)
    assert result.exit_code == 130 and "1 of 3 models are done; the same command goes on" in result.stderr
    first = (tmp_path / "c" / "collapse.csv").read_text().splitlines()
    monkeypatch.setattr(training, "train", train)
    result = call(*command)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "c" / "collapse.csv").read_text().splitlines()
    assert table[0] == "window,seed,pixels,steps,reconstruction,kl,bits_per_dim" and table[:2] == first
    expected = [["3", "0", "4", "4"], ["5", "0", "12", "4"], ["7", "0", "24", "4"]]  # 2 epochs of 60 images by 50
    assert [line.split(",")[:4] for line in table[1:]] == expected
    assert image.imread(tmp_path / "c" / "collapse.png").std() > 0.01
    assert len(calls) == 3  # what is done is not evaluated again
    again = call(*command, "--windows", "3,5", "--seeds", 2)
    assert again.exit_code == 0 and len(calls) == 5, again.output
    rows = (tmp_path / "c" / "collapse.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in rows[1:]] == [["3", "0"], ["3", "1"], ["5", "0"], ["5", "1"]]
    assert [rows[1], rows[3]] == table[1:3] and rows[2].split(",")[5] != rows[1].split(",")[5]
    kls = [float(line.split(",")[5]) for line in rows[1:3]]
    mean, spread = sum(kls) / 2, abs(kls[0] - kls[1]) / 2**0.5
    assert f"window  3x3: KL {mean:.2f} +- {spread:.2f} nats/image, 2 seeds" in again.stdout


def test_collapse_of_three_seeds_has_a_table_of_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and sample standard deviation of three models for each window, of the figures of collapse.csv."""
    monkeypatch.setattr(collapse, "MODEL", collapse.MODEL | TINY)
    result = call("collapse", "--windows", "3,5", "--epochs", 1, "--jobs", 1, "--seeds", 3, "--out", tmp_path / "c")
    assert result.exit_code == 0, result.output
    rows = [line.split(",") for line in (tmp_path / "c" / "collapse.csv").read_text().splitlines()[1:]]
    means = [line.split(",") for line in (tmp_path / "c" / "means.csv").read_text().splitlines()]
    assert means[0] == ["window", "pixels", "seeds", "kl", "spread"] and len(means) == 3
    for (window, pixels, seeds, mean, spread), own in zip(means[1:], (rows[:3], rows[3:]), strict=True):
        kls = torch.tensor([float(row[5]) for row in own], dtype=torch.float64)
        assert {(row[0], row[2]) for row in own} == {(window, pixels)} and seeds == "3"
        assert float(mean) == pytest.approx(kls.mean().item()) and float(spread) == pytest.approx(kls.std().item())
    assert str(tmp_path / "c" / "means.csv") in result.output and (tmp_path / "c" / "collapse.png").is_file()


@pytest.mark.slow  # processes start
def test_collapse_in_processes_is_collapse_in_turn(tmp_path: Path) -> None:
    """Two models at a time, on one thread each, are the models of one thread in turn."""
    options: dict[str, Any] = {"windows": (3, 5), "epochs": 1, "model": TINY, "progress": False}
    threads, said = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        in_turn = collapse.run(small_images(), tmp_path / "1", **options, say=said.append)
        parallel = collapse.run(small_images(), tmp_path / "2", **options, jobs=2, say=said.append)
    finally:
        torch.set_num_threads(threads)
    assert parallel == in_turn and len(in_turn) == 2 and len(said) == 4
    with pytest.raises(ValueError, match="resume: batch_size must be that of"):
        collapse.run(small_images(), tmp_path / "2", **options, settings={"batch_size": 20})


def test_collapse_has_equal_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without epochs so many images are seen, in epochs of an equal share of the training images."""
    monkeypatch.setattr(collapse, "SEEN", 100)
    points = collapse.run(small_images(), tmp_path, windows=(3, 5), model=TINY, progress=False, say=lambda _: None)
    assert [point["steps"] for point in points] == [2, 2]  # 2 epochs of 50 of the 60 images
    monkeypatch.setattr(collapse, "SEEN", 1000)
    monkeypatch.setattr(collapse, "EPOCHS", 3)
    points = collapse.run(small_images(), tmp_path / "b", windows=(3,), model=TINY, progress=False, say=lambda _: None)
    assert points[0]["steps"] == 3 * 2


@pytest.mark.parametrize(("updates", "steps"), [(1, 1), (2, 2), (3, 2), (4, 4), (9, 6)])
def test_collapse_of_so_many_updates(updates: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most: an epoch is of whole batches, of which 60 images have two, all epochs are alike, and three the most."""
    monkeypatch.setattr(collapse, "EPOCHS", 3)
    monkeypatch.setattr(collapse, "MODEL", collapse.MODEL | TINY)
    monkeypatch.setattr(collapse, "TRAINING", {"batch_size": 25})
    command = ["collapse", "--windows", 3, "--updates", updates, "--jobs", 1, "--out", tmp_path]
    result = call(*command)
    assert result.exit_code == 0 and f"{steps} steps" in result.output, result.output


def test_a_kl_that_rises_beyond_the_spread_is_named() -> None:
    def window(side: int, *kls: float) -> list[dict[str, float]]:
        return [{"window": side, "pixels": side * side, "kl": kl} for kl in kls]

    found = collapse.summary(window(3, 10.0, 12.0) + window(5, 11.0, 12.0) + window(7, 20.0) + window(9, 5.0, 5.0))
    assert [(one.window, one.seeds, one.kl) for one in found] == [(3, 2, 11.0), (5, 2, 11.5), (7, 1, 20.0), (9, 2, 5.0)]
    assert found[0].spread == pytest.approx(2**0.5) and found[2].spread == 0
    assert [(a.window, b.window) for a, b in collapse.rises(found)] == [(5, 7)]


ERRORS: dict[str, tuple[list[object], str]] = {
    "rows": (["complete", "--rows", 8], "--rows: must be from 1 to 7, got 8"),
    "both": (["detect", "--held-out", 1, "--against", "x"], "must be given one of --against"),
    "normal too": (["detect", "--anomalous", 1, "--normal", 0], "must be given one of --against"),
    "neither": (["detect"], "must be given one of --against"),
    "class": (["detect", "--held-out", 7], "--anomalous: must be some of 0, 1, 2, got [7]"),
    "classes": (["detect", "--normal", "0;1"], "--normal: must be classes with commas between them, got '0;1'"),
    "all classes": (["detect", "--normal", "0,1,2"], "--normal: must be some of 0, 1, 2, got []"),
    "quantile": (["detect", "--held-out", 1, "--quantile", 1], "quantile: must be between 0 and 1, got 1.0"),
    "perplexity": (["embed", "--perplexity", 0], "--perplexity must be > 0, got 0.0"),
    "split": (["reconstruct", "--split", "tset"], "split: must be one of"),
    "ending": (["heatmap", "--out", "never.made"], "--out: must end in one of"),
    "label": (["sample", "--label", 3], "label"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_user_errors_are_one_line(arguments: list[object], message: str, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "kept.png"
    picture.write_bytes(b"a user's file")
    out = [] if "--out" in arguments else ["--out", picture]
    result = call(arguments[0], folder, *arguments[1:], *out)
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("error: ") and message in result.stderr
    assert picture.read_bytes() == b"a user's file"


def test_collapse_errors(tmp_path: Path) -> None:
    wrong = {"3;5": "must be integers with commas", "4": "odd, from 3 to 15", "17": "got 17", "3,3": "differ, got 3, 3"}
    for windows, message in wrong.items():
        result = call("collapse", "--windows", windows, "--out", tmp_path)
        assert result.exit_code == 2 and message in result.stderr, result.output
    result = call("collapse", "--windows", 3, "--epochs", 2, "--updates", 9, "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == "error: --updates: must be None where epochs is given, 2, got 9\n"


def test_model_of_another_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = torch.zeros(3, 1, 6, 6, dtype=torch.uint8)
    monkeypatch.setattr(data, "load", lambda *_: data.Images("small", grey, grey, grey, "none"))
    for command in ("reconstruct", "embed", "evaluate"):
        result = call(command, folder)
        assert result.exit_code == 2 and "images must be of the model's size (8, 8), got (6, 6)" in result.stderr


def test_curves_without_epochs(tmp_path: Path) -> None:
    model = VLAE(1, 2, 4, 1, image_size=SIZE, flow_hidden=8)
    checkpoint.save(tmp_path / "c", model, torch.optim.Adam(model.parameters()), epoch=0, training={}, history=[])
    result = call("curves", tmp_path / "c")
    assert result.exit_code == 2 and "history: must have at least one epoch, got none" in result.stderr


@pytest.mark.parametrize("command", [*PICTURES, "curves", "collapse"])
def test_help(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0 and "Usage: " in result.output


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a plain VAE of three classes."""
    torch.manual_seed(0)
    model = VLAE(1, 2, 8, 1, image_size=SIZE, use_flow=False, decoder="mlp", encoder="mlp", n_classes=3)
    folder = tmp_path_factory.mktemp("plain") / "c"
    checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), epoch=0, training={}, history=[])
    return folder


def shown(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[Any]:
    """(images, names) of every table that a command draws."""
    tables: list[Any] = []
    draw = module.plot_table

    def kept(images: torch.Tensor, title: str, **names: Any) -> Any:
        tables.append((images, {"title": title, **names}))
        return draw(images, title, **names)

    monkeypatch.setattr(module, "plot_table", kept)
    return tables


@pytest.mark.parametrize("command", ["reconstruct", "sample", "interpolate", "traverse"])
def test_plain_vaes_show_means(command: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(
        f"vlae_fast.commands.{command if command in ('reconstruct', 'sample') else 'latent'}"
    )
    tables, out = shown(monkeypatch, module), ["--out", tmp_path / "x.png"]
    for options in ([], ["--show", "mean"], ["--show", "draws"]):
        result = call(command, plain, *options, *out)
        assert result.exit_code == 0, result.output
    default, means, draws = (images for images, _ in tables)
    of_model = slice(None) if command in ("sample", "traverse") else slice(1, -1)
    assert default.equal(means)
    assert ((means[:, of_model] > 0) & (means[:, of_model] < 1)).all() and set(draws.unique().tolist()) == {0.0, 1.0}
    result = call(command, plain, "--show", "speckle", *out)
    assert result.exit_code == 2 and "--show: must be mean or draws, got 'speckle'" in result.stderr


def test_a_labelled_column_of_each_class(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("vlae_fast.commands.sample")
    tables = shown(monkeypatch, module)
    result = call("sample", plain, "-n", 7, "--out", tmp_path / "x.png")
    assert result.exit_code == 0 and result.output.startswith("9 images (means): ")
    ((images, names),) = tables
    assert images.shape[:2] == (3, 3) and names["columns"] == ["0", "1", "2"]
    model, generator = checkpoint.load(plain).model, torch.Generator().manual_seed(0)
    expected = model.decode(model.sample_prior(9, generator), torch.arange(9) % 3)
    torch.testing.assert_close(images.flatten(0, 1), expected.detach())
    assert call("sample", plain, "-n", 7, "--label", 1, "--out", tmp_path / "x.png").output.startswith("7 images")
    assert len(tables) == 1  # of one class: a plain grid


def test_interpolate_between_classes(
    plain: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("vlae_fast.commands.latent")
    tables, out = shown(monkeypatch, module), ["--out", tmp_path / "x.png"]
    for options, names in (([], ["0", "1", "2"]), (["--label", 1], ["1", "1"]), (["--label", "2,0"], ["2 ... 0"] * 3)):
        result = call("interpolate", plain, "-n", 3, *options, *out)
        assert result.exit_code == 0, result.output
        assert tables[-1][1]["rows"] == names
    model, (rows, _) = checkpoint.load(plain).model, tables[-1]
    ends = model.encode(rows[:, -1], torch.zeros(3, dtype=torch.long))[0]
    expected = model.decode(ends, torch.zeros(3, dtype=torch.long)).detach()
    torch.testing.assert_close(rows[:, -2], expected)  # 100 % is x' as its own class draws it
    for options in ([], ["--label", "1,2"]):
        assert call("interpolate", folder, "-n", 3, *options, *out).exit_code == 0
    assert tables[-1][1]["rows"] == ["1 ... 2"] * 3


def test_traverse_by_number(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("vlae_fast.commands.latent")
    tables, out = shown(monkeypatch, module), ["--out", tmp_path / "x.png"]
    starts: list[Any] = []
    code = module.latent_space.code
    monkeypatch.setattr(module.latent_space, "code", lambda model, x, labels: (starts.append(x), code(model, x))[1])
    result = call("traverse", folder, "--dim", "3,1", "--image", 5, *out)
    assert result.exit_code == 0, result.output
    assert [name.split(":")[0] for name in tables[0][1]["rows"]] == ["z3", "z1"]
    assert starts[0].equal(small_images().fixed("test", 0)[5:6]) and "digits test 5" in tables[0][1]["title"]


def test_complete_every_part(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("vlae_fast.commands.reconstruct")
    tables, out = shown(monkeypatch, module), ["--out", tmp_path / "x.png"]
    for part, said in (
        ("lower", "last 4 rows"), ("left", "first 4 columns"), ("right", "last 4 columns"),
        ("centre", "middle 4 x 4 pixels"),
    ):  # fmt: skip
        few = ["-n", 2, "--particles", 6, "--draws", 2]
        result = call("complete", folder, *few, "--known", part, "--rounds", 1, *out)
        assert result.exit_code == 0, result.output
        assert f"2 images completed from their {said}, 2 draws each; log p(given) -" in result.output
        assert re.search(r"\d\.\d of 6 particles effective", result.output)
        images, known = tables[-1][0], module.known_part(SIZE, part, None)[0]
        assert known.sum() == (16 if part == "centre" else 32)
        assert (images[:, 2:] == images[:, :1])[..., known].all()
        assert (images[:, 1] == images[:, 0])[..., known].all() and (images[:, 1] == 0.5)[..., ~known].all()


ERRORS_OF_OPTIONS: dict[str, tuple[list[object], str]] = {
    "dim": (["traverse", "--dim", "3,4"], "--dim: must be numbers of latent dimensions with commas, 0 to 3, got '3,4'"),
    "dim text": (["traverse", "--dim", "z3"], "--dim: must be numbers of latent dimensions with commas"),
    "image": (["traverse", "--image", 12], "--image: must be below 12, the images of digits test, got 12"),
    "label": (["interpolate", "--label", "1,2,0"], "--label: must be a class, or two with a comma between them"),
    "class": (["interpolate", "--label", 9], "--label: digits test must have images of those classes, got '9'"),
    "known": (["complete", "--known", "north"], "--known: must be one of upper, lower, left, right, centre, got"),
    "gibbs": (["complete", "--known", "lower", "--method", "gibbs"], "take method='importance'"),
    "method": (["complete", "--method", "magic"], "method must be one of gibbs, importance, got 'magic'"),
    "temperature": (["sample", "--show", "mean", "--temperature", 2], "temperature: must be 1 with --show mean"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS_OF_OPTIONS.values(), ids=ERRORS_OF_OPTIONS.keys())
def test_errors_of_options(arguments: list[object], message: str, folder: Path, tmp_path: Path) -> None:
    result = call(arguments[0], folder, *arguments[1:], "--out", tmp_path / "x.png")
    assert result.exit_code == 2 and message in result.stderr and not (tmp_path / "x.png").exists()
