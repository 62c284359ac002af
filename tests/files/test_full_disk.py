"""Files where the system takes no more bytes: a limit of a process's files stands for a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMITED = """
import resource, signal, sys
from pathlib import Path

import numpy as np
import torch

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
out = Path(sys.argv[1])
"""


def limited(code: str, out: Path) -> str:
    done = subprocess.run([sys.executable, "-c", LIMITED + code, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "fill",
    ["save(torch.rand(100_000), out)", "write_text(out, 'x' * 200_000)", "write(out, lambda f: np.save(f, big))"],
)
def test_the_error_names_the_file_and_the_older_one_stays(fill: str, tmp_path: Path) -> None:
    out = tmp_path / "kept.bin"
    out.write_bytes(b"older")
    code = f"from pipa.files.atomic import save, write, write_text\nbig = np.zeros(100_000)\n{fill}\n"
    said = limited(code, out)
    assert said.startswith("OSError: [Errno")
    assert said.endswith(f": {str(out)!r}")
    assert out.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == [out.name]


def test_a_video_that_is_not_whole_is_no_result(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    code = """
from pipa.inference.video import Writer
writer = Writer(out, 5.0)
for i in range(30):
    writer.add(np.random.default_rng(i).integers(0, 256, (96, 128, 3), np.uint8))
writer.close()
"""
    said = limited(code, tmp_path / "a.mp4")
    assert f"{tmp_path / 'a.mp4'}: the video could not be written whole, it holds" in said
    assert "of 30 frames; is the disk full?" in said
    assert list(tmp_path.iterdir()) == []
