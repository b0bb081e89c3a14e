"""A folder in, the packages that benchmarks compare with out: pure Python or wheels, beside the project's own environment and never in it.

    python benchmarks/peers/install.py FOLDER
    python benchmarks/frame_speed.py --peers FOLDER        or: export SEMIVSS_PEERS=FOLDER

mmsegmentation 1.2.2 asks for mmcv below 2.2, whose 2.1.0 no longer compiles against today's torch. mmcv-lite 2.1.0 is the same package
without compiled operators; what imports them gets a module `mmcv._ext` here whose functions raise when called. mmcv has a form in plain
torch of the one operator that Mask2Former needs, deformable attention, and takes it on a CPU.

Dependencies are not resolved (`pip install --no-deps`): numpy, torch, OpenCV, Pillow and scipy are the environment's, for both sides.
"""

import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "mmsegmentation==1.2.2",
    "mmengine==0.10.7",
    "mmcv-lite==2.1.0",
    "mmdet==3.3.0",  # holds the Mask2Former head that mmsegmentation derives its own from
    "torchmetrics==1.9.0",
    # what these import
    "addict==2.4.0",
    "ftfy==6.3.1",
    "prettytable==3.18.0",
    "pycocotools==2.0.11",
    "shapely==2.2.0",
    "six==1.17.0",
    "termcolor==3.3.0",
    "terminaltables==3.1.10",
    "wcwidth==0.9.4",
    "yapf==0.43.0",
)
NO_OPERATORS = '''"""Stands for the compiled operators, which mmcv-lite lacks."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*args, **kwargs):
        raise RuntimeError(f"mmcv-lite has no compiled operator {name}")

    return absent
'''


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit("usage: python benchmarks/peers/install.py FOLDER")
    folder = Path(sys.argv[1])
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder, *PACKAGES], check=True)
    (folder / "mmcv" / "_ext.py").write_text(NO_OPERATORS)
    print(f"installed; give it to a benchmark as --peers {folder}")


if __name__ == "__main__":
    main()
