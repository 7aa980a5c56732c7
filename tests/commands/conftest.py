"""Fixtures for the commands that draw pictures of a model."""

from pathlib import Path

import pytest
from cases.commands import small_images, trained

from vlae_fast import data


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands load 60 small images, whatever data they are asked for."""
    monkeypatch.setattr(data, "load", small_images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model with four latent dimensions."""
    return trained(tmp_path_factory.mktemp("run"), latent_dim=4)
