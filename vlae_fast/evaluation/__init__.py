"""How good a model is, what its code is used for, what it finds unusual; in nats per image unless named otherwise."""

from .detection import Anomaly, Detection, anomaly_scores, detect, most_anomalous
from .elbo import (
    ClassRow,
    Evaluation,
    batches,
    bits_per_dim,
    by_class,
    drawn_rows,
    evaluate,
    per_image,
    subset,
    summary,
)
from .importance import ImportanceBound, importance_bound, importance_nll, log_mean_exp
from .latents import ACTIVE, Codes, active_units, encode
from .records import mean_and_error

__all__ = [
    "ACTIVE",
    "Anomaly",
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
    "drawn_rows",
    "encode",
    "evaluate",
    "importance_bound",
    "importance_nll",
    "log_mean_exp",
    "mean_and_error",
    "most_anomalous",
    "per_image",
    "subset",
    "summary",
]
