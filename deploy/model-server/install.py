"""Installs wheels into a directory; of TensorFlow only its C libraries, which are all that the server uses.

install.py WHEELS DIRECTORY
"""

import sys
import zipfile
from pathlib import Path

# 300 MB of Python, headers and kernels' sources stay behind.
_OF_TENSORFLOW = ("tensorflow/libtensorflow_cc.so.2", "tensorflow/libtensorflow_framework.so.2")


def main(wheels: Path, directory: Path) -> None:
    """Unpacks every wheel of `wheels` into `directory`."""
    for path in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            if path.name.startswith("tensorflow"):
                names = [name for name in names if name in _OF_TENSORFLOW or ".dist-info/" in name]
            wheel.extractall(directory, names)
    # With an __init__.py it is found as a package; importing it fails, as it should beside the C libraries.
    (directory / "tensorflow" / "__init__.py").write_text('raise ImportError("only the C libraries are here")\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
