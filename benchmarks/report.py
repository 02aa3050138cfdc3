"""A benchmark's result: shown, and kept in one file."""

import json
from pathlib import Path


def put(report: dict, out: Path | None) -> None:
    """Prints it as JSON, and writes the same to `out` if there is one."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if out:
        out.write_text(text + "\n")
