"""Data sets and data modules for pretraining, and procedural scenes."""
