"""Runs a real ComfyUI for the tests and talks to it over HTTP and websocket, as a page does.

Nothing of ComfyUI is imported here: the server is a process of its own, with its own Python.

    with open_host() as host:
        graph = Graph()
        image = graph.node("EmptyImage", width=64, height=64, batch_size=1, color=255)
        save = graph.node("SaveImage", images=image[0], filename_prefix="test")
        run = host.run(graph)
        picture = host.image(run.outputs[save.id]["images"][0])
"""

import contextlib
import functools
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import websocket
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACK = "comfyui-lora2"
DEFAULT_PATH = "~/comfy/ComfyUI"
HOW_TO = (
    "set COMFYUI_PATH to a ComfyUI folder (0.8 or later) that has a .venv, or COMFYUI_PYTHON to "
    "the Python that runs it"
)
_VERSIONS = """
import importlib.metadata, json, sys

def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""
# one test takes the checkpoints and texts that another has read
_CACHE = ("--cache-lru", "60")
EXTRA_NODES = ROOT / "tests" / "host" / "extra_nodes"
_FOLDERS = (
    "more_loras",
    "custom_nodes",
    "input",
    "output",
    "temp",
    "user",
    "models/checkpoints",
    "models/loras",
)
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096  # bytes, of /proc/…/statm
_MUCH = 4e9  # bytes
READ_ONLY = Path("/proc/sys/debug")  # even for an administrator; of Linux
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class HostError(RuntimeError):
    """The server is missing, did not start, or gave no answer."""


class PromptRejected(HostError):
    """The server refused a graph before running it; body holds its reasons."""

    def __init__(self, body: dict):
        self.body = body
        super().__init__(json.dumps(body, indent=1))


# --- finding it -----------------------------------------------------------------------------------


def is_comfyui(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "folder_paths.py").is_file()


def find_path(here: Path | None = None) -> Path:
    """ComfyUI's folder: COMFYUI_PATH, else the one that this pack lies in, else the default.

    Raises HostError, saying what was tried.
    """
    if named := os.environ.get("COMFYUI_PATH"):
        path = Path(named).expanduser().resolve()
        if not is_comfyui(path):
            raise HostError(f"COMFYUI_PATH is {named}, where there is no ComfyUI; {HOW_TO}")
        return path
    # custom_nodes often holds a symlink to the pack: the shell's own idea of where it stands
    # (PWD) and the unresolved path lead through it, the resolved path does not
    starts = [here] if here else [Path(os.environ.get("PWD", ".")), Path(__file__), ROOT]
    for start in starts:
        for folder in (start.absolute(), *start.absolute().parents):
            if folder.name == "custom_nodes" and is_comfyui(folder.parent):
                return folder.parent
    path = Path(DEFAULT_PATH).expanduser()
    if not is_comfyui(path):
        raise HostError(
            "COMFYUI_PATH is not set, the pack does not lie in a ComfyUI's custom_nodes, and "
            f"there is no ComfyUI at {DEFAULT_PATH}; {HOW_TO}"
        )
    return path


def find_python(path: Path) -> Path:
    """The Python that runs the ComfyUI at path. Raises HostError if none is known."""
    if named := os.environ.get("COMFYUI_PYTHON"):
        python = Path(named).expanduser()
        if not python.is_file():
            raise HostError(f"COMFYUI_PYTHON is {named}, which is not a file; {HOW_TO}")
        return python
    for name in (".venv/bin/python", ".venv/Scripts/python.exe"):
        if (path / name).is_file():
            return path / name
    raise HostError(f"{path} has no .venv, and COMFYUI_PYTHON is not set; {HOW_TO}")


def missing() -> str | None:
    """Why there is no host, or None if there is one. A variable that points nowhere is an error,
    and so is a host whose Python has not got the pack's requirements.
    """
    try:
        python = find_python(find_path())
    except HostError as error:
        if "COMFYUI_PATH" in os.environ or "COMFYUI_PYTHON" in os.environ:
            raise
        return str(error)
    check_requirements(python)
    return None


@functools.cache
def check_requirements(python: Path) -> None:
    """Raises HostError, with the line that installs them, for requirements that a Python lacks."""
    file = ROOT / "requirements.txt"
    wanted = [Requirement(line) for line in file.read_text().splitlines() if line.strip()]
    names = [requirement.name for requirement in wanted]
    answer = subprocess.run(
        [str(python), "-c", _VERSIONS, *names], capture_output=True, text=True, env=_environment()
    )
    if answer.returncode != 0:
        raise HostError(f"{python} cannot be used: {answer.stderr.strip()}")
    found = json.loads(answer.stdout)
    lacking = [
        f"{requirement} ({found[requirement.name] or 'not there'})"
        for requirement in wanted
        if found[requirement.name] is None
        or not requirement.specifier.contains(found[requirement.name], prereleases=True)
    ]
    if lacking:
        raise HostError(
            f"the Python of the ComfyUI lacks what the pack requires: {', '.join(lacking)}. "
            f"Install it by: {python} -m pip install -r {file}"
        )


# --- graphs and what became of them ---------------------------------------------------------------


class Node:
    """A node of a Graph; node[i] is a link to its output i."""

    def __init__(self, node_id: str):
        self.id = node_id

    def __getitem__(self, output: int) -> list:
        return [self.id, output]


class Graph(dict):
    """A graph in the server's API format."""

    def node(self, class_type: str, **inputs) -> Node:
        node_id = str(len(self) + 1)
        self[node_id] = {"class_type": class_type, "inputs": inputs}
        return Node(node_id)


@dataclass
class Run:
    """What one prompt did. Node ids are strings throughout."""

    prompt_id: str
    outputs: dict[str, dict] = field(default_factory=dict)  # node id -> what it showed ("ui")
    executed: list[str] = field(default_factory=list)  # node ids in the order they ran
    cached: list[str] = field(default_factory=list)
    progress: list[tuple[str, int, int]] = field(default_factory=list)  # node id, value, max
    error: dict | None = None  # exception_message, exception_type, node_id, node_type, traceback
    interrupted: bool = False
    history: dict = field(default_factory=dict)
    log: str = ""  # what the server printed meanwhile
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.error is None and not self.interrupted


class NodeFailed(HostError):
    """A node raised; run.error holds the server's account of it."""

    def __init__(self, run: Run):
        self.run = run
        error = run.error
        where = "".join(error.get("traceback") or [])
        super().__init__(
            f"node {error.get('node_id')} ({error.get('node_type')}): "
            f"{error.get('exception_type')}: {error.get('exception_message')}\n{where}"
        )


# --- the server -----------------------------------------------------------------------------------


class ComfyHost:
    """One ComfyUI server in a folder of its own: base holds custom_nodes, input, models, …"""

    def __init__(self, path: Path, python: Path, base: Path, pack: Path | None = ROOT):
        self.path, self.python, self.base, self.pack = path, python, base, pack
        self.arguments = shlex.split(os.environ.get("COMFYUI_ARGS", "--cpu"))
        if not any(argument.startswith("--cache") for argument in self.arguments):
            self.arguments += _CACHE
        self.port = 0
        self.log_path = base / "server.log"
        self.stats: dict = {}
        self._process: subprocess.Popen | None = None
        # an empty ProxyHandler: nothing here may leave the machine
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    # life

    def start(self, timeout: float = 300) -> "ComfyHost":
        for name in _FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if self.pack is not None and not (self.base / "custom_nodes" / PACK).exists():
            _place(self.pack, self.base / "custom_nodes" / PACK)
        self.port = _free_port()
        command = [str(self.python), "main.py", *self.arguments]
        command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--database-url", "sqlite:///:memory:"]
        command += ["--disable-auto-launch", "--disable-api-nodes"]
        more = self.base / "extra_model_paths.yaml"
        more.write_text(_more_folders(self.base))
        command += ["--extra-model-paths-config", str(more)]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.path,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._await_ready(time.monotonic() + timeout, timeout)
        if "(IMPORT FAILED)" in self.log():
            self._fail("ComfyUI started but could not import the pack")
        return self

    def _await_ready(self, deadline: float, timeout: float) -> None:
        while True:
            if self._process.poll() is not None:
                self._fail(f"ComfyUI exited with status {self._process.returncode} at start")
            with contextlib.suppress(OSError, HostError):
                self.stats = self.get("/system_stats", timeout=5)
                return
            if time.monotonic() > deadline:
                self._fail(f"ComfyUI was not ready after {timeout:.0f} s")
            time.sleep(0.2)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """As a crash would end it; start() brings it back on the same folders."""
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> "ComfyHost":
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_) -> None:
        self.stop()

    def _fail(self, message: str):
        tail = "\n".join(self.log().splitlines()[-60:])
        raise HostError(f"{message} ({self.path}). The end of its log:\n{tail}")

    @property
    def pid(self) -> int:
        """The server's process, for measurements."""
        return self._process.pid

    @property
    def version(self) -> str:
        """ComfyUI's version, for instance '0.28.0'."""
        return self.stats["system"]["comfyui_version"]

    def log(self, start: int = 0) -> str:
        """What the server printed, from byte start on."""
        with self.log_path.open("rb") as file:
            file.seek(start)
            return _COLOUR.sub("", file.read().decode("utf-8", "replace"))

    # requests

    def request(self, route: str, body: bytes | None = None, timeout: float = 60) -> bytes:
        """The answer's body. Raises HostError with the server's words for a bad status."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        url = f"http://127.0.0.1:{self.port}{route}"
        try:
            with self._http.open(
                urllib.request.Request(url, data=body, headers=headers), timeout=timeout
            ) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode("utf-8", "replace")
            if route == "/prompt" and error.code == 400:
                raise PromptRejected(json.loads(text)) from None
            raise HostError(f"{route} answered {error.code}: {text}") from None

    def get(self, route: str, timeout: float = 60):
        return json.loads(self.request(route, timeout=timeout))

    def post(self, route: str, value=None):
        text = self.request(route, json.dumps({} if value is None else value).encode())
        return json.loads(text) if text else None

    def object_info(self, class_type: str | None = None) -> dict:
        """The server's description of one node, {} if it does not know it, or of all nodes."""
        if class_type is None:
            return self.get("/object_info")
        name = urllib.parse.quote(class_type)
        return self.get(f"/object_info/{name}").get(class_type, {})

    def image(self, entry: Mapping) -> Image.Image:
        """The picture behind an entry of outputs[id]['images'], through /view."""
        wanted = {key: entry[key] for key in ("filename", "subfolder", "type")}
        data = self.request(f"/view?{urllib.parse.urlencode(wanted)}")
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture.convert("RGB")

    def file(self, entry: Mapping) -> Path:
        """The file behind an entry of outputs[id]['images'] and the like."""
        return self.base / entry["type"] / entry["subfolder"] / entry["filename"]

    def dataset(self, name: str) -> Path:
        """The folder that SaveTrainingDataset wrote; since 0.33 there is one for data sets."""
        folders = [self.base / root / name for root in ("datasets", "output")]
        return next(folder for folder in folders if folder.is_dir())

    def add_images(
        self, source: Path, folder: str, size: int | None = None, count: int | None = None
    ) -> str:
        """Copies the first count pictures of source into input/<folder>, at most size pixels wide
        and high, with the captions beside them; returns folder. Small ones make fast tests."""
        target = self.base / "input" / folder
        target.mkdir(parents=True, exist_ok=True)
        pictures = [p for p in sorted(source.iterdir()) if p.suffix.lower() in _PICTURES]
        for file in pictures[:count]:
            if size is None:
                shutil.copy(file, target)
            else:
                with Image.open(file) as picture:
                    picture.thumbnail((size, size))
                    picture.save(target / file.name)
            if file.with_suffix(".txt").exists():
                shutil.copy(file.with_suffix(".txt"), target)
        return folder

    def upload_image(self, path: Path, subfolder: str = "") -> dict:
        """Sends one picture as the page does; returns its entry, as image() takes it."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\n{subfolder}'
            f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{path.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/upload/image",
            data=body,
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        with self._http.open(request, timeout=60) as answer:
            entry = json.load(answer)
        return {"filename": entry.pop("name"), **entry}

    def interrupt(self) -> None:
        """Cancels the prompt that is running, as the page's button does."""
        self.post("/interrupt")

    def free(self) -> None:
        """Unloads the models and forgets the cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def shrink(self) -> None:
        """Frees, if the server holds much."""
        status = Path(f"/proc/{self.pid}/statm")
        if status.exists() and int(status.read_text().split()[1]) * _PAGE > _MUCH:
            self.free()

    # prompts

    def run(
        self,
        graph: Mapping,
        timeout: float = 300,
        on_event: Callable[[str, dict], None] | None = None,
        check: bool = True,
        client: str | None = None,
        workflow: str | None = None,
    ) -> Run:
        """Queues a graph and follows it to its end.

        client and workflow: the ids of a page and of the graph in it, as the page sends them.

        on_event(type, data) gets every event as it arrives; it may call interrupt(). Raises
        PromptRejected if the graph is refused, NodeFailed if a node raises (unless check is False),
        HostError at the timeout.
        """
        began, mark = time.monotonic(), self.log_path.stat().st_size
        client = client or uuid.uuid4().hex
        more = {"extra_pnginfo": {"workflow": {"id": workflow}}} if workflow else {}
        feed = websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/ws?clientId={client}",
            timeout=10,
            http_no_proxy=["127.0.0.1"],
        )
        try:
            prompt = {"prompt": graph, "client_id": client, "extra_data": more}
            answer = self.post("/prompt", prompt)
            run = Run(answer["prompt_id"])
            for kind, data in self._events(feed, run.prompt_id, began + timeout, timeout):
                _note(run, kind, data)
                if on_event is not None:
                    on_event(kind, data)
        finally:
            feed.close()
        run.history = self.get(f"/history/{run.prompt_id}").get(run.prompt_id, {})
        run.outputs = run.history.get("outputs", {})
        run.seconds = time.monotonic() - began
        run.log = self.log(mark)
        if check and run.error is not None:
            raise NodeFailed(run)
        return run

    def _events(self, feed, prompt_id, deadline, timeout) -> Iterator[tuple[str, dict]]:
        """The events of one prompt, until the server says that it is done with it."""
        feed.settimeout(1)
        while True:
            if time.monotonic() > deadline:
                with contextlib.suppress(OSError, HostError):
                    self.interrupt()
                self._fail(f"a prompt was not done after {timeout:.0f} s")
            try:
                message = feed.recv()
            except websocket.WebSocketTimeoutException:
                continue
            except (websocket.WebSocketException, OSError):
                self._fail("ComfyUI dropped the connection")
            if isinstance(message, bytes):
                continue  # a preview picture, or a line of text
            event = json.loads(message)
            kind, data = event["type"], event.get("data") or {}
            if data.get("prompt_id", prompt_id) != prompt_id:
                continue
            yield kind, data
            if kind == "executing" and data.get("node") is None and "prompt_id" in data:
                return


@contextlib.contextmanager
def open_host(pack: Path | None = ROOT) -> Iterator[ComfyHost]:
    """The host that find_path names, in a temporary folder that is removed at the end.

    pack is the custom node folder to load beside the host's own nodes and those of EXTRA_NODES.
    """
    path = find_path()
    python = find_python(path)
    with tempfile.TemporaryDirectory(prefix="lora2-host-", ignore_cleanup_errors=True) as base:
        (Path(base) / "custom_nodes").mkdir()
        for file in EXTRA_NODES.glob("*.py"):
            shutil.copy(file, Path(base) / "custom_nodes")
        with ComfyHost(path, python, Path(base), pack) as host:
            yield host


def _note(run: Run, kind: str, data: Mapping) -> None:
    match kind:
        case "executing" if data.get("node") is not None:
            run.executed.append(str(data["node"]))
        case "execution_cached":
            run.cached += [str(node) for node in data["nodes"]]
        case "progress":
            run.progress.append((str(data["node"]), data["value"], data["max"]))
        case "execution_error":
            run.error = dict(data)
        case "execution_interrupted":
            run.interrupted = True


def _place(pack: Path, target: Path) -> None:
    try:
        target.symlink_to(pack, target_is_directory=True)
    except OSError:  # Windows without the right to make symlinks
        shutil.copytree(pack, target, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))


def _more_folders(base: Path) -> str:
    """extra_model_paths.yaml: a second folder of loras and, where there is one into which nobody
    can write, that one before all others."""
    more = f"tests:\n    base_path: {base}\n    loras: more_loras\n"
    if READ_ONLY.is_dir():
        more += f"read_only:\n    base_path: {READ_ONLY}\n    is_default: true\n    loras: .\n"
    return more


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment() -> dict[str, str]:
    """This process's environment without proxies and without what only concerns its own Python."""
    drop = ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "VIRTUAL_ENV")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and name not in drop
    }
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    # threads that spin while they wait make a busy machine several times slower
    patient = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    return kept | offline | patient | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
