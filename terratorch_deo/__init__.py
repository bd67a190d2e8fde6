"""DEO for TorchGeo and TerraTorch: dual-teacher pretraining for Sentinel-2 and RGB.

Importing the package is cheap: hosts are imported when they are first used, and learn of the
encoders at that moment.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from terratorch_deo import hosts

if TYPE_CHECKING:
    from terratorch_deo.data.module import GeoTiffDataModule
    from terratorch_deo.hosts.callback import Register
    from terratorch_deo.pretrain.task import DEOTask

__version__ = "0.1.0.dev0"
__all__ = ["DEOTask", "GeoTiffDataModule", "Register", "__version__"]

_LAZY = {
    "DEOTask": "terratorch_deo.pretrain.task",
    "GeoTiffDataModule": "terratorch_deo.data.module",
    "Register": "terratorch_deo.hosts.callback",
}


def __getattr__(name: str) -> Any:
    """Import a public class when it is asked for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


hosts.register()
