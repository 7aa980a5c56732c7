"""What a file knows a model by: a hash of its plan and of all its weights."""

from __future__ import annotations

import hashlib
import json

from ..models.digest import add_tensors
from ..models.vlae import VLAE
from ..plan import Plan

BYTES = 16


def fingerprint(model: VLAE, plan: Plan) -> bytes:
    """16 bytes of the SHA-256 of the options, the plan, and the names, dtypes, shapes and bytes of the weights.

    The backend is left out: it is no part of what a model computes.
    """
    options = {name: value for name, value in model.config.items() if name != "backend"}
    found = hashlib.sha256(json.dumps([options, plan.words], sort_keys=True, default=str).encode())
    add_tensors(found, model.state_dict())
    return found.digest()[:BYTES]
