"""Loads lora2_core by path, with ComfyUI's modules blocked: the core must never need them."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST_MODULES = ("comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "nodes")


class _BlockHost:
    """Import hook that refuses ComfyUI's modules by name."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HOST_MODULES:
            raise ImportError(f"{name} is blocked: lora2_core and its tests run without ComfyUI")
        return None


sys.meta_path.insert(0, _BlockHost())
sys.path.append(str(ROOT / "tests"))  # for reference.py and other modules that tests share
sys.path.append(str(ROOT / "benchmarks"))  # for its packages
if "lora2_core" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "lora2_core",
        ROOT / "lora2_core" / "__init__.py",
        submodule_search_locations=[str(ROOT / "lora2_core")],
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["lora2_core"] = module
    spec.loader.exec_module(module)
