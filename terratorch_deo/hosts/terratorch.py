"""TerraTorch: our encoders in its backbone registry."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from terratorch_deo.errors import DEOError
from terratorch_deo.models import ENCODERS
from terratorch_deo.models.encoder import DEOEncoder

# Keywords that TerraTorch's factory uses itself and passes on to the backbone too.
_HOSTS_OWN = ("padding", "patch_size")


def _plain(value: Any) -> Any:
    """YAML values as they were meant: nested namespaces as dicts, numbers in strings as numbers."""
    if type(value).__name__ == "Namespace":
        return {k: _plain(v) for k, v in vars(value).items()}
    if isinstance(value, str):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        try:
            return int(value)
        except ValueError:
            return value
    return value


def _backbone(builder: Callable[..., DEOEncoder]) -> Callable[..., DEOEncoder]:
    """A builder that refuses unknown ``backbone_*`` keys by name."""
    known = list(inspect.signature(builder).parameters)

    @functools.wraps(builder)
    def build(**kwargs: Any) -> DEOEncoder:
        options = {k: _plain(v) for k, v in kwargs.items() if k not in _HOSTS_OWN}
        unknown = sorted(set(options) - set(known))
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            raise DEOError(
                f"backbone_{unknown[0]} is no option of {builder.__name__}"
                f"{f'; did you mean backbone_{near[0]}?' if near else '.'} "
                f"Options: {', '.join(f'backbone_{k}' for k in known)}."
            )
        return builder(**options)

    return build


def register() -> None:
    """Put the encoders into ``TERRATORCH_BACKBONE_REGISTRY``."""
    from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

    for name, builder in ENCODERS.items():
        if name not in TERRATORCH_BACKBONE_REGISTRY:
            TERRATORCH_BACKBONE_REGISTRY.register(_backbone(builder))
