"""The pretrained Transformer's way to a ranking model: a safetensors file beside the tables.

Its digest is in the export's manifest, which is written after it, so an export is never half new.
"""

import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embeddings.manifests import MANIFEST, ExportManifest
from models.generative import GenerativeModel
from models.ranking import RankingModel
from pipeline.digests import file_sha256
from pipeline.errors import DigestError, ExportError

__all__ = ["DENSE_DIGEST", "export_dense", "load_dense", "remove_unnamed_dense"]

DENSE_DIGEST = "dense_sha256"
"""The key under which the manifest's `source` keeps the file's digest"""

_TEMPORARY = ".dense.tmp"
_PREFIX, _SUFFIX = "dense-", ".safetensors"
_PARTS = ("tokens", "transformer")


def export_dense(model: nn.Module, folder: Path) -> str:
    """Write the Transformer and the segment vectors of a generative model; returns the digest."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / _TEMPORARY
    state = {name: tensor.cpu().contiguous() for name, tensor in _dense_state(model).items()}
    save_file(state, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    digest = file_sha256(temporary)
    temporary.replace(_path(folder, digest))
    return digest


def remove_unnamed_dense(folder: Path) -> None:
    """Remove what exports before the published one, or that failed or were killed, left there."""
    (folder / _TEMPORARY).unlink(missing_ok=True)
    manifest = folder / MANIFEST
    # As text: what a damaged one names stays.
    named = manifest.read_text(errors="replace") if manifest.exists() else ""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        if path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX) not in named:
            path.unlink()


def load_dense(model: nn.Module, folder: Path, manifest: ExportManifest) -> int:
    """Copy exported dense layers into a ranking model, all of them or none; how many numbers.

    Raises:
        ExportError: no dense layers there, or of another architecture.
        DigestError: the file is not the one that was exported.
    """
    digest = manifest.source.get(DENSE_DIGEST, "")
    path = _path(folder, digest)
    if not path.exists():
        raise ExportError(f"{path}: the export has no dense layers; rerun the export stage")
    if file_sha256(path) != digest:
        raise DigestError(f"{path}: not what was exported; rerun the export stage")
    theirs, ours = load_file(path), _dense_state(model)
    for name in sorted(theirs.keys() | ours.keys()):
        shapes = [tuple(side[name].shape) if name in side else None for side in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise ExportError(
                f"{path}: {name} has shape {shapes[0]} in the export and {shapes[1]} in the "
                "ranking model; this strategy takes the dense layers, so both must have one "
                "architecture (ST and ST&SF need not)"
            )
    for name, tensor in ours.items():
        tensor.copy_(theirs[name])
    return sum(tensor.numel() for tensor in ours.values())


def _path(folder: Path, digest: str) -> Path:
    """Named after its content, so that an export never changes the file of the one before."""
    return folder / f"{_PREFIX}{digest[:12]}{_SUFFIX}"


def _dense_state(model: nn.Module) -> dict[str, Tensor]:
    """The live tensors of the parts that pretraining and ranking share, by name."""
    kinds = (GenerativeModel, RankingModel)
    inner = next(module for module in model.modules() if isinstance(module, kinds))
    return {
        f"{part}.{name}": tensor.detach()
        for part in _PARTS
        for name, tensor in getattr(inner, part).state_dict().items()
    }
