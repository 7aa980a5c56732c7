"""Files of earlier versions of the format are decoded: these bytes were written when there was version 1 alone."""

import base64

import pytest
import torch
from cases.codec import hashed, of_integers

from vlae_fast import VLAE, codec
from vlae_fast.backends import cpu
from vlae_fast.codec.container import signed

pytest.importorskip("constriction")
pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason="the codec runs on the CPU library")

VERSION_1 = {
    "mean": (
        "lU7VYMGXoX0RRWY?^rMLQx$Z7d7b>bH99f?0ssLC3IziOkpP<jhyW+D?U-aSgxw??jrnV0Rh|#yZ(V@o<f49|N{Sg=K*Ie)E"
        "*_}^E2qpq;G%}?a4#be=l5)8@lj;nN-zYBW==farn|3z$queI$&JDJ-HV99U8~C&fd&"
    ),
    "bits_back": (
        "lU7VYMGXoX0RacZ?^rMLQx$Z7d7b>bH99f?0ssLC3IziJ1U)c0&*d?M-6SqT3}s|ho)6=3R=?E*0s#WI<1xbvHo5tF`k^_Fp"
        "5*vQZri4B_)Zh`eJZ#jT=VC&LSYSbI)Z!Rb&aAt@BfK3BGmu8@Bh~a1Ofp8x8pIx3pTm=XehjBi_^t9u3n_~D~fdW1z^#bIJ"
        "%vr%WKqfFdxmX%LV"
    ),
}
_FINGERPRINT = slice(11, 27)  # it is of all options of a model too, which a release may have more of


@pytest.mark.parametrize("mode", VERSION_1)
def test_files_of_version_1_are_decoded(mode: str) -> None:
    model = of_integers(VLAE(1, latent_dim=3, hidden_dim=6, n_layers=2, image_size=(9, 10), flow_hidden=8))
    x = hashed((5, 1, 9, 10), 7).abs().round()
    data = bytearray(base64.b85decode(VERSION_1[mode]))
    data[_FINGERPRINT] = codec.encode(model, x, portable=True)[_FINGERPRINT]
    assert data[8] == 1 and codec.decode(model, signed(bytes(data))).equal(x)


def test_a_file_without_labels_is_of_version_1_and_one_with_them_of_2() -> None:
    small = {"latent_dim": 3, "hidden_dim": 4, "n_layers": 1, "image_size": (5, 6), "flow_hidden": 8}
    for n_classes, version in ((0, 1), (2, 2)):
        model = of_integers(VLAE(1, **small, n_classes=n_classes))
        labels = torch.tensor([0, 1]) if n_classes else None
        assert codec.encode(model, hashed((2, 1, 5, 6), 7).abs().round(), labels)[8] == version
