"""Results on disk: one small JSON a run, each with a stamp of what it depends on."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lora2_core.config import TrainConfig
from lora2_core.demo_model import bundled
from lora2_core.drawn_world.subjects import Subject

from . import judges

_LORA2_ALONE = {
    "r_target",
    "lambda_r",
    "lambda_e",
    "rank_term",
    "regulariser",
    "quantile",
    "rank_rate",
    "rank_hold",
    "rank_freeze",
    "importance",
    "init",
    "growth",
    "budget_mb",
    "budget_precision",
    "shrink_patience",
    "entropy_queries",
}


def weights_stamp() -> str:
    """Of the bundled weights, once their checksum has been compared."""
    bundled.weights()
    return bundled.CHECKSUM.read_text().strip()[:16]


def judges_stamp(folder: Path) -> str:
    """Of the judges' files."""
    names = (judges.READER, judges.IDENTITY)
    return _digest(b"".join((folder / name).read_bytes() for name in names))


def look_stamp(subject: Subject) -> str:
    """Of a subject: another look under the same name is another subject."""
    return _digest(json.dumps(asdict(subject), sort_keys=True).encode())


def run_file(results: Path, contestant: str, subject: str, seed: int) -> Path:
    name = re.sub(r"[^\w]+", "-", subject).strip("-")
    return results / "runs" / f"{contestant}.{name}.{seed}.json"


def write(path: Path, record: Mapping) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")
    temporary.replace(path)


def read(path: Path, stamp: Mapping | None = None) -> dict | None:
    """A record, or None if there is none of this stamp. One that was judged, too, will do where no
    judges are asked for.
    """
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if stamp is None:
        return record
    known = _filled(record["stamp"])
    if stamp.get("judges", "") is None:
        known["judges"] = None
    return record if known == _filled(stamp) else None


def _filled(stamp: Mapping) -> dict:
    """With the default of every setting that did not exist when the stamp was made, and without
    those that the method has no use for, so that neither makes old results void."""
    settings = stamp.get("settings", {})
    if "steps" in settings:
        full = {**asdict(TrainConfig()), **settings}
        if full["method"] != "lora2":
            full = {name: value for name, value in full.items() if name not in _LORA2_ALONE}
        return {**stamp, "settings": full}
    if "of" in settings:
        parents = {name: _filled({"settings": found}) for name, found in settings["of"].items()}
        return {**stamp, "settings": {**settings, "of": parents}}
    return dict(stamp)


def collect(
    results: Path, subjects: Mapping[str, Subject], steps: int
) -> tuple[list[dict], list[str]]:
    """(records of the present weights, the present judges and these subjects; files refused)."""
    told = read(results / "judges.json")
    known = {None, told and told["stamp"]}  # None: losses alone
    found, refused = [], []
    for path in sorted((results / "runs").glob("*.json")):
        record = read(path)
        subject, stamp = subjects.get(record["subject"]), record["stamp"]
        if subject is None:
            continue
        current = (weights_stamp(), look_stamp(subject), steps)
        made = stamp["weights"], stamp["look"], stamp["steps"]
        if stamp["judges"] in known and made == current:
            found.append(record)
        else:
            refused.append(path.name)
    return found, refused


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
