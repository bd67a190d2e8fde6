"""Encoders, input contract and weights: all that inference needs."""

from terratorch_deo.models.encoder import (
    ENCODERS,
    DEOEncoder,
    Features,
    deo_swin_base,
    deo_swin_small,
    deo_swin_tiny,
    deo_vit_base,
)
from terratorch_deo.models.weights import LoadReport, load_weights, save_encoder
from terratorch_deo.scaling import InputContract

__all__ = [
    "ENCODERS",
    "DEOEncoder",
    "Features",
    "InputContract",
    "LoadReport",
    "deo_swin_base",
    "deo_swin_small",
    "deo_swin_tiny",
    "deo_vit_base",
    "load_weights",
    "save_encoder",
]
