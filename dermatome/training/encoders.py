"""The encoders that a network may have.

A weights card names its encoder, and the card may come from anywhere. The names are restricted because
segmentation-models-pytorch passes names with the prefix ``tu-`` to timm, where ``tu-hf-hub:…`` downloads files and
``tu-local-dir:…`` reads a folder.
"""

from dermatome.errors import BadSetting

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's RGB values, 0 to 1, which most pretrained encoders expect; used from scratch too."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's RGB values, 0 to 1."""

_OWN = """
resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x4d resnext101_32x8d
resnext101_32x16d resnext101_32x32d resnext101_32x48d dpn68 dpn68b dpn92 dpn98 dpn107 dpn131 vgg11 vgg11_bn
vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn senet154 se_resnet50 se_resnet101 se_resnet152 se_resnext50_32x4d
se_resnext101_32x4d densenet121 densenet169 densenet201 densenet161 inceptionresnetv2 inceptionv4
efficientnet-b0 efficientnet-b1 efficientnet-b2 efficientnet-b3 efficientnet-b4 efficientnet-b5 efficientnet-b6
efficientnet-b7 mobilenet_v2 xception timm-efficientnet-b0 timm-efficientnet-b1 timm-efficientnet-b2
timm-efficientnet-b3 timm-efficientnet-b4 timm-efficientnet-b5 timm-efficientnet-b6 timm-efficientnet-b7
timm-efficientnet-b8 timm-efficientnet-l2 timm-tf_efficientnet_lite0 timm-tf_efficientnet_lite1
timm-tf_efficientnet_lite2 timm-tf_efficientnet_lite3 timm-tf_efficientnet_lite4 timm-skresnet18 timm-skresnet34
timm-skresnext50_32x4d mit_b0 mit_b1 mit_b2 mit_b3 mit_b4 mit_b5 mobileone_s0 mobileone_s1 mobileone_s2
mobileone_s3 mobileone_s4
"""
# From timm: small convolutional networks with a feature map at each of the five scales.
_OF_TIMM = """
tu-mobilenetv3_large_100 tu-regnetx_002 tu-regnety_004 tu-resnet10t tu-resnet26d
tu-tf_mobilenetv3_small_minimal_100
"""
ENCODERS = frozenset((_OWN + _OF_TIMM).split())
"""Names of allowed encoders: all of segmentation-models-pytorch's own, and some of timm's."""


ARCHITECTURES = ("unet", "unetplusplus", "fpn", "linknet", "manet", "pan", "deeplabv3plus")
"""Architectures of segmentation-models-pytorch whose weights can be imported; only U-Nets are trained."""


def check_encoder(name: str) -> str:
    """Returns ``name`` if it is the name of an encoder.

    Raises:
        BadSetting: it is not one of :data:`ENCODERS`.
    """
    if name not in ENCODERS:
        raise BadSetting(
            f"There is no encoder {name[:80]!r} here: use one of segmentation-models-pytorch's, such as resnet18, "
            "resnet34 or mobilenet_v2."
        )
    return name
