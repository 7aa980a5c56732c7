"""The pixels of a wave, and one stage of a sampling program over them: device code of `pixelcnn_sample`."""

import triton
import triton.language as tl

from .activate import GATE, GLU, GLU_BIT, activate_by_code, tanh
from .dot import dot

FIELDS = tl.constexpr(8)  # a row of `Tables.reads` has so many
# the rows after a stage's runs; the last is of a norm
OUT, RESIDUAL, FACTOR, NORMED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
CONTEXT = tl.constexpr(1)  # the row of `Tables.reads`


@triton.jit
def wave_rows(o_m, w, sample0, shape, sites):
    """Sample, place in the wave, row and column of a block's pixels of wave w, [BM] each, and which of them exist.

    sites: (stride, row, column), those of the pixels (i, j) with ``i % stride == row`` and ``j % stride == column``.
    """
    B, H, W, slope, pixels, samples = shape
    stride, row, column = sites
    per_wave = (pixels + stride - 1) // stride
    o_s = o_m // per_wave
    top = tl.maximum(0, (w - W + slope) // tl.maximum(slope, 1))  # rows above are past their last column
    first = (row + stride - top % stride) % stride
    o_q = first + o_m % per_wave * stride
    o_i = top + o_q
    o_j = w - slope * o_i
    m_m = (o_s < samples) & (sample0 + o_s < B) & (o_i < H) & (o_j >= 0) & (o_j < W) & (o_j % stride == column)
    return o_s, o_q, top, o_i, o_j, m_m


@triton.jit
def place_of(row, o_q, H, pixels):
    """Places in a slot of the rings of the rows ``row + o_q``: their remainders of division by ``pixels``."""
    o_place = (row + pixels * H) % pixels + o_q  # pixels * H: no remainder of a negative number
    return tl.where(o_place >= pixels, o_place - pixels, o_place)


@triton.jit
def own_pixels(p_read, u, o_place, pixels):
    """Offsets of a wave's own pixels, [BM]: multiples of 16 elements from the start of the sample's rings."""
    slot = (u + tl.load(p_read + 3)) % tl.load(p_read + 1)
    return tl.multiple_of(tl.load(p_read) + (slot * pixels + o_place) * tl.load(p_read + 2), 16)


@triton.jit
def context_block(p_context, p_ring, p_table, o_m, u, w, sample0, sample_size, dim, strides, shape, BK: tl.constexpr):
    """Copies the context of a block of pixels of wave w into its ring, zeros after its last channel."""
    _, H, _, _, pixels, _ = shape
    stride_b, stride_i, stride_j = strides
    o_s, o_q, top, o_i, o_j, m_m = wave_rows(o_m, w, sample0, shape, (1, 0, 0))
    o_own = own_pixels(p_table + CONTEXT * FIELDS, u, place_of(top, o_q, H, pixels), pixels)
    p_to = (p_ring + o_s * sample_size + o_own)[:, None]
    p_from = (p_context + (sample0 + o_s).to(tl.int64) * stride_b + o_i * stride_i + o_j * stride_j)[:, None]
    for d in tl.range(0, dim, BK, num_stages=1):
        o_d = d + tl.arange(0, BK)[None, :]
        b_z = tl.load(p_from + o_d, mask=m_m[:, None] & (o_d < dim), other=0.0)
        tl.store(p_to + o_d, b_z, mask=m_m[:, None])


@triton.jit
def _finish(b_out, p_row, p_own, u, o_place, m_m, o_c, pixels, HAS_FACTOR: tl.constexpr):
    """Multiplies by the factor, adds the residual, where there are such, and stores channels o_c of a wave's pixels."""
    m_out = m_m[:, None] & (o_c[None, :] < tl.multiple_of(tl.load(p_own + OUT * FIELDS + 2), 16))
    if HAS_FACTOR:
        o_factor = own_pixels(p_own + FACTOR * FIELDS, u, o_place, pixels)[:, None]
        b_factor = tl.load(p_row[:, None] + o_factor + o_c[None, :], mask=m_out & (o_factor >= 0), other=1.0)
        b_out *= b_factor.to(tl.float32)
    o_residual = own_pixels(p_own + RESIDUAL * FIELDS, u, o_place, pixels)[:, None]
    b_residual = tl.load(p_row[:, None] + o_residual + o_c[None, :], mask=m_out & (o_residual >= 0), other=0.0)
    b_out = (b_out + b_residual.to(tl.float32)).to(p_row.dtype.element_ty)
    o_out = own_pixels(p_own + OUT * FIELDS, u, o_place, pixels)[:, None]
    tl.store(p_row[:, None] + o_out + o_c[None, :], b_out, mask=m_out)


@triton.jit
def stage_block(
    p_ring,  # the program's
    p_weight,  # the tile's of columns
    p_bias,
    p_reads,  # the stage's
    n_gathered,
    n_runs,
    o_m,
    n,
    u,
    w,
    activation,
    sample0,
    sample_size,
    shape,
    sites,
    CODES_USED: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BG: tl.constexpr,
):
    """A block of pixels x a tile of columns of one stage, products in the order of the packed weights.

    Only the loop over a run is pipelined: it loads nothing but activations and weights, so that the copies of its next
    tiles wait for no table.
    """
    _, H, W, _, pixels, _ = shape
    o_s, o_q, top, o_i, o_j, m_m = wave_rows(o_m, w, sample0, shape, sites)
    p_row = p_ring + o_s * sample_size
    o_n, o_k, o_g = tl.arange(0, BN)[None, :], tl.arange(0, BK), tl.arange(0, BG)
    b_out = tl.zeros((BM, BN), tl.float32)
    o_w = o_g[:, None] * BN + o_n  # [BG, BN]
    for k in tl.range(0, n_gathered, num_stages=1):
        p_read = p_reads + (k * BG + o_g[None, :]) * FIELDS
        o_dy, o_dx = tl.load(p_read + 4), tl.load(p_read + 5)
        o_slot = (u + tl.load(p_read + 3)) % tl.load(p_read + 1)
        o_x = tl.load(p_read) + (o_slot * pixels + place_of(top + o_dy, o_q[:, None], H, pixels)) * tl.load(p_read + 2)
        o_row, o_col = o_i[:, None] + o_dy, o_j[:, None] + o_dx
        m_x = m_m[:, None] & (o_row >= 0) & (o_row < H) & (o_col >= 0) & (o_col < W)
        b_x = tl.load(p_row[:, None] + o_x, mask=m_x, other=0.0)  # [BM, BG]: any taps, any channels
        b_out = dot(b_x, tl.load(p_weight + o_w), b_out, PRECISION)
        p_weight += BG * BN
    o_w = o_k[:, None] * BN + o_n  # [BK, BN]
    for r in tl.range(0, n_runs, num_stages=1):
        p_read = p_reads + (n_gathered * BG + r) * FIELDS
        ring, stride, delta, dx = tl.load(p_read + 1), tl.load(p_read + 2), tl.load(p_read + 3), tl.load(p_read + 5)
        row = top + tl.load(p_read + 4)
        o_run = tl.load(p_read) + place_of(row, o_q, H, pixels) * stride
        m_i = m_m & (row + o_q >= 0) & (row + o_q < H)
        per_pixel = stride // BK
        for k in tl.range(0, tl.load(p_read + 6)):
            tap = k // per_pixel
            o_x = o_run + (u + delta + tap) % ring * (pixels * stride) + (k - tap * per_pixel) * BK
            o_col = o_j + dx + tap
            p_x = p_row[:, None] + tl.multiple_of(o_x, 16)[:, None] + o_k[None, :]
            m_x = (m_i & (o_col >= 0) & (o_col < W))[:, None]
            b_x = tl.load(p_x, mask=m_x, other=0.0)  # [BM, BK]: channels of one tap
            b_out = dot(b_x, tl.load(p_weight + o_w), b_out, PRECISION)
            p_weight += BK * BN
    b_out += tl.load(p_bias + o_n).to(tl.float32)
    p_own = p_reads + (n_gathered * BG + n_runs) * FIELDS
    o_place = place_of(top, o_q, H, pixels)
    if activation == GATE or activation == GLU:
        b_a, b_b = tl.split(tl.reshape(b_out, (BM, BN // 2, 2)))
        o_c = n * (BN // 2) + tl.arange(0, BN // 2)
        if CODES_USED // GLU_BIT % 2 == 0:
            b_a = tanh(b_a)
        else:
            b_a = tl.where(activation == GATE, tanh(b_a), b_a)
        _finish(b_a * tl.sigmoid(b_b), p_row, p_own, u, o_place, m_m, o_c, pixels, HAS_FACTOR)
    else:
        b_out = activate_by_code(b_out, activation, CODES_USED)
        _finish(b_out, p_row, p_own, u, o_place, m_m, n * BN + tl.arange(0, BN), pixels, HAS_FACTOR)


@triton.jit
def norm_block(
    p_ring,  # the program's
    p_gain,
    p_bias,
    p_own,  # the stage's reads
    o_m,
    columns,  # tiles of BN channels
    channels,
    u,
    w,
    activation,
    sample0,
    sample_size,
    shape,
    sites,
    CODES_USED: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """A block of pixels of a norm: three walks over their channels, for the mean, the variance and the output."""
    _, H, _, _, pixels, _ = shape
    o_s, o_q, top, _, _, m_m = wave_rows(o_m, w, sample0, shape, sites)
    p_row = p_ring + o_s * sample_size
    o_place = place_of(top, o_q, H, pixels)
    p_x = (p_row + own_pixels(p_own + NORMED * FIELDS, u, o_place, pixels))[:, None]
    o_n = tl.arange(0, BN)
    b_sum = tl.zeros((BM,), tl.float32)
    for n in tl.range(0, columns, num_stages=1):
        m_x = m_m[:, None] & (n * BN + o_n < channels)[None, :]
        b_sum += tl.sum(tl.load(p_x + n * BN + o_n[None, :], mask=m_x, other=0.0).to(tl.float32), 1)
    b_mean = (b_sum / channels)[:, None]
    b_squares = tl.zeros((BM,), tl.float32)
    for n in tl.range(0, columns, num_stages=1):
        m_x = m_m[:, None] & (n * BN + o_n < channels)[None, :]
        b_off = tl.load(p_x + n * BN + o_n[None, :], mask=m_x, other=0.0).to(tl.float32) - b_mean
        b_squares += tl.sum(tl.where(m_x, b_off * b_off, 0.0), 1)
    b_scale = (1.0 / tl.sqrt(b_squares / channels + tl.load(p_bias + columns * BN).to(tl.float32)))[:, None]
    for n in tl.range(0, columns, num_stages=1):
        o_c = n * BN + o_n
        m_x = m_m[:, None] & (o_c < channels)[None, :]
        b_off = tl.load(p_x + o_c[None, :], mask=m_x, other=0.0).to(tl.float32) - b_mean
        b_gain, b_bias = tl.load(p_gain + o_c).to(tl.float32), tl.load(p_bias + o_c).to(tl.float32)
        b_out = tl.where(m_x, b_off, 0.0) * b_scale * b_gain[None, :] + b_bias[None, :]
        b_out = activate_by_code(b_out, activation, CODES_USED)
        _finish(b_out, p_row, p_own, u, o_place, m_m, o_c, pixels, HAS_FACTOR)
