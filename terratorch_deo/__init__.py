"""DEO for TorchGeo and TerraTorch."""

__version__ = "0.1.0.dev0"
