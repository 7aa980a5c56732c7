"""The events of one block of `made_inverse`, one after the other: device code. `made_plan` says what an event is."""

import triton
import triton.language as tl

from .activate import activate


@triton.jit
def log1p_of_exp(b_x):
    """``log(1 + exp(x))`` of x <= 0, also where 1 + exp(x) rounds to 1."""
    b_tail = tl.exp(b_x)
    b_one = 1 + b_tail
    return tl.where(b_one > 1, tl.log(b_one) * b_tail / tl.maximum(b_one - 1, 1e-10), b_tail)


@triton.jit
def log_slope(b_raw, SCALE: tl.constexpr):
    """``log(d eps / d x)`` of the transforms other than "exp"; but for "exp_slope" their slope is at least 0.001."""
    if SCALE == "exp_slope":
        b_log = b_raw
    elif SCALE == "clipped_exp":
        b_log = b_raw / (1 + tl.abs(b_raw) / 6.907755278982137)  # log(1000)
    else:
        if SCALE == "softplus":
            b_slope = tl.maximum(b_raw, 0.0) + log1p_of_exp(-tl.abs(b_raw))
        else:
            tl.static_assert(SCALE == "sigmoid", "made_inverse: SCALE must be one of the contract's")
            b_slope = tl.sigmoid(b_raw + 2)
        b_log = tl.log(b_slope + 0.001)
    return b_log


@triton.jit
def solve(b_shift, b_raw, b_eps, b_log_det, b_lost, AFFINE: tl.constexpr, SCALE: tl.constexpr):
    """A dimension of x, [BM], from its parameters and eps; and log_det with its own term.

    SCALE "bernoulli": a draw, 1 where eps < sigmoid(shift), decided in float64; its log-probability is the term.

    log_det is summed with the rounding error carried along in b_lost (Kahan).
    """
    b_x = b_shift + b_eps
    if AFFINE or SCALE == "bernoulli":
        if SCALE == "bernoulli":
            b_logit = b_shift.to(tl.float64)
            b_x = tl.where(b_eps.to(tl.float64) * (1 + tl.exp(-b_logit)) < 1, 1.0, 0.0)
            b_log = tl.where(b_x > 0, b_shift, -b_shift)
            b_log = tl.minimum(b_log, 0.0) - log1p_of_exp(-tl.abs(b_log))
        elif SCALE == "exp":
            b_x = b_shift + tl.exp(b_raw) * b_eps
            b_log = -b_raw
        else:
            b_log = log_slope(b_raw, SCALE)
            b_x = (b_eps - b_shift) * tl.exp(-b_log)
        b_term = b_log - b_lost
        b_total = b_log_det + b_term
        b_lost = (b_total - b_log_det) - b_term
        b_log_det = b_total
    return b_x, b_log_det, b_lost


@triton.jit
def record(p_event):
    """Rows, slot and dimension of an event."""
    return tl.load(p_event), tl.load(p_event + 1), tl.load(p_event + 2), tl.load(p_event + 3)


@triton.jit
def fetch(p_eps, p_packed, p_base, event, n_m, D, width, BM: tl.constexpr, S: tl.constexpr):
    """The inputs of an event, other events apart: weights of its two rows, their bases, eps of its dimension."""
    o_m, o_s = tl.arange(0, BM), tl.arange(0, S)
    p_w = p_packed + tl.zeros([BM, 1], tl.int32) + o_s[None, :]  # laid out like the tile that it will meet
    b_w = tl.load(p_w + event[0].to(tl.int64) * width)  # [BM, S]
    b_w2 = tl.load(p_w + event[1].to(tl.int64) * width)
    b_base = tl.load(p_base + event[0] * BM + o_m)  # [BM]
    b_base2 = tl.load(p_base + event[1] * BM + o_m)
    b_eps = tl.load(p_eps + o_m * D + tl.maximum(event[3], 0), o_m < n_m, other=0.0).to(tl.float32)
    return b_w, b_w2, b_base, b_base2, b_eps


@triton.jit
def walk(
    p_eps,
    p_packed,
    p_base,
    p_events,
    first,
    last,
    n_m,
    D,
    width,
    b_log_det,
    b_lost,
    dtype: tl.constexpr,
    AFFINE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SCALE: tl.constexpr,
    BM: tl.constexpr,
    S: tl.constexpr,
):
    """The values of a block's slots, [BM, S]: events first to last - 1 in turn; and log_det with their terms."""
    o_s = tl.arange(0, S)
    event, following = record(p_events + first * 4), record(p_events + first * 4 + 4)
    fetched = fetch(p_eps, p_packed, p_base, event, n_m, D, width, BM, S)
    b_h = tl.zeros([BM, S], tl.float32)
    for i_event in range(first, last):
        after = record(p_events + i_event * 4 + 8)
        ahead = fetch(p_eps, p_packed, p_base, following, n_m, D, width, BM, S)
        b_a = tl.sum(b_h * fetched[0].to(tl.float32), 1) + fetched[2]  # [BM]
        b_b = tl.sum(b_h * fetched[1].to(tl.float32), 1) + fetched[3]  # [BM]
        row, other, slot, dimension = event
        if dimension >= 0:
            b_x, b_log_det, b_lost = solve(b_a, b_b, fetched[4], b_log_det, b_lost, AFFINE, SCALE)
            b_a = b_x.to(dtype).to(tl.float32)  # the others see the value that is returned
        else:
            b_a = activate(b_a, ACTIVATION)
            b_b = activate(b_b, ACTIVATION)
            b_h = tl.where(o_s[None, :] == slot + other - row, b_b[:, None], b_h)
        b_h = tl.where(o_s[None, :] == slot, b_a[:, None], b_h)
        event, following, fetched = following, after, ahead
    return b_h, b_log_det, b_lost
