"""The command line as a terminal and a script see it: options named, wrong ones refused first, JSON, logs, pipes."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("typer")
from cases.commands import SIZE, call, small_images

import vlae_fast as vf
import vlae_fast_start
from vlae_fast import VLAE, backends, checkpoint, commands, data
from vlae_fast.commands import help_pages
from vlae_fast.commands import overview as overview_module
from vlae_fast.commands.app import by_option, size_of
from vlae_fast.commands.overview import HELP_PAGES, overview
from vlae_fast.commands.overview import commands as overview_of_commands
from vlae_fast.generation import inpainting
from vlae_fast.training.progress import duration

RUN = ["--epochs", 3, "--hidden-dim", 4, "--n-layers", 1, "--latent-dim", 2, "--flow-hidden", 4, "--batch-size", 30]
SCRIPT = [sys.executable, vlae_fast_start.__file__]


@pytest.fixture(autouse=True)
def _small(small_data: None) -> None:
    """All commands here see 60 small images."""


def test_help_and_version_import_no_torch_and_take_little_time() -> None:
    """The best of three: other work only adds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        shown = subprocess.run([*SCRIPT, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
        times.append(time.perf_counter() - start)
    assert shown.returncode == 0 and shown.stderr == "" and min(times) < 0.5
    code = "import sys, vlae_fast_start; vlae_fast_start.main(); assert 'torch' not in sys.modules"
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout == f"vlae_fast {vf.__version__}\n"


def test_help_of_every_command_is_kept_and_imports_no_torch() -> None:
    """help.json has what the commands say, and the script shows it as they do."""
    pages = help_pages.all_pages()
    assert json.loads(HELP_PAGES.read_text()) == pages, "commands have changed: run `make help-pages`"
    assert len(pages) > 15 and list(pages) == list(overview_of_commands())
    code = (
        "import sys, vlae_fast_start\n"
        "for name in sys.argv[1:]:\n"
        "    sys.argv = ['vlae-fast', name, '--help']\n"
        "    vlae_fast_start.main()\n"
        "assert 'torch' not in sys.modules and 'typer' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *pages], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(call(name, "--help", env={"COLUMNS": "80"}).output for name in pages)
    assert max(map(len, done.stdout.splitlines())) <= 80
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([*SCRIPT, "train", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_a_page_says_kinds_bounds_and_defaults() -> None:
    options = dict(help_pages.all_pages()["sample"]["options"])
    assert options["-n <int>"].endswith("(default: 100; at least 1)") and "--json" in options
    assert re.fullmatch(r"PNG file to write\b.* \(default: out/samples.png\)", options["--out <path>"])
    assert options["--temperature <number>"].endswith("(default: 1.0)")
    train = dict(help_pages.all_pages()["train"]["options"])
    assert any(flags.startswith("--flow, ") and "/--no-flow" in flags for flags in train)
    assert help_pages.all_pages()["card"]["arguments"][0][1].endswith("(required)")


def test_the_script_asks_the_command_where_no_page_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = overview_module.page("sample")
    assert found == call("sample", "--help").output and overview_module.page("nothing") is None
    for text in ("", "{}"):
        (tmp_path / "help.json").write_text(text)
        monkeypatch.setattr(overview_module, "HELP_PAGES", tmp_path / "help.json")
        assert overview_module.page("sample") is None
    help_pages.write(tmp_path / "help.json")
    assert overview_module.page("sample") == found


def test_the_script_runs_the_commands() -> None:
    done = subprocess.run([*SCRIPT, "evaluate", "nowhere"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and "nowhere is not an existing folder" in done.stderr


def test_help_has_every_command_whole_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = overview()
    assert call("--help").output == text and max(map(len, text.splitlines())) <= 80 and "..." not in text[50:]
    import typer.main

    words = " ".join(text.split())
    for name, command in typer.main.get_group(commands.app).commands.items():
        first = (command.callback.__doc__ or "").partition("\n")[0]
        assert first and f" {name} {first}" in words
    assert call("--version").output == f"vlae_fast {vf.__version__}\n"


MESSAGES = {
    "data_dir: must be": "--data-dir: must be",
    "data: images must be of": "--data: images must be of",
    "VLAE: hidden_dim must be 2": "--hidden-dim must be 2",
    "complete: rows must be from": "complete: rows must be from",  # no option of this command
    "resume, overwrite: at most": "--resume, --overwrite: at most",
    "checkpoint: x is not there": "checkpoint: x is not there",
    "no CUDA here": "no CUDA here",
}


@pytest.mark.parametrize(("message", "shown"), MESSAGES.items())
def test_a_message_names_the_option(message: str, shown: str) -> None:
    names = ("data", "data_dir", "hidden_dim", "resume", "overwrite")
    assert by_option(message, {name: "--" + name.replace("_", "-") for name in names}) == shown


def test_an_image_size() -> None:
    assert (size_of(None), size_of("32"), size_of("48x32")) == (None, (32, 32), (48, 32))
    for wrong in ("0", "32x", "0x3", "-1", "32x32x3", "big"):
        with pytest.raises(ValueError, match=f"--image-size: must be a side, or height x width .*, got '{wrong}'"):
            size_of(wrong)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is drawn, encoded or loaded: what is refused is refused before that."""

    def work(*_: Any, **__: Any) -> Any:
        raise AssertionError("the work has started")

    monkeypatch.setattr(VLAE, "sample_prior", work)
    monkeypatch.setattr(VLAE, "sampler", work)
    monkeypatch.setattr(data, "load", work)


@pytest.mark.parametrize("command", ["sample", "reconstruct", "complete", "denoise", "traverse", "interpolate", "embed",
                                     "heatmap", "evaluate", "curves", "detect"])  # fmt: skip
def test_a_picture_that_cannot_be_written_is_refused_first(
    command: str, folder: Path, tmp_path: Path, no_work: None
) -> None:
    (tmp_path / "file").write_text("")
    more = ["--anomalous", 1] if command == "detect" else []
    one_file = "--out: must be a file or not be there, for it is replaced, got"
    for out, message in (
        (tmp_path / "x.doc", "--out: must end in .*, got '.*x.doc'"),
        (tmp_path, "--out: .* must be empty, or hold images that were begun" if command == "sample" else one_file),
        (tmp_path / "file" / "x.png", "--out: '.*x.png' cannot be written: .*file must be a folder"),
    ):
        result = call(command, folder, *more, "--out", out)
        assert result.exit_code == 2 and re.match(f"error: {message}", result.stderr), result.output


def test_sample_refuses_first(folder: Path, tmp_path: Path, no_work: None) -> None:
    cases = {
        ("--label", 3): "--label: must not be given, for the model was trained without labels, got 3",
        ("--out", tmp_path / "x.jpg"): "--out: must end in .png, got",
        ("--out", f"{tmp_path}/"): f"--out: {tmp_path} must be empty, or hold images that were begun, got other files",
    }
    (tmp_path / "thesis.txt").touch()
    for options, message in cases.items():
        result = call("sample", folder, *options)
        assert result.exit_code == 2 and result.stderr.startswith(f"error: {message}"), result.output


def test_sample_of_a_class_that_is_not_there(tmp_path: Path) -> None:
    model = VLAE(1, 2, 4, 1, image_size=SIZE, flow_hidden=4, n_classes=3)
    checkpoint.save(tmp_path / "c", model, torch.optim.Adam(model.parameters()), epoch=0, training={}, history=[])
    result = call("sample", tmp_path / "c", "--label", 3)
    assert result.stderr == "error: --label: must be a class from 0 to 2, got 3\n"
    result = call("sample", tmp_path / "c", "--label", 2, "-n", 2, "--out", tmp_path / "x.png")
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_backend_that_is_absent_says_why(folder: Path) -> None:
    result = call("sample", folder, "--backend", "cuda")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "backend 'cuda' cannot run this: cuda: runs on cuda, the input is on cpu" in result.stderr


def test_json_of_info() -> None:
    found = json.loads(call("info", "--json").output)
    assert (found["vlae_fast"], found["torch"]) == (vf.__version__, torch.__version__)
    rows = {row["name"]: row for row in found["backends"]}
    assert list(rows) == [row.name for row in backends.TABLE]
    assert rows["reference"] == {"name": "reference", "absent": None, "ops": dict.fromkeys(backends.OPS)}


def test_json_of_info_says_what_auto_takes() -> None:
    found = json.loads(call("info", "--json").output)["auto"]
    kinds = [(row["device"], row["dtype"]) for row in found]
    assert kinds[:4] == [("cpu", dtype) for dtype in ("float32", "bfloat16", "float16", "float64")]
    for row in found:
        x = torch.zeros(1, dtype=getattr(torch, row["dtype"]), device=row["device"])
        assert row["ops"] == {op: backends.pick(op, x).name for op in backends.OPS}
    assert set(found[3]["ops"].values()) <= {"torch", "reference"}  # no kernel has float64


def test_json_of_evaluate_is_what_the_lines_say(folder: Path) -> None:
    lines = call("evaluate", folder, "--samples", 2).output
    result = call("evaluate", folder, "--samples", 2, "--json")
    found = json.loads(result.stdout)
    assert f"ELBO {found['elbo']:.2f} = -(reconstruction {found['reconstruction']:.2f} + KL {found['kl']:.2f})" in lines
    assert f"{found['active_units']} of {found['latent_dim']} latent dimensions active" in lines
    assert f"NLL at most {found['nll']['nll']:.2f} +- {found['nll']['error']:.2f} nats/image" in lines
    assert len(found["kl_per_dim"]) == 4 and [row["label"] for row in found["classes"]] == [0, 1, 2]
    assert (found["data"], found["split"], found["total"], found["images"]) == ("digits", "test", 12, 12)
    assert math.isclose(sum(found["kl_per_dim"]), found["kl"], rel_tol=1e-5, abs_tol=1e-6)


def test_json_of_sample(folder: Path, tmp_path: Path) -> None:
    result = call("sample", folder, "-n", 4, "--json", "--out", tmp_path / "x.png")
    found = json.loads(result.stdout)
    assert (found["images"], found["out"], found["means"]) == (4, str(tmp_path / "x.png"), False)
    assert found["images_per_second"] > 0 and found["steps"] > 0 and (tmp_path / "x.png").is_file()


def test_a_closed_pipe_ends_without_a_word() -> None:
    command = [sys.executable, "-c", "import vlae_fast_start; vlae_fast_start.main()", "info"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # as `| head -0` does
    assert process.stderr.read() == "" and process.wait() == 1


def test_a_log_gets_one_line_an_epoch_with_the_time_left(tmp_path: Path) -> None:
    result = call("train", *RUN, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and "\r" not in result.stderr
    figures = r"loss [\d.]+ = reconstruction [\d.]+ \+ KL -?[\d.]+ nats/image, [\d.]+ bits/dim; valid [\d.]+ nats/image"
    for number, line in enumerate(lines, 1):
        left = ", about .* left" if number < 3 else ""
        assert re.fullmatch(rf"epoch {number}/3: {figures}; \d+(\.\d)? s{left}", line), line


def test_durations() -> None:
    shown = {0.04: "0.0 s", 9.94: "9.9 s", 12.3: "12 s", 59.6: "1 min 0 s", 200: "3 min 20 s", 7500: "2 h 5 min"}
    assert {seconds: duration(seconds) for seconds in shown} == shown


def test_complete_is_silent_in_a_log(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = call("complete", folder, "-n", 2, "--rounds", 2, "--out", tmp_path / "x.png")
    assert result.exit_code == 0 and result.stderr == ""
    assert list(inpainting._steps(5, progress=True)) == list(range(5))
    assert capfd.readouterr().err == ""


def test_train_writes_the_logs_that_are_asked_for(tmp_path: Path) -> None:
    result = call("train", *RUN, "--log", "csv", "--out", tmp_path)
    assert result.exit_code == 0 and len((tmp_path / "log.csv").read_text().splitlines()) == 4
    result = call("train", *RUN, "--log", "wandb", "--out", tmp_path / "b")
    assert result.stderr == "error: --log: must be some of csv, tensorboard, got 'wandb'\n"
    assert not (tmp_path / "b").exists()


def test_pictures_are_made_as_large_as_the_model_takes_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.undo()
    images = small_images()
    (tmp_path / "photos").mkdir()
    for i, grey in enumerate(images.train):
        image.fromarray(grey[0].numpy()).convert("RGB").resize((40, 30)).save(tmp_path / "photos" / f"{i:02}.png")
    result = call("evaluate", folder, "--data-dir", tmp_path / "photos", "--split", "train")
    assert result.exit_code == 0 and result.stdout.startswith("photos train, epoch 2: ELBO"), result.output
    assert "note: this model was trained on digits (threshold); these are photos (dynamic)" in result.stderr
    result = call("train", *RUN, "--data-dir", tmp_path / "photos", "--image-size", "6x8", "--out", tmp_path / "run")
    assert result.exit_code == 0 and "pictures of 6x8" in result.stdout, result.output
    config = checkpoint.load(tmp_path / "run").model.config
    assert (config["image_size"], config["input_dim"], config["likelihood"]) == ([6, 8], 3, "categorical")


def test_a_name_in_a_checkpoint_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('run')")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    model = VLAE(1, 2, 4, 1, flow_hidden=4)
    training = {"data": "stranger:images", "binarization": "threshold"}
    checkpoint.save(tmp_path / "c", model, torch.optim.Adam(model.parameters()), epoch=0, training=training, history=[])
    result = call("evaluate", tmp_path / "c", "--limit", 2)
    assert result.exit_code == 0 and "trained on stranger:images" in result.stderr


def test_no_page_names_a_folder_of_the_machine_that_wrote_it() -> None:
    assert str(Path(vf.__file__).parent) not in json.dumps(help_pages.all_pages())
