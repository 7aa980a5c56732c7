"""Functions that are sums and products of others that a program has."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .affine import Value
from .choices import Choices
from .writer import Bounded


class Formulas(Choices):
    """A method for each operation."""

    def _op_hardswish(self, x: Value) -> Any:
        return self._op_mul(x, self._op_hardsigmoid(x))

    def _op_mish(self, x: Value) -> Any:
        return self._op_mul(x, self._op_tanh(self._op_softplus(x)))

    def _op_log_sigmoid_forward(self, x: Value) -> tuple[Any, None]:
        inside: Any = self._op_neg(x)
        return self._op_neg(self._op_softplus(inside)), None

    def _op_maximum(self, a: Any, b: Any) -> Any:
        """``b + relu(a - b)``."""
        difference: Any = self._sum(a, self._negative(b))
        return self._sum(self._op_relu(difference), b)

    def _op_minimum(self, a: Any, b: Any) -> Any:
        """``a - relu(a - b)``."""
        difference: Any = self._sum(a, self._negative(b))
        return self._sum(a, self._negative(self._op_relu(difference)))

    def _negative(self, x: Any) -> Any:
        return -x if isinstance(x, Tensor) else self._op_mul(x, -1.0)

    def _op_pow(self, x: Value, exponent: Any) -> Any:
        if exponent not in (1, 2, 3):
            self._fail("powers 2 and 3", f"power {exponent}")
        out: Any = x
        for _ in range(int(exponent) - 1):
            out = self._op_mul(out, x)
        return out

    def _op_lerp(self, a: Any, b: Any, weight: Any) -> Any:
        """``a + weight (b - a)``."""
        return self._sum(a, self._op_mul(self._sum(b, self._negative(a)), weight))

    def _op_addcmul(self, x: Any, a: Any, b: Any, value: float = 1) -> Any:
        product = self._op_mul(a, b)
        return self._sum(x, product if value == 1 else self._op_mul(product, value))

    def _op_logit(self, x: Any, eps: float | None = None) -> Any:
        """Of a sigmoid what it is of."""
        if not isinstance(x, Bounded) or x.function != "sigmoid" or not x.is_plain:
            self._fail("logits of a sigmoid", "other ones")
        if eps is None:
            return x.value
        return self._op_clamp(x.value, math.log(eps / (1 - eps)), math.log((1 - eps) / eps))
