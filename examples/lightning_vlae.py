"""A VLAE trained by PyTorch Lightning, on a loader of one's own, and saved as a checkpoint of vlae_fast.

python examples/lightning_vlae.py [FOLDER]      # needs lightning, or pytorch-lightning
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

try:
    import lightning
except ImportError:
    try:
        import pytorch_lightning as lightning
    except ImportError:
        sys.exit("this example needs lightning: pip install lightning")

import vlae_fast as vf
from vlae_fast import data, evaluation

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")


class Trained(lightning.LightningModule):
    """What Lightning asks for: the loss of a batch, and the optimizer."""

    def __init__(self, model: vf.VLAE) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        terms = self.model.loss_terms(torch.bernoulli(batch[0]))  # grey levels, black or white anew each time
        return (terms.reconstruction + terms.kl).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


lightning.seed_everything(0)
digits = data.digits()
loader = DataLoader(TensorDataset(digits.train.float() / 255), batch_size=50, shuffle=True)
model = vf.VLAE(latent_dim=8, hidden_dim=16, n_layers=1)
before = evaluation.evaluate(model, digits)
trainer = lightning.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip
trainer.fit(Trained(model), loader)
print(f"before: {before}")
print(f"after:  {evaluation.evaluate(model, digits)}")

model.save_pretrained(out / "lightning")
again = vf.VLAE.from_pretrained(out / "lightning")
same = all(a.equal(b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
print(f"saved and loaded: {out / 'lightning'}, same: {same}")
vf.visualization.save_grid(again.sample(16), out / "lightning.png", columns=4)
