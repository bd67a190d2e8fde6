"""From a model to a georeferenced map."""
