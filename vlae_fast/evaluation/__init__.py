"""How good a model is, what its code is used for, what it finds unusual; in nats per image unless named otherwise."""

from .detection import Detection, anomaly_scores, detect
from .elbo import ClassRow, Evaluation, batches, bits_per_dim, by_class, evaluate, per_image, subset, summary
from .importance import ImportanceBound, importance_bound, importance_nll, log_mean_exp
from .latents import ACTIVE, Codes, active_units, encode

__all__ = [
    "ACTIVE",
    "ClassRow",
    "Codes",
    "Detection",
    "Evaluation",
    "ImportanceBound",
    "active_units",
    "anomaly_scores",
    "batches",
    "bits_per_dim",
    "by_class",
    "detect",
    "encode",
    "evaluate",
    "importance_bound",
    "importance_nll",
    "log_mean_exp",
    "per_image",
    "subset",
    "summary",
]
