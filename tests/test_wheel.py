"""The built wheel is complete: it runs the demonstration without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"

DEMO = """
import lpcaffe.cli, lpcaffe.demo, lpcaffe.zoo
print(lpcaffe.demo.__file__, lpcaffe.demo.embedded_lenet(), sep="\\n")
print(*[entry.prototxt.resolve(strict=True) for entry in lpcaffe.zoo.zoo().values()], sep="\\n", end="\\n\\n")
lpcaffe.cli.main(["demo", "--out", "made"])
"""


def test_the_wheel_alone_runs_the_demonstration_from_another_folder(tmp_path):
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as wheel:
        wheel.extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    demo = subprocess.run(
        [sys.executable, "-c", DEMO],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (demo.returncode, demo.stderr) == (0, "")
    where, _, shown = demo.stdout.partition("\n\n")
    assert len(where.splitlines()) > 10
    assert all(Path(line).is_relative_to(installed.resolve()) for line in where.splitlines())
    assert "agreement 100.000%" in shown
    assert sorted(path.name for path in (elsewhere / "made").iterdir()) == [
        "lp.caffemodel",
        "lp.prototxt",
        "plan.yaml",
        "report.json",
    ]
