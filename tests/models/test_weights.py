"""Every public key layout loads, and everything else is refused whole."""

import pickle

import pytest
import torch

from terratorch_deo.errors import WeightsError
from terratorch_deo.models import deo_swin_tiny, load_weights, save_encoder


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return deo_swin_tiny()


def flat(encoder):
    return {k.removeprefix("trunk."): v for k, v in encoder.state_dict().items()}


def layouts(encoder):
    plain = flat(encoder)
    heads = {"head.mlp.0.weight": torch.ones(3, 3)}
    index = {"features.0.0.attn.relative_position_index": torch.arange(144**2)}
    top = {k: v for k, v in plain.items() if k.startswith("conv_")}
    rest = {f"module.backbone.{k}": v for k, v in plain.items() if k not in top}
    compiled = {f"module._orig_mod.backbone.{k}": v for k, v in plain.items()}
    teacher = {k: v + 1 for k, v in compiled.items()}
    lightning = {f"student.encoder.{k}": v for k, v in encoder.state_dict().items()}
    lightning |= {f"teacher.encoder.{k}": v * 0 for k, v in encoder.state_dict().items()}
    return {
        "own": encoder.state_dict(),
        "torchgeo": {f"feat_extr.{k}": v for k, v in (plain | index).items()},
        "student": {"student": compiled | heads, "teacher": teacher, "epoch": 3},
        "top level": {"student": {**rest, **{f"module.{k}": v for k, v in top.items()}}},
        "lightning": {"state_dict": lightning, "epoch": 1},
        "terratorch": {
            "state_dict": {f"model.encoder.{k}": v for k, v in encoder.state_dict().items()}
        },
    }


LAYOUTS = ("own", "torchgeo", "student", "top level", "lightning", "terratorch")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(source, layout, tmp_path):
    torch.save(layouts(source)[layout], tmp_path / "weights.pth")
    encoder = deo_swin_tiny()
    report = load_weights(encoder, tmp_path / "weights.pth")
    assert report.matched == len(source.state_dict())
    for key, value in source.state_dict().items():
        assert torch.equal(encoder.state_dict()[key], value), key


def test_teacher_part(source):
    content = layouts(source)["student"]
    encoder = deo_swin_tiny()
    load_weights(encoder, content, part="teacher")
    name = "trunk.features.4.5.mlp.3.weight"
    assert torch.equal(encoder.state_dict()[name], source.state_dict()[name] + 1)


def test_saved_encoder_keeps_contract(source, tmp_path):
    path = save_encoder(source, tmp_path / "encoder.pt", steps=7)
    report = load_weights(deo_swin_tiny(), path)
    assert report.metadata["contract_hash"] == source.contract.hash
    assert report.metadata["metadata"] == {"steps": 7}
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.pt"]


def refused(content, match, **options):
    encoder = deo_swin_tiny(**options)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(WeightsError, match=match):
        load_weights(encoder, content)
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_partial_is_refused(source):
    state = dict(source.state_dict())
    del state["trunk.norm.weight"]
    refused(state, r"1 keys missing \(first: trunk.norm.weight")


def test_surplus_is_refused(source):
    refused({**source.state_dict(), "trunk.extra": torch.ones(1)}, "1 keys unexpected")


def test_other_window_is_refused(source):
    refused(dict(source.state_dict()), "pass window_size=12", window_size=7)


def test_nan_is_refused(source):
    state = {**source.state_dict(), "trunk.norm.weight": torch.full((768,), float("nan"))}
    refused(state, "NaN or infinity")


def test_truncated_file_is_refused(source, tmp_path):
    path = save_encoder(source, tmp_path / "encoder.pt")
    path.write_bytes(path.read_bytes()[:100_000])
    refused(path, "no readable weight file")


def test_pickled_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Code()))
    refused(tmp_path / "evil.pth", "never loaded")
    assert not (tmp_path / "ran").exists()


def test_absent_file():
    refused("/nowhere/at/all.pth", "does not exist")


def test_no_tensors():
    refused({"epoch": 3}, "holds no tensors")


def test_unwritable_output(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_encoder(source, tmp_path / "file" / "encoder.pt")


def test_offline_download_names_the_file(monkeypatch, tmp_path):
    from terratorch_deo.models import deo_swin_base

    def offline(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=r"put the file of https.*checkpoints"):
        deo_swin_base(pretrained=True)
