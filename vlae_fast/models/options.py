"""The options of a VLAE, declared once.

`VLAE`, `make_decoder`, a checkpoint's config.json and the train command read them here. docs/extending.md says what
another option takes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

from .. import backends
from .decoders.kinds import KINDS
from .encoder import ENCODERS
from .flow import TRANSFORMS
from .likelihood import LIKELIHOODS
from .normalization import ACTIVATIONS, NORMS
from .posterior import POSTERIORS
from .rules import Flag, OneOf, Option, Pair, Real, Whole, declaration, declared, describe, option

Model = TypeVar("Model", bound=type)

MOST_CHANNELS = 512  # hyperspectral images have a few hundred; more than that is an image made flat
_WIDTH = Whole(1, 1 << 16)
_SIDE = Whole(1, 1 << 12)
_KERNEL = Whole(1, 63)


@declaration
@dataclass(frozen=True)
class Options:
    """Everything that a VLAE is built from, except weights.

    The options of ``part="decoder"`` are those that not every decoder has; the class of a decoder says which it has.
    An option at its default here is left to that class.

    z_channels is the number of channels in which z is spread over the image (`CodeMap`). Where it is None it becomes
    the decoder's own: 16, ``resnet``: 4, and 0 for a plain VAE and where there is no z. With 0 every pixel is given the
    same z: a small window then cannot know where it is, and learns to ignore z. ``decoder_layers[i](h, z_map)`` takes
    z, z expanded over the image, or its map ``model.decoder.spread(z)``.

    With latent_dim = 0 there is no encoder and no prior: the decoder alone, see `PixelCNN`.

    With latent_map = (h, w), z is a map of ``latent_dim / (h w)`` channels, flattened.

    Args:
        {options}

    Raises:
        ValueError: naming the first option that breaks a rule. The parts of a model check what only they know.
    """

    input_dim: int = option(1, Whole(1, MOST_CHANNELS), "Image channels C")
    latent_dim: int = option(32, Whole(0, 1 << 16), "Dimensions of z; 0: no z, a PixelCNN by itself")
    hidden_dim: int = option(64, _WIDTH, "Channels of the decoder")
    n_layers: int = option(3, Whole(0, 1 << 10), "Masked layers of the decoder")
    use_flow: bool = option(True, Flag(), "Autoregressive flow prior, or N(0, I)")
    _: KW_ONLY
    image_size: tuple[int, int] = option((28, 28), Pair(_SIDE, "H, W"), "Height and width of an image")
    decoder: str = option("gated", OneOf(KINDS), "{names}")
    kernel_size: int = option(3, _KERNEL, "Side of the gated layers' kernels, odd", part="decoder")
    initial_kernel: int = option(7, _KERNEL, "Side of the first kernel, odd", part="decoder")
    receptive_field: int | None = option(
        None,
        Whole(3, 1 << 12),
        "Side of the window that the decoder sees, in place of `initial_kernel`",
        part="decoder",
    )
    z_channels: int | None = option(
        None,
        Whole(0, 1 << 16),
        "Channels of the map that spreads z over the image, if not the decoder's own (16; resnet: 4); 0: z as it is",
        part="decoder",
    )
    residual: bool = option(False, Flag(), "Add a gated layer's input to its output", part="decoder")
    decoder_norm: str = option("none", OneOf(NORMS), "mlp, deconv: normalisation of layers: {names}", part="decoder")
    tapered: bool = option(
        False, Flag(), "mlp: a hidden layer is half as wide as the next one towards the image", part="decoder"
    )
    deconv_kernel: int = option(4, Whole(3, 4), "deconv: side of kernels, 4 or 3", part="decoder")
    tied: bool = option(False, Flag(), "resnet: one set of weights for all blocks", part="decoder")
    n_pointwise: int = option(4, Whole(0, 1 << 10), "resnet: 1x1 blocks after the masked ones", part="decoder")
    likelihood: str = option("bernoulli", OneOf(LIKELIHOODS), "{names}")
    levels: int = option(256, Whole(2, 1 << 16), "Values of a pixel, where the likelihood is not bernoulli")
    components: int = option(10, Whole(1, 1 << 10), "Logistics of a logistic_mixture")
    likelihood_sigma: float | None = option(
        None, Real(above=0), "Standard deviation of a gaussian likelihood, if not learnt of each pixel and channel"
    )
    encoder: str = option("conv", OneOf(ENCODERS), "{names}")
    encoder_hidden: int | None = option(None, Whole(2, 1 << 16), "Channels of the encoder, if not those of the decoder")
    encoder_norm: str = option("none", OneOf(NORMS), "Normalisation of the encoder's layers: {names}")
    encoder_activation: str = option("elu", OneOf(ACTIVATIONS), "Activation of the encoder: {names}")
    encoder_units: int | None = option(
        None,
        Whole(0, 1 << 16),
        "Units of a linear layer before the encoder's last, if not its own (strided: 4 x channels; resnet: 450)",
    )
    weight_norm: bool = option(False, Flag(), "The older name of `encoder_norm` weight")
    posterior: str = option("gaussian", OneOf(POSTERIORS), "gaussian, or iaf: an inverse autoregressive flow of it")
    flow_transform: str = option("affine", OneOf(TRANSFORMS), "Steps of the prior: affine or mean-only")
    flow_hidden: int = option(256, _WIDTH, "Hidden units of each MADE of the prior")
    flow_layers: int = option(2, Whole(1, 1 << 6), "Hidden layers of each MADE of the prior")
    flow_steps: int = option(2, Whole(1, 1 << 8), "MADE transforms of the prior")
    latent_map: tuple[int, int] | None = option(
        None, Pair(_SIDE, "h, w"), "Height and width of z as a map, with a convolutional flow prior"
    )
    n_classes: int = option(0, Whole(0, 1 << 16), "Classes that encoder and decoder are told, 0 for none")
    backend: str = option("auto", OneOf(backends.NAMES), "Backend of every layer: {names}")

    def __post_init__(self) -> None:
        for name in declared(type(self)):
            if isinstance(value := getattr(self, name), list):  # as JSON has a pair
                object.__setattr__(self, name, tuple(value))
        if self.weight_norm and self.encoder_norm == "none":
            object.__setattr__(self, "encoder_norm", "weight")
        check_options(self)
        if not self.latent_dim + self.n_classes:  # nothing to spread
            object.__setattr__(self, "z_channels", 0)
        object.__setattr__(self, "weight_norm", self.encoder_norm == "weight")  # one model, one config
        if self.z_channels is None:  # a config names the value, whatever the default will be
            object.__setattr__(self, "z_channels", _own_z_channels(self))

    def config(self) -> dict[str, Any]:
        """The options by name, as JSON has them: a pair is a list."""
        values = {name: getattr(self, name) for name in declared(type(self))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def of_part(self, part: str) -> dict[str, Any]:
        """The options that one part of the model alone takes, by name."""
        return {name: getattr(self, name) for name, found in declared(type(self)).items() if found.part == part}


def check_options(options: Options) -> None:
    """Raises ValueError naming the first option that breaks its own rule, or a rule about two options."""
    for name, found in declared(type(options)).items():
        value = getattr(options, name)
        if rule := found.broken(value):
            raise ValueError(f"VLAE: {name} must be {rule}, got {value!r}")
    if options.input_dim > MOST_CHANNELS:
        rule = f"the number of channels of an image, at most {MOST_CHANNELS}"
        raise ValueError(f"VLAE: input_dim must be {rule}, got {options.input_dim}: {_flat_advice(options)}")
    if options.hidden_dim < 2:  # encoders halve it
        raise ValueError(f"VLAE: hidden_dim must be at least 2, got {options.hidden_dim}")
    _check_likelihood(options)
    if not options.latent_dim and options.posterior != "gaussian":
        raise ValueError(f"VLAE: posterior must be 'gaussian' where latent_dim is 0, got {options.posterior!r}")
    if not options.latent_dim and options.latent_map:
        raise ValueError(f"VLAE: latent_map must be None where latent_dim is 0, got {options.latent_map}")
    if options.latent_map and options.latent_dim % math.prod(options.latent_map):
        rule = f"(h, w) with h * w a divisor of latent_dim = {options.latent_dim}"
        raise ValueError(f"VLAE: latent_map must be {rule}, got {options.latent_map}")
    if options.weight_norm and options.encoder_norm != "weight":
        raise ValueError(f"VLAE: weight_norm must be False with encoder_norm {options.encoder_norm!r}, got True")


def _check_likelihood(options: Options) -> None:
    kind, decoder = options.likelihood, options.decoder
    if options.likelihood_sigma is not None and kind != "gaussian":
        raise ValueError(f"VLAE: likelihood_sigma must be None for likelihood {kind!r}, got {options.likelihood_sigma}")
    if kind == "continuous_bernoulli" and KINDS[decoder].autoregressive:
        plain = " or ".join(name for name, cls in KINDS.items() if not cls.autoregressive)
        why = "no backend draws such pixels one after the other, as it does those of the other likelihoods"
        raise ValueError(f"VLAE: decoder must be {plain} for likelihood {kind!r}, got {decoder!r}: {why}")


def _flat_advice(options: Options) -> str:
    """The call to make for images whose pixels are input_dim numbers in a row."""
    count = options.input_dim
    channels, side = next(((c, side) for c in (1, 3) if c * (side := math.isqrt(count // c)) ** 2 == count), (1, 0))
    height, width = (side, side) if side else (1, count)
    size = "" if (height, width) == (28, 28) else f", image_size=({height}, {width})"
    call = f'VLAE({channels}, {options.latent_dim}{size}, decoder="mlp", encoder="mlp", use_flow=False)'
    what = f"flat {height} x {width} images" if side else f"vectors of {count} numbers"
    return f"for {what} call {call}, and give it x.view(-1, {channels}, {height}, {width})"


def _own_z_channels(options: Options) -> int | None:
    """The z_channels that the decoder's class has where none are given; None where its signature names them."""
    kind = KINDS[options.decoder]
    named = inspect.signature(kind).parameters.get("z_channels")
    if named is not None and named.default is not None:
        return None
    return kind.default_z_channels if options.latent_dim + options.n_classes else 0


def known() -> Mapping[str, Option]:
    """The options of a VLAE by name."""
    return declared(Options)


def chosen(*args: Any, **options: Any) -> Options:
    """The options that a call ``VLAE(*args, **options)`` names.

    Raises:
        TypeError: an option is unknown or given twice.
        ValueError: an option breaks a rule, see `Options`.
    """
    try:
        bound = inspect.signature(Options).bind(*args, **options)
    except TypeError as error:
        raise TypeError(f"VLAE: {error}") from None
    return Options(*bound.args, **bound.kwargs)


NOT_CHOSEN = ("input_dim", "image_size", "levels", "n_classes", "backend")  # by the train command: its images say


def to_give(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a config that a call must give: without any one of them the model is another, or none.

    The last ones are left out first: an older name stands at the end.

    >>> to_give(chosen(latent_dim=8, decoder="resnet", z_channels=4).config())
    {'latent_dim': 8, 'decoder': 'resnet'}
    """
    left = dict(config)
    for name in reversed(list(config)):
        without = {key: value for key, value in left.items() if key != name}
        try:
            if chosen(**without).config() == config:
                left = without
        except ValueError:  # a rule about two options
            continue
    return left


def takes_options(cls: Model) -> Model:
    """Decorates a class that is made by ``(*args, **options)``: signature and docstring show those of `Options`."""
    own = inspect.signature(Options)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    cls.__init__.__signature__ = own.replace(parameters=[itself, *own.parameters.values()])  # type: ignore[misc]
    describe(cls, Options)
    return cls
