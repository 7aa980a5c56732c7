"""Fetching: each file once, checked, by pooch itself with what answers in place of the network."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cases.datasets import FORMS

from vlae_fast import _extras, data
from vlae_fast.data import datasets
from vlae_fast.data.fetch import Download

pooch = pytest.importorskip("pooch")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were asked for: answered by files of tmp_path/server, cached in tmp_path/cache."""
    urls: list[str] = []

    def answer(self: object, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        urls.append(url)
        source = tmp_path / "server" / url.rpartition("/")[2]
        if not source.is_file():
            raise ConnectionError("no network")
        Path(output_file).write_bytes(source.read_bytes())

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", answer)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    (tmp_path / "server").mkdir()
    return urls


def sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def git(body: bytes) -> str:
    return f"git:{hashlib.sha1(b'blob %d' % len(body) + bytes(1) + body).hexdigest()}"


def serve(monkeypatch: pytest.MonkeyPatch, form: str, server: Path, checksum: Callable[[bytes], str]) -> int:
    """The data set of a form, fetched from files in that form with their own checksums; how many."""
    name, write, _, _ = FORMS[form]
    write(server)
    files = sorted(server.iterdir())
    downloads = tuple(Download(f"https://example.org/{path.name}", checksum(path.read_bytes())) for path in files)
    monkeypatch.setitem(datasets.DATASETS, name, datasets.DATASETS[name]._replace(downloads=downloads))
    return len(files)


@pytest.mark.parametrize("checksum", [sha256, git])
@pytest.mark.parametrize("form", ["static amat", "caltech mat", "cifar tar"])
def test_files_are_fetched_once(
    form: str, checksum: Callable[[bytes], str], tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    n = serve(monkeypatch, form, tmp_path / "server", checksum)
    first = data.load(FORMS[form].name)
    assert len(asked) == n
    assert data.load(FORMS[form].name).train.equal(first.train) and len(asked) == n
    assert first.train.equal(data.load(FORMS[form].name, tmp_path / "server").train)


@pytest.mark.parametrize(("checksum", "message"), [(sha256, "SHA256 hash of downloaded file"), (git, "git's name for")])
def test_a_file_that_is_not_the_published_one_is_not_kept(
    checksum: Callable[[bytes], str], message: str, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, "caltech mat", tmp_path / "server", lambda body: checksum(body + b"!"))
    with pytest.raises(ValueError, match=f"'caltech-silhouettes' was not fetched from https://example.org/.*{message}"):
        data.load("caltech-silhouettes")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_without_a_network(asked: list[str]) -> None:
    message = (
        r"data: 'static-mnist' was not fetched from http://www.cs.toronto.edu/.*_train.amat: no network; "
        r"or put binarized_mnist_train.amat, .*_valid.amat, .*_test.amat into a folder and name it with data_dir"
    )
    with pytest.raises(OSError, match=message):
        data.load("static-mnist")


def test_without_pooch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(_extras.MissingExtraError, match="pooch is needed here and is not installed"):
        data.load("mnist")


def test_every_download_has_a_checksum_and_a_layout_that_reads_it() -> None:
    digits = {"sha256": 64, "md5": 32, "git": 40}
    for name, dataset in datasets.DATASETS.items():
        assert dataset.downloads, name
        assert len({download.file for download in dataset.downloads}) == len(dataset.downloads)
        for download in dataset.downloads:
            kind, _, digest = download.checksum.partition(":")
            assert len(digest) == digits[kind] and int(digest, 16) and download.url.startswith("http")
        assert any(dataset.downloads[0].file in layout.files for layout in dataset.layouts), name
