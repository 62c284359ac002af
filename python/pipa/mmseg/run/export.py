"""A checkpoint as a file for elsewhere: the work of `pipa export`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipa.files.atomic import refuse_input, save, write_text
from pipa.inference.export.card import card
from pipa.inference.export.earlier import README, WHICH, is_card, refuse_other_file, refuse_other_folder
from pipa.inference.export.folder import write_folder, write_weights
from pipa.inference.export.onnx import write_onnx
from pipa.mmseg.checkpoints.adapters import without_adapters
from pipa.mmseg.checkpoints.description import KEY
from pipa.mmseg.checkpoints.weights import Weights, choose, held
from pipa.mmseg.run.checkpoint_file import read_named
from pipa.mmseg.run.choosing import logged_scores
from pipa.mmseg.run.network import build
from pipa.mmseg.run.open import description_of
from pipa.mmseg.run.pipeline_steps import outside_graph

Format: TypeAlias = Literal["pth", "safetensors", "onnx"]
# Ends of names by which a file is read: under another's end it could not be opened. Others are read as .pth.
ENDS: dict[str, Format] = {".pth": "pth", ".safetensors": "safetensors", ".onnx": "onnx"}


@dataclass
class Exported:
    """Files that were written, and what the user should know."""

    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(
    checkpoint: str | Path,
    out: str | Path,
    form: Format = "pth",
    weights: Weights = "auto",
    size: tuple[int, int] | None = None,
    config: Any = None,
) -> Exported:
    """Write the weights of student or teacher alone, with what a prediction needs.

    Args:
        out: the file; for safetensors also a folder, which then gets a model card, as ``save_pretrained`` writes it.
        size: ONNX: height and width of the input; None: the window or the training crop.
        config: for a checkpoint that does not carry its network.

    Raises:
        ValueError: `out` is the checkpoint itself or ends as a file of another format, the file holds no such weights,
            `size` is none, or it cannot be exported: a test pipeline has steps that an ONNX file would lack.
        FileExistsError: `out` is there and no earlier export.
    """
    out = Path(out)
    refuse_input(out, checkpoint)
    folder = form == "safetensors" and (out.is_dir() or not out.suffix)
    if folder:
        refuse_other_folder(out)
    elif not out.is_dir() and ENDS.get(out.suffix.lower(), "pth" if form == "pth" else "onnx") != form:
        named = f"a name that ends in .{form}{' or a folder' if form == 'safetensors' else ''}"
        raise ValueError(f"--out {out}: for --format {form} expected {named}, got {out.suffix}")
    else:
        refuse_other_file(out, form)
    if size is not None and form != "onnx":
        raise ValueError(f"--size is the input of an ONNX file; {form} takes any size")
    if size is not None and min(size) < 1:
        raise ValueError(f"--size: expected a height and a width of 1 pixel or more, got {size[0]} {size[1]}")
    content = read_named(checkpoint)
    state = choose(content, str(checkpoint), weights)
    which = held(content, weights)
    if form == "pth":
        return _pth(content, state, which, out, config, str(checkpoint))
    description = {**description_of(content, str(checkpoint), config), WHICH: which}
    _add_scores(description, Path(checkpoint), which)
    description, state = without_adapters(description, state)
    if form == "onnx":
        lacks = outside_graph(description["test_pipeline"])
        if lacks:
            raise ValueError(
                f"{checkpoint}: an ONNX file would lack {', '.join(lacks)} of the test pipeline and predict something "
                "else; export .pth or safetensors, which keep it, or give a --config whose test pipeline goes without"
            )
        network = build(description, state, str(checkpoint), "cpu")
        size = size or _size(network, description)
        difference = write_onnx(out, network, size)
        note = f"input (B, 3, {size[0]}, {size[1]}), RGB 0..255; largest difference to PyTorch {difference:.2e}"
        return Exported([out], [note])
    if folder:
        return Exported(write_folder(out, state, description))
    done = Exported([write_weights(out, state, description)])
    readme = out.with_name(README)
    if readme.exists() and not is_card(readme):
        done.notes.append(f"{readme}: is there already, so no model card was written")
    else:
        done.files.append(write_text(readme, card(description, out.name)))
    return done


def _pth(content: Mapping[str, Any], state: Any, which: str, out: Path, config: Any, where: str) -> Exported:
    meta = content.get("meta") or {}
    kept = {key: meta[key] for key in ("dataset_meta", "cfg", "config", KEY) if key in meta}
    if config is not None:
        kept[KEY] = description_of(dict(content), where, config)
    if KEY in kept:
        kept[KEY], state = without_adapters(kept[KEY], state)
    save({"state_dict": state, "meta": {**kept, WHICH: which}}, out)
    return Exported([out])


def _add_scores(description: dict[str, Any], checkpoint: Path, which: str) -> None:
    """The validation of just this iteration, from the log beside the checkpoint; a checkpoint is saved before it."""
    training = description.get("training")
    if not training:
        return
    scores = logged_scores(checkpoint.parent).get(training.get("iteration"))
    if scores:
        description["training"] = training = {**training, "scores": scores, "validated": training["iteration"]}
    prefix = "teacher/"
    if which == "teacher" and any(name.startswith(prefix) for name in training.get("scores") or {}):
        scores = {k.removeprefix(prefix): v for k, v in training["scores"].items() if k.startswith(prefix)}
        description["training"] = {**training, "scores": scores}
    elif which == "student" and training.get("scores"):
        scores = {k: v for k, v in training["scores"].items() if not k.startswith(prefix)}
        description["training"] = {**training, "scores": scores}


def _size(network: Any, description: Mapping[str, Any]) -> tuple[int, int]:
    if network.window is not None:
        return network.window.crop
    size = (description["model"].get("data_preprocessor") or {}).get("size")
    if size is None:
        raise ValueError(
            "--size HEIGHT WIDTH is needed: neither a window nor a training crop says how large the input is"
        )
    return int(size[0]), int(size[1])
