import subprocess
import sys

ABSENT = """
import sys, types, importlib.util
find = importlib.util.find_spec
gone = {"pkg_resources", "cv2", "pycocotools"}
importlib.util.find_spec = lambda name, *rest: None if name in gone else find(name, *rest)
from helpers.compat import neural_compressor
assert neural_compressor.quantization.fit and neural_compressor.training.prepare_compression
print(sorted(gone & set(sys.modules)))
"""


def test_neural_compressor_imports_without_what_it_asks_for_and_nothing_is_left_behind():
    found = subprocess.run([sys.executable, "-c", ABSENT], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "[]"
