"""Everything a GPU can show in one call of under nine minutes: one table, and a JSON file.

    python benchmarks/gpu.py --json gpu.json             # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --toy          # that the script works, at toy size

Sections, the most wanted first: tests (the suite's CUDA part, synchronisation errors included), step (whole iterations
of DAFormer and HRDA beside the released operations, and where their time goes), contrast (exact, large N, share of the
card's matrix rate), kernels, loader, options (activation checkpointing, torch.compile, a ViT-L). Each runs in a process
of its own with a time of its own: a crash, a hang or a device assert in one costs the others nothing, and the figures
of what was done before it stay. The JSON file is written after every section.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
Row = dict[str, Any]
Case = tuple[str, Callable[[], Row]]
# Seconds of each section, start of its process included; what one leaves over, later ones may use.
SECONDS = {"tests": 90.0, "step": 190.0, "contrast": 60.0, "kernels": 60.0, "loader": 60.0, "options": 120.0}
BUDGET = 520.0
# What a process may take beyond its time: a case that has begun is waited for so long.
GRACE = 15.0
CORES = 16


def tests(device: Any) -> Iterator[Case]:
    """The part of the suite that needs a card; on a CPU only its collection."""

    def run() -> Row:
        # Only their files, because others want packages that a machine for this may not have.
        marked = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in p.read_text()]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *map(str, marked)]
        command += [] if device.cuda else ["--collect-only"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        row: Row = {"exit": done.returncode, "said": lines[-1] if lines else done.stderr[-500:], "failed": failed}
        return row | ({"output": done.stdout[-6000:]} if done.returncode else {})

    yield "pytest -m cuda", run


def loader(device: Any) -> Iterator[Case]:
    """Images per second of the pipeline on one core."""

    def run() -> Row:
        command = [sys.executable, "-W", "ignore", str(HERE / "loader.py"), "--images", "2", "--rounds", "2"]
        command += ["--help"] if device.toy else []
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return {"exit": done.returncode, "said": done.stdout[-3000:] if not done.returncode else done.stderr[-800:]}

    yield "loader.py, one core", run


def section(name: str) -> Callable[[Any], Iterator[Case]]:
    """What yields the cases of a section; imported here, so that one that cannot be imported ends no other."""
    if name in ("step", "options"):
        import gpu_steps

        return gpu_steps.iterations if name == "step" else gpu_steps.options
    if name in ("kernels", "contrast"):
        import gpu_kernels

        return gpu_kernels.kernels if name == "kernels" else gpu_kernels.contrast
    return tests if name == "tests" else loader


# -- the process of a section ------------------------------------------------------------------------------------------


def run_section(name: str, out: Path, device_name: str, toy: bool, seconds: float) -> None:
    """Run the cases while there is time; each row goes to ``out`` as a line of JSON at once."""
    import logging

    import torch

    import twins
    from gpu_timing import Device

    def write(row: Row) -> None:
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(shown(row), flush=True)

    device = Device(device_name, toy, seconds)
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    # float32 means float32 unless a case says otherwise.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    twins.MEAN, twins.STD = twins.MEAN.to(device_name), twins.STD.to(device_name)
    if name in ("step", "options"):
        import step_twin

        step_twin.MEAN, step_twin.STD = twins.MEAN, twins.STD
    try:
        with torch.device(device_name):
            for case, work in section(name)(device):
                if device.over():
                    write({"name": case, "left_out": "no time left"})
                    continue
                write({"name": case} | measured(work))
                if device.cuda:
                    torch.cuda.empty_cache()
    except Exception as error:
        write(failure(name, error))


def measured(work: Callable[[], Row]) -> Row:
    """The row of a case; an error becomes one too."""
    try:
        return work()
    except (Exception, SystemExit) as error:
        return failure("", error)


def failure(name: str, error: BaseException) -> Row:
    row: Row = {"name": name} if name else {}
    first = str(error).splitlines()[0] if str(error) else ""
    return row | {"error": f"{type(error).__name__}: {first}", "trace": traceback.format_exc()[-3000:]}


# -- the process that starts the others --------------------------------------------------------------------------------


def start(name: str, arguments: argparse.Namespace, seconds: float) -> list[Row]:
    """Rows of a section that runs in a process of its own, stopped when its time is over."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        out.touch()
        command = [sys.executable, "-W", "ignore", __file__, "--section", name, "--rows", str(out)]
        command += ["--device", arguments.device, "--seconds", str(seconds)] + (["--toy"] if arguments.toy else [])
        # A group of its own: what it has started, compilers and pytest, ends with it.
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        if process.returncode:
            rows.append({"name": name, "error": f"the section's process ended with {process.returncode}"})
            print(shown(rows[-1]), flush=True)
        return rows


def keeping_up(sections: dict[str, list[Row]]) -> list[Row]:
    """Cores of loading that each measured iteration keeps busy, from the images per second of one core."""
    table = "\n".join(str(row.get("said", "")) for row in sections.get("loader", []))
    rates = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) == 4 and cells[1].replace(".", "").isdigit():
            rates[cells[0]] = float(cells[1])
    found = []
    for row in sections.get("step", []):
        crop = "1024" if "hrda" in row["name"] else "640"
        needed = [
            next((v for k, v in rates.items() if start in k and crop in k), None) for start in ("GTA5", "Cityscapes")
        ]
        if "ours_ms" in row and all(needed):
            cores = sum(2 / rate for rate in needed if rate) / (row["ours_ms"] / 1e3)
            limits = {"limit": CORES, "met": cores <= CORES}
            found.append({"name": f"cores of loading, {row['name']}", "cores": cores, **limits})
    return found


def shown(row: Row) -> str:
    cells = [
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in row.items()
        if k not in ("name", "trace", "output", "parts") and v is not None
    ]
    return f"  {row['name']:<64} {', '.join(cells)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="toy sizes, for a machine without a GPU")
    parser.add_argument("--only", nargs="+", choices=list(SECONDS), default=list(SECONDS))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all sections")
    parser.add_argument("--json", type=Path, help="file for all figures")
    for name, kind in (("section", str), ("rows", Path), ("seconds", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        run_section(arguments.section, arguments.rows, arguments.device, arguments.toy, arguments.seconds)
        return 0
    import torch

    import pipa
    from gpu_timing import Device

    device = Device(arguments.device, arguments.toy)
    if device.cuda and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; --device cpu --toy shows that the script works")
    result: dict[str, Any] = {
        **device.facts(),
        "torch": torch.__version__,
        "pipa": pipa.__version__,
        "toy": device.toy,
        "sections": {},
    }
    print(", ".join(f"{k} {v}" for k, v in result.items() if k != "sections"), flush=True)
    begin, due = time.monotonic(), 0.0
    sections: dict[str, list[Row]] = result["sections"]
    for name in arguments.only:
        left, due = arguments.budget - (time.monotonic() - begin) - GRACE, due + SECONDS[name]
        if left < GRACE:
            print(f"{name}: left out, the time is over")
            sections[name] = [{"name": name, "left_out": "no time left"}]
        else:
            print(f"{name}:", flush=True)
            sections[name] = start(name, arguments, left if device.toy else min(left, due - time.monotonic() + begin))
        result["seconds"] = time.monotonic() - begin
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    for row in keeping_up(sections):
        sections["loader"].append(row)
        print(shown(row))
    rows = [row for rows in sections.values() for row in rows]
    failures = [row for row in rows if "error" in row or row.get("exit")]
    missed = [row for row in rows if row.get("met") is False]
    print(f"{result['seconds']:.0f} s, {len(failures)} failure(s), {len(missed)} limit(s) missed")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
