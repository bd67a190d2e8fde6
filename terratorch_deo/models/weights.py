"""Weight files: ours and every public key layout, loaded strictly or not at all.

Layouts (method 7), all mapped onto the names of `DEOEncoder`:

* ours: written by `save_encoder`, with architecture and contract;
* TorchGeo's DEO: ``feat_extr.conv_ms.*``, ``feat_extr.features.*``;
* public training checkpoints: entries ``student`` / ``teacher``, prefixes ``module.``,
  ``_orig_mod.``, ``backbone.``, patch embeddings possibly at top level;
* Lightning and TerraTorch checkpoints that hold one of our encoders under any prefix;
* torchvision's Swin (ImageNet): one RGB patch embedding, used for both.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from terratorch_deo.bands import BANDS, OPTICAL_BANDS
from terratorch_deo.errors import WeightsError
from terratorch_deo.models.encoder import DEOEncoder

Part = Literal["student", "teacher"]
FORMAT = "terratorch_deo.encoder/1"


class LoadReport(NamedTuple):
    """What `load_weights` did.

    Attributes:
        layout: Layout that the file was recognised as.
        matched: Number of tensors loaded.
        derived: Names of tensors that were computed from others (multispectral kernels from RGB).
        ignored: Keys of the file that are not part of the encoder (heads, index buffers).
        metadata: Architecture and contract stored with the weights; empty for foreign files.
    """

    layout: str
    matched: int
    derived: list[str]
    ignored: list[str]
    metadata: dict[str, Any]


class Released(NamedTuple):
    """A public weight file.

    Attributes:
        url: Where it lies.
        sha256: Its SHA-256.
        window_size: Window it was trained with.
    """

    url: str
    sha256: str
    window_size: int


# The file that TorchGeo's DEO_Weights.DEO_SWIN names.
RELEASED: dict[str, Released] = {
    "deo_swin_base": Released(
        url=(
            "https://huggingface.co/SolaireTheSun/DEO/resolve/"
            "e3111b635eda09ae534973b444db58b412c87f4c/"
            "filename-06c431372992ada3da5eb25362a4c6d477428b066c803e228e5de00272fad775.pth"
        ),
        sha256="06c431372992ada3da5eb25362a4c6d477428b066c803e228e5de00272fad775",
        window_size=12,
    )
}


def save_encoder(encoder: DEOEncoder, path: str | Path, **metadata: Any) -> Path:
    """Write an encoder with its architecture and contract; moved into place when whole.

    Args:
        encoder: The encoder.
        path: File to write.
        **metadata: Further plain values kept with it (training settings, versions).

    Returns:
        The path.

    Raises:
        WeightsError: The file cannot be written.
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        "architecture": encoder.architecture,
        "contract": encoder.contract.to_dict(),
        "contract_hash": encoder.contract.hash,
        "metadata": metadata,
        "state_dict": {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()},
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if temporary.is_file():
            temporary.unlink()
        raise WeightsError(
            f"{path} cannot be written: {error}. Choose a writable folder with free space."
        ) from error
    return path


def read_weights(path: str | Path) -> Any:
    """Content of a weight file, read without running any code in it.

    Args:
        path: ``.pt``, ``.pth``, ``.ckpt`` or ``.safetensors``.

    Returns:
        What was saved.

    Raises:
        WeightsError: No such file, or it is truncated, corrupt or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist. Check ckpt_path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} ({path.stat().st_size:,} bytes) is no readable weight file: {reason}. "
            "It may be truncated, or hold pickled objects, which are never loaded. "
            "Copy it again, or save a plain state dict."
        ) from error


def load_weights(
    encoder: DEOEncoder, source: str | Path | Mapping[str, Any], *, part: Part = "student"
) -> LoadReport:
    """Load weights in any known layout; every tensor of the encoder or none.

    Args:
        encoder: Encoder to fill.
        source: File or state dict.
        part: Which network of a training checkpoint. A teacher has no optical patch embedding
            and is accepted only if the file holds one for it.

    Returns:
        What matched.

    Raises:
        WeightsError: Unreadable file, unknown layout, missing or surplus keys, or shapes of another
            architecture. Nothing is loaded then.
    """
    name = str(source) if isinstance(source, str | Path) else "the state dict"
    content = read_weights(source) if isinstance(source, str | Path) else source
    raw, metadata = _unwrap(content, name, part)
    layout, state, derived, ignored = _translate(raw, part)
    _refuse_misfit(encoder, state, name, layout, metadata)
    encoder.load_state_dict(state, strict=True)
    return LoadReport(layout, len(state), derived, ignored, metadata)


def load_released(encoder: DEOEncoder) -> LoadReport:
    """Download (once, with checksum) and load the released weights of an architecture.

    Args:
        encoder: Encoder to fill.

    Returns:
        What matched.

    Raises:
        WeightsError: No weights are released for this architecture or window, or the download
            failed; the message names the file and where to put it.
    """
    architecture = encoder.architecture["name"]
    released = RELEASED.get(architecture)
    if released is None:
        raise WeightsError(
            f"no weights are released for {architecture} (released: {', '.join(RELEASED)}). "
            "Pass pretrained=False, or ckpt_path= with your own file."
        )
    window = encoder.architecture.get("window_size")
    if window != released.window_size:
        raise WeightsError(
            f"the released weights of {architecture} have window_size={released.window_size}, "
            f"the encoder {window}. Pass window_size={released.window_size}."
        )
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / released.url.rsplit("/", 1)[1]
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                released.url, str(file), hash_prefix=released.sha256, progress=True
            )
        except Exception as error:
            raise WeightsError(
                f"the weights of {architecture} could not be downloaded ({error}). Without a "
                f"network, put the file of {released.url} at {file}, or pass ckpt_path=."
            ) from error
    return load_weights(encoder, file)


# ---------------------------------------------------------------------- layouts


def _unwrap(content: Any, name: str, part: Part) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Descend to the flat state dict."""
    metadata: dict[str, Any] = {}
    while isinstance(content, Mapping):
        if "architecture" in content and "state_dict" in content:
            metadata = {k: v for k, v in content.items() if k != "state_dict"}
        nested = [k for k in (part, "state_dict", "model", "student", "teacher") if k in content]
        nested = [k for k in nested if isinstance(content[k], Mapping)]
        if not nested:
            break
        content = content[nested[0]]
    tensors = (
        {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise WeightsError(
            f"{name} holds no tensors (a {type(content).__name__}). Expected a state dict, or a "
            "checkpoint with 'state_dict', 'student' or 'teacher'."
        )
    return tensors, metadata


_WRAPPERS = re.compile(r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module|backbone|feat_extr)(?=\.)")


def _translate(
    raw: dict[str, Tensor], part: Part
) -> tuple[str, dict[str, Tensor], list[str], list[str]]:
    """Rename keys to those of `DEOEncoder`: layout, state dict, derived names, ignored keys."""
    renamed: dict[str, str] = {}
    for key in raw:
        renamed[key] = _WRAPPERS.sub("", key).lstrip(".")
    prefix = _encoder_prefix(renamed.values(), part)
    layout = "DEO"
    if any(k.startswith("feat_extr.") for k in raw):
        layout = "TorchGeo DEO"
    elif any(k.startswith(f"{prefix}trunk.") for k in renamed.values()):
        layout = "terratorch_deo"
    state, ignored = {}, []
    for key, new in renamed.items():
        if not new.startswith(prefix):
            ignored.append(key)
            continue
        new = new[len(prefix) :].removeprefix("trunk.")
        if new.endswith("relative_position_index") or re.match(r"(head|mlp_head|projection)", new):
            ignored.append(key)
            continue
        state[new if new.startswith(("conv_ms.", "conv_rgb.")) else f"trunk.{new}"] = raw[key]
    derived: list[str] = []
    if "trunk.features.0.0.weight" in state and state["trunk.features.0.0.weight"].ndim == 4:
        layout = "torchvision Swin"
        state, derived = _from_torchvision(state)
    return layout, state, derived, ignored


def _encoder_prefix(keys: Any, part: Part) -> str:
    """What stands before the encoder's names, e.g. ``student.encoder.``."""
    mark = re.compile(r"^(.*?)(conv_ms\.0\.weight|features\.0\.0\.weight)$")
    found = {m.group(1) for k in keys if (m := mark.match(k))}
    prefixes = sorted(p.removesuffix("trunk.") for p in found)
    chosen = [p for p in prefixes if part in p.split(".")]
    return (chosen or prefixes or [""])[0]


def _from_torchvision(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Both patch embeddings from ImageNet's; the ten-band kernels keep the response's size."""
    out: dict[str, Tensor] = {}
    derived: list[str] = []
    for key, value in state.items():
        if match := re.match(r"trunk\.features\.0\.([02])\.(\w+)$", key):
            tail = f"{match.group(1)}.{match.group(2)}"
            out[f"conv_rgb.{tail}"] = value
            if tail == "0.weight":
                others = len(BANDS) - len(OPTICAL_BANDS)
                mean = value.mean(dim=1, keepdim=True).expand(-1, others, -1, -1)
                value = torch.cat([value, mean], dim=1) * (len(OPTICAL_BANDS) / len(BANDS))
            out[f"conv_ms.{tail}"] = value.clone()
            derived.append(f"conv_ms.{tail}")
        elif match := re.match(r"trunk\.features\.(\d+)\.(.*)$", key):
            out[f"trunk.features.{int(match.group(1)) - 1}.{match.group(2)}"] = value
        else:
            out[key] = value
    return out, derived


def _refuse_misfit(
    encoder: DEOEncoder,
    state: dict[str, Tensor],
    name: str,
    layout: str,
    metadata: dict[str, Any],
) -> None:
    expected = encoder.state_dict()
    missing = sorted(set(expected) - set(state))
    surplus = sorted(set(state) - set(expected))
    shapes = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    if not (missing or surplus or shapes):
        broken = [k for k, v in state.items() if not torch.isfinite(v).all()]
        if broken:
            raise WeightsError(
                f"{name}: {len(broken)} tensors hold NaN or infinity (first: {broken[0]}). "
                "Nothing was loaded. The run that wrote it had diverged; use an earlier checkpoint."
            )
        return
    facts = []
    for title, keys in (("missing", missing), ("unexpected", surplus)):
        if keys:
            facts.append(f"{len(keys)} keys {title} (first: {', '.join(keys[:3])})")
    if shapes:
        first = shapes[0]
        facts.append(
            f"{len(shapes)} shapes differ (first: {first} is {tuple(state[first].shape)}, "
            f"expected {tuple(expected[first].shape)})"
        )
    raise WeightsError(
        f"{name}: {'; '.join(facts)}. Nothing was loaded. "
        f"{_diagnosis(encoder, state, layout, metadata)}"
    )


def _diagnosis(
    encoder: DEOEncoder, state: dict[str, Tensor], layout: str, metadata: dict[str, Any]
) -> str:
    """What the file most likely is, and what to do."""
    here = encoder.architecture
    if metadata.get("architecture") and metadata["architecture"] != here:
        return f"It was saved from {metadata['architecture']}, this is {here}: build that encoder."
    table = next((v for k, v in state.items() if k.endswith("relative_position_bias_table")), None)
    if table is not None and "window_size" in here:
        window = (int(len(table) ** 0.5) + 1) // 2
        if window != here["window_size"]:
            return f"It has window {window}: pass window_size={window}."
    stem = state.get("conv_ms.0.weight")
    if stem is not None and stem.shape != encoder.conv_ms[0].weight.shape:
        return (
            f"Nearest layout: {layout}, with a {stem.shape[1]}-band embedding of width "
            f"{stem.shape[0]} and patch {stem.shape[-1]}: another architecture than {here['name']}."
        )
    if stem is not None and not any(k.startswith("conv_rgb.") for k in state):
        return (
            "It has no optical patch embedding, as the multispectral teacher has none. "
            "A training checkpoint? Pass part='student'."
        )
    depth = {k.split(".")[2] + "." + k.split(".")[3] for k in state if k.count(".") > 3}
    return f"Nearest layout: {layout} ({len(depth)} blocks); this encoder is {here['name']}."
