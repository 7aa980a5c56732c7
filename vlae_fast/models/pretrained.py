"""A model saved as a folder of the Hugging Face Hub, and made again from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

Self = TypeVar("Self", bound="Pretrained")


class Store(Protocol):
    """What saves and loads: `checkpoint.hub`, which knows models, and puts itself here."""

    def save(self, model: Any, folder: str | Path, card: str | None) -> None: ...

    def load(self, name: str | Path, device: Any, how: dict[str, Any]) -> Any: ...

    def push(self, model: Any, repo_id: str, card: str | None, how: dict[str, Any]) -> str: ...


class Pretrained:
    """`save_pretrained`, `from_pretrained` and `push_to_hub`, as other libraries name them.

    The folder is a checkpoint: config.json, model.safetensors, and README.md, the model card.
    """

    store: ClassVar[Store]

    def save_pretrained(self, folder: str | Path, *, card: str | None = None) -> None:
        """Writes the model into a folder, which may hold other files, and those of a checkpoint are replaced.

        card: the text of README.md; None: one that says what the model is, where the folder has none.
        """
        self.store.save(self, folder, card)

    @classmethod
    def from_pretrained(cls: type[Self], name: str | Path, *, device: Any = "cpu", **how: Any) -> Self:
        """The model of a folder, or of a repository of the Hub where there is no folder of that name, in eval mode.

        Nothing in it is trusted, see `checkpoint.load`. A `PixelCNN` comes back as ``VLAE(latent_dim=0)``.

        Args:
            name: of the folder, or ``user/model``.
            how: arguments of ``huggingface_hub.snapshot_download``, such as revision, token, local_files_only.

        Raises:
            FileNotFoundError: there is no such folder, and it is no name of a repository.
            ValueError: the files are no checkpoint.
        """
        model: Self = cls.store.load(name, device, how)
        return model

    def push_to_hub(self, repo_id: str, *, card: str | None = None, **how: Any) -> str:
        """Uploads the files of `save_pretrained` in one commit; the repository is made where it is not there.

        Args:
            repo_id: ``user/model``.
            how: private and token, and arguments of ``huggingface_hub.HfApi.upload_folder`` such as commit_message,
                revision, create_pr.

        Returns:
            The address of the commit.
        """
        return self.store.push(self, repo_id, card, how)
