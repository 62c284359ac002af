"""Released checkpoints of DAFormer, HRDA, MIC and PiPa, and SegFormer's ImageNet encoders, as files for this package.

Files are read with ``weights_only=True``: a pickle that asks for code is refused. Every key is accounted for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipa.files.atomic import refuse_input, refuse_other, save
from pipa.files.torch_file import CheckpointError, load_plain, meta_of
from pipa.mmseg.checkpoints.description import KEY
from pipa.mmseg.checkpoints.keys import convert_state_dict, rename
from pipa.mmseg.checkpoints.model import build_from_keys, describes_ours
from pipa.mmseg.checkpoints.released import released_description

# Under this name a converted file says what it was made from.
SOURCE = "converted_from"
# Where the converted file keeps the teacher (EMA) network.
TEACHER_KEY = "teacher"

# Part of a released training state -> the part of our file, None: left out.
_PARTS = {"model.": "student", "ema_model.": "teacher", "imnet_model.": None}
_REASONS = {
    "imnet_model.": "frozen ImageNet copy, made anew from the encoder's own file",
    "cls_head.": "auxiliary classifier of the released code, which never trained it",
    "proj_head.": "projection head of the pixel contrast, used in training only",
    "project.": "projection head of the patch contrast, used in training only",
    "classifier.": "classifier of the patch contrast, which the released code never trained",
    "head.": "ImageNet classifier",
    "decode_head.linear_": "SegFormer's own decode head",
    "auxiliary_head.": "auxiliary head",
}


@dataclass
class Report:
    """What became of every key of a checkpoint.

    kind: ``"encoder"``, ``"segmentor"`` or ``"training state"``. part: ``"student"`` and ``"teacher"`` of a
    training state, else ``"network"``. used: (part, key in the file, our name). skipped: (key in the file, reason).
    missing: (part, our name) of the network's parameters and buffers that the file lacks.
    """

    source: str
    kind: str = ""
    out: str = ""
    used: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)

    def format(self, verbose: bool = False) -> str:
        """A printable account: counts and reasons; with verbose also every key."""
        parts = Counter(part for part, _, _ in self.used)
        used = ", ".join(f"{part} {count}" for part, count in parts.items())
        lines = [f"{self.source}: {self.kind}"]
        lines.append(f"  used     {len(self.used):5d}  ({used})")
        lines.append(f"  skipped  {len(self.skipped):5d}")
        lines += [f"           {count:5d}  {why}" for why, count in Counter(why for _, why in self.skipped).items()]
        lines.append(f"  missing  {len(self.missing):5d}")
        lines += [f"                  {part}: {name}" for part, name in self.missing]
        if self.out:
            lines.append(f"  written to {self.out}")
        if verbose:
            lines += [f"  used     {part}: {key} -> {name}" for part, key, name in self.used]
            lines += [f"  skipped  {key}: {why}" for key, why in self.skipped]
        return "\n".join(lines)


def convert_checkpoint(
    path: str | Path, out: str | Path | None = None, model: nn.Module | None = None, use_teacher: bool = False
) -> Report:
    """Converts a released checkpoint and writes ``{"state_dict", "meta"}`` (and the teacher, where there is one).

    Args:
        path: ``.pth`` of DAFormer, HRDA, MIC, PiPa (segmentor or whole training state), or a MiT encoder.
        out: file to write (atomically); None only reports.
        model: the network the file is meant for; names and shapes are checked against it. Without it, they are checked
            against the network that the file's own keys and shapes describe.
        use_teacher: ``state_dict`` is the teacher's (the released test scripts use the student's).

    The written file loads with ``load_from`` and ``pipa test`` (an encoder: with ``init_cfg=dict(type="Pretrained",
    checkpoint=...)`` of the backbone). Raises CheckpointError, also if no key fits, and FileExistsError where
    `out` is there and no earlier conversion.
    """
    path = Path(path)
    if out is not None:
        refuse_input(out, path)
        refuse_other(Path(out), lambda file: SOURCE in meta_of(file), "checkpoint of an earlier conversion")
    result, report = convert_content(load_plain(path), str(path), model, use_teacher)
    if out is not None:
        save(result, out)
        report.out = str(out)
    return report


def convert_content(
    content: Mapping[str, Any], name: str, model: nn.Module | None = None, use_teacher: bool = False
) -> tuple[dict[str, Any], Report]:
    """As :func:`convert_checkpoint`, of what was read from the file `name`: what is written, and the account."""
    state = content.get("state_dict", content.get("model", content))
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{name}: state_dict is a {type(state).__name__}, expected a dictionary of tensors")
    report = Report(source=Path(name).name)
    parts = _split(state, model.state_dict() if model is not None else (), report)
    if not parts:
        first = ", ".join(list(state)[:3])
        raise CheckpointError(f"{name}: no parameter of a known network (first keys: {first})")
    converted: dict[str, dict[str, Tensor]] = {}
    for part, keys in parts.items():
        converted[part] = _convert(part, keys, model, report, name)
    if use_teacher and "teacher" not in converted:
        raise CheckpointError(f"{name}: holds no teacher")
    result: dict[str, Any] = {"meta": _meta(content, report)}
    main = [part for part in ("student", "network") if part in converted and not use_teacher]
    result["state_dict"] = converted[main[0] if main else "teacher"]
    if "teacher" in converted:
        result[TEACHER_KEY] = converted["teacher"]
    # Networks of other kinds, which the caller has named by `model`, are opened with their config.
    if report.kind != "encoder" and describes_ours(result["state_dict"]):
        result["meta"][KEY] = released_description(content, result)
    return result, report


def _split(state: Mapping[str, Any], known: Container[str], report: Report) -> dict[str, dict[str, tuple[str, Tensor]]]:
    """part -> {name inside the network: (key in the file, tensor)}; everything else is noted as skipped."""
    plain = {key: key.removeprefix("module.") for key in state}
    whole = any(name.startswith("model.") for name in plain.values())
    encoder = not any("decode_head." in name for name in plain.values())
    report.kind = "training state" if whole else "encoder" if encoder else "segmentor"
    parts: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for key, name in plain.items():
        value = state[key]
        if not isinstance(value, Tensor):
            report.skipped.append((key, f"not a tensor ({type(value).__name__})"))
            continue
        part: str | None = "student" if whole else "network"
        prefix = next((p for p in _PARTS if whole and name.startswith(p)), "")
        if prefix:
            part, name = _PARTS[prefix], name.removeprefix(prefix)
        if part is None:
            report.skipped.append((key, _REASONS[prefix]))
            continue
        if encoder and name.startswith("backbone."):
            name = name.removeprefix("backbone.")
        reason = next((why for start, why in _REASONS.items() if name.startswith(start)), None)
        if reason is not None:
            report.skipped.append((key, reason))
        elif not _known(name, encoder) and name not in known:
            report.skipped.append((key, "unknown name"))
        else:
            parts.setdefault(part, {})[name] = (key, value)
    return parts


def _known(name: str, encoder: bool) -> bool:
    if encoder:
        return rename(name) != name or name.startswith("layers.")
    return name.startswith("decode_head.") or (
        name.startswith("backbone.") and (rename(name) != name or name.startswith("backbone.layers."))
    )


def _convert(
    part: str, keys: dict[str, tuple[str, Tensor]], model: nn.Module | None, report: Report, file: str
) -> dict[str, Tensor]:
    try:
        converted = convert_state_dict({name: value for name, (_, value) in keys.items()})
        target = model if model is not None else build_from_keys(converted)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    expected: Mapping[str, Tensor] = target.state_dict()
    if report.kind == "encoder" and any(name.startswith("backbone.") for name in expected):
        expected = {k.removeprefix("backbone."): v for k, v in expected.items() if k.startswith("backbone.")}
    result: dict[str, Tensor] = {}
    for name, (key, _) in keys.items():
        ours = rename(name)
        value = converted[ours]
        if ours not in expected:
            report.skipped.append((key, "the network has no such parameter"))
        elif value.shape != expected[ours].shape:
            ours_shape, its_shape = tuple(value.shape), tuple(expected[ours].shape)
            report.skipped.append((key, f"its shape is {ours_shape}, the network's is {its_shape}"))
        else:
            result[ours] = value.contiguous().clone()
            report.used.append((part, key, ours))
    report.missing += [(part, name) for name in expected if name not in result]
    if not result:
        raise CheckpointError(f"{file}: none of its {len(keys)} keys fits the network")
    return result


def _meta(content: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Plain values only, so that our file too loads with weights_only=True."""
    meta: dict[str, Any] = {SOURCE: report.source, "kind": report.kind}
    old = content.get("meta")
    if isinstance(old, Mapping) and isinstance(old.get("CLASSES"), (list, tuple)):
        meta["dataset_meta"] = {"classes": tuple(str(name) for name in old["CLASSES"])}
        if isinstance(old.get("PALETTE"), (list, tuple)):
            meta["dataset_meta"]["palette"] = [[int(v) for v in colour] for colour in old["PALETTE"]]
    return meta
