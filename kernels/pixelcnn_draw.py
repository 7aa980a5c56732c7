"""Parameters to pixels, in float64: device code of `pixelcnn_sample`.

The formulas are in vlae_fast/reference/pixelcnn_draw.py.

The parameters of a pixel are side by side in their ring, and a plane apart in the tensors. Division by levels is
multiplication by a reciprocal: in float64 the product is near enough for the right rounding to float32, without a call.
"""

import triton
import triton.language as tl

from .pixelcnn_stage import FIELDS, own_pixels, place_of, wave_rows

IMAGE = tl.constexpr(0)  # the row of `Tables.reads`


@triton.jit
def _keep(b_value, p_pixel, o_image, m_pixel, given, HAS_KNOWN: tl.constexpr):
    """Stores drawn pixels, or the known ones in their place, in their ring and in the images; returns them."""
    p_images, p_mask, p_known = given
    b_value = b_value.to(tl.float32).to(p_images.dtype.element_ty)  # as PyTorch rounds: by way of float32
    if HAS_KNOWN:
        b_known = tl.load(p_known + o_image, mask=m_pixel, other=0.0)
        b_value = tl.where(tl.load(p_mask + o_image, mask=m_pixel, other=0) != 0, b_known, b_value)
    tl.store(p_pixel, b_value, mask=m_pixel)
    tl.store(p_images + o_image, b_value, mask=m_pixel)
    return b_value


@triton.jit
def _copy(p_from, p_to, m_param):
    """Copies a block of parameters to its tensor; returns it in float64."""
    b_param = tl.load(p_from, mask=m_param, other=0.0)
    tl.store(p_to, b_param, mask=m_param)
    return b_param.to(tl.float64)


@triton.jit
def _logits(p_logit, o_k, m_m, p_temperature, N: tl.constexpr):
    """Logits o_k of N, [BM, BP], divided by the temperature; -inf after the last one."""
    m_k = o_k < N
    b_logit = tl.load(p_logit[:, None] + o_k, mask=m_m[:, None] & m_k, other=0.0)
    return tl.where(m_k, b_logit.to(tl.float64) * tl.load(p_temperature + 1), float("-inf"))


@triton.jit
def _draw_index(p_logit, b_noise, m_m, p_temperature, N: tl.constexpr, BP: tl.constexpr):
    """The first k of N, [BM], at which the sum of exp(logits 0..k) exceeds a share b_noise of the whole."""
    o_k = tl.arange(0, BP)[None, :]
    b_most = tl.full(b_noise.shape, float("-inf"), tl.float64)
    for k in tl.range(0, N, BP, num_stages=1):
        b_most = tl.maximum(b_most, tl.max(_logits(p_logit, k + o_k, m_m, p_temperature, N), 1))
    b_total = tl.zeros(b_noise.shape, tl.float64)
    for k in tl.range(0, N, BP, num_stages=1):
        b_total += tl.sum(tl.exp(_logits(p_logit, k + o_k, m_m, p_temperature, N) - b_most[:, None]), 1)
    b_share = b_noise * b_total
    b_index = tl.zeros(b_noise.shape, tl.int32)
    b_before = tl.zeros(b_noise.shape, tl.float64)
    for k in tl.range(0, N, BP, num_stages=1):
        b_weight = tl.exp(_logits(p_logit, k + o_k, m_m, p_temperature, N) - b_most[:, None])
        b_sum = b_before[:, None] + tl.cumsum(b_weight, 1)
        b_index += tl.sum(((b_sum <= b_share[:, None]) & (k + o_k < N - 1)).to(tl.int32), 1)
        b_before += tl.sum(b_weight, 1)
    return b_index


@triton.jit
def _draw_logistics(
    p_param,
    p_pixel,
    p_noise,
    o_image,
    m_m,
    p_temperature,
    channels,
    plane,
    given,
    HAS_KNOWN: tl.constexpr,
    LEVELS: tl.constexpr,
    COMPONENTS: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    """A component of the mixture, then channel after channel of it; the parameters of a component are K apart."""
    b_noise = tl.load(p_noise, mask=m_m, other=0.5).to(tl.float64)
    p_own = p_param + _draw_index(p_param, b_noise, m_m, p_temperature, COMPONENTS, BP)
    o_c = tl.arange(0, BC)[None, :]
    b_drawn = tl.zeros((p_param.shape[0], BC), tl.float64)  # on the scale of the locations
    for c in tl.range(0, channels, num_stages=1):
        o_coefficient = 1 + 2 * channels + c * (c - 1) // 2 + o_c
        m_c = m_m[:, None] & (o_c < c)
        b_coefficient = tl.load(p_own[:, None] + o_coefficient * COMPONENTS, mask=m_c, other=0.0).to(tl.float64)
        b_tanh = 2.0 * tl.sigmoid(2.0 * b_coefficient) - 1.0
        b_mean = tl.load(p_own + (1 + c) * COMPONENTS, mask=m_m, other=0.0).to(tl.float64)
        b_mean += tl.sum(b_tanh * b_drawn, 1)
        b_log_scale = tl.load(p_own + (1 + channels + c) * COMPONENTS, mask=m_m, other=0.0).to(tl.float64)
        b_scale = tl.load(p_temperature) * tl.exp(tl.minimum(tl.maximum(b_log_scale, -7.0), 7.0))
        b_noise = tl.load(p_noise + (1 + c) * plane, mask=m_m, other=0.5).to(tl.float64)
        b_value = b_mean + b_scale * tl.log(b_noise / (1.0 - b_noise))
        if LEVELS == 0:
            b_value = tl.minimum(tl.maximum((b_value + 1.0) * 0.5, 0.0), 1.0)
        else:
            b_level = tl.floor((b_value + 1.0) * 0.5 * (LEVELS - 1) + 0.5)
            b_value = tl.minimum(tl.maximum(b_level, 0.0), LEVELS - 1.0) * (1.0 / (LEVELS - 1))
        b_pixel = _keep(b_value, p_pixel + c, o_image + c * plane, m_m, given, HAS_KNOWN)
        b_drawn = tl.where(o_c == c, 2.0 * b_pixel.to(tl.float64)[:, None] - 1.0, b_drawn)


@triton.jit
def _draw_channels(
    p_noise,
    p_param,
    p_pixel,
    p_params,
    o_image,
    m_m,
    p_temperature,
    channels,
    all_channels,
    plane,
    given,
    HAS_KNOWN: tl.constexpr,
    EMIT: tl.constexpr,
    BC: tl.constexpr,
):
    """All channels of a draw of a block of pixels at once, from one parameter each (bernoulli) or two (affine)."""
    o_c = tl.arange(0, BC)[None, :]
    m_c = m_m[:, None] & (o_c < channels)
    o_plane = o_image[:, None] + o_c * plane  # [BM, BC]
    b_noise = tl.load(p_noise + o_plane, mask=m_c, other=0.0).to(tl.float64)  # [BM, BC]
    b_param = _copy(p_param[:, None] + o_c, p_params[:, None] + o_c * plane, m_c)
    if EMIT == "bernoulli":
        b_odds = tl.exp(-b_param * tl.load(p_temperature + 1))  # 0 against 1; a division by 1 + odds would cost a call
        b_value = b_noise * (1.0 + b_odds) < 1.0
    else:
        p_to = p_params[:, None] + (o_c + all_channels) * plane
        b_scale = tl.load(p_temperature) * tl.exp(_copy(p_param[:, None] + o_c + channels, p_to, m_c))
        b_value = b_param + b_scale * b_noise
    _keep(b_value, p_pixel[:, None] + tl.arange(0, BC)[None, :], o_plane, m_c, given, HAS_KNOWN)


@triton.jit
def draw_block(
    p_noise,
    p_mask,
    p_known,
    p_images,
    p_params,
    p_ring,
    p_table,
    p_draw,  # the draw's row of `Tables.reads`
    first,  # of its channels
    o_m,
    u,
    w,
    p_temperature,  # and 1 / temperature
    sample0,
    sample_size,
    channels,
    params,
    shape,
    IN_TURN: tl.constexpr,
    HAS_KNOWN: tl.constexpr,
    EMIT: tl.constexpr,
    LEVELS: tl.constexpr,
    COMPONENTS: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    """Draws a block of pixels of wave w, IN_TURN one of their channels; copies their parameters.

    The first of several draws clears the channels after its own, which stages read before they are drawn.
    """
    _, H, W, _, pixels, _ = shape
    o_s, o_q, top, o_i, o_j, m_m = wave_rows(o_m, w, sample0, shape, (1, 0, 0))
    o_place = place_of(top, o_q, H, pixels)
    p_row = p_ring + o_s * sample_size
    p_param = p_row + own_pixels(p_draw, u, o_place, pixels)  # [BM]
    p_pixel = p_row + own_pixels(p_table + IMAGE * FIELDS, u, o_place, pixels)
    o_b, o_ij = (sample0 + o_s).to(tl.int64), o_i * W + o_j
    plane = tl.cast(H * W, tl.int64)
    o_image = o_b * channels * plane + o_ij
    p_params += o_b * params * plane + o_ij
    drawn = channels
    if IN_TURN:
        o_c = tl.arange(0, BC)[None, :]
        m_c = m_m[:, None] & (o_c < channels) & (first == 0)
        tl.store(p_pixel[:, None] + o_c, tl.zeros((o_m.shape[0], BC), p_ring.dtype.element_ty), mask=m_c)
        tl.debug_barrier()
        p_pixel += first
        o_image += first * plane
        p_params += first * plane * (LEVELS if EMIT == "categorical" else 1)
        drawn = 1
        if EMIT != "affine":
            params = params // channels
    given = (p_images, p_mask, p_known)
    if EMIT == "bernoulli" or EMIT == "affine":
        _draw_channels(
            p_noise, p_param, p_pixel, p_params, o_image, m_m, p_temperature, drawn, channels, plane,
            given, HAS_KNOWN, EMIT, BC,
        )  # fmt: skip
    else:
        for k in tl.range(0, params, BP, num_stages=1):
            o_k = k + tl.arange(0, BP)[None, :]
            _copy(p_param[:, None] + o_k, p_params[:, None] + o_k * plane, m_m[:, None] & (o_k < params))
        if EMIT == "categorical":
            for c in tl.range(0, drawn, num_stages=1):
                o_plane = o_image + c * plane
                b_noise = tl.load(p_noise + o_plane, mask=m_m, other=0.0).to(tl.float64)
                b_level = _draw_index(p_param + c * LEVELS, b_noise, m_m, p_temperature, LEVELS, BP)
                _keep(b_level.to(tl.float64) * (1.0 / (LEVELS - 1)), p_pixel + c, o_plane, m_m, given, HAS_KNOWN)
        else:
            tl.static_assert(EMIT == "logistic_mixture", "pixelcnn_sample: EMIT must be one of plan.EMITS")
            _draw_logistics(
                p_param, p_pixel, p_noise + o_b * (channels + 1) * plane + o_ij, o_image, m_m, p_temperature, channels,
                plane, given, HAS_KNOWN, LEVELS, COMPONENTS, BC, BP,
            )  # fmt: skip
