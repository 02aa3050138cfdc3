"""Commands on streams of any encoding, closed ones, and those that take no more."""

import codecs
import errno
import io
import os
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora2_core.__main__ import COMMANDS, main
from lora2_core.rank_tools import open_adapter
from lora2_core.signs import SIGNS, fitting

ROOT = Path(__file__).parents[3]
ENCODINGS = [
    "ascii", "latin-1", "cp1252", "cp437", "cp850", "cp932", "gbk", "koi8-r", "big5", "iso2022_jp",
    "cp037", "utf-7", "utf-8", "utf-16", "utf-32", "idna",
]  # fmt: skip
NAMES = ["dog", "café", "狗🐕", "Σ→²", "собака", "d\udce9"]


def called(arguments, encoding, errors="strict"):
    """(exit code, standard output, standard error), the streams as bytes of that encoding."""
    raw = io.BytesIO(), io.BytesIO()
    given = [io.TextIOWrapper(one, encoding, errors) for one in raw]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = given
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.stdout, sys.stderr = before
    for stream in given:
        assert (stream.encoding, stream.errors) == (encoding, errors)
        stream.flush()
    return code, *(one.getvalue() for one in raw)


def folder(path, *names):
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    for name in names:
        tensors = {f"{key}.lora_down.weight": torch.ones(4, 24),
                   f"{key}.lora_up.weight": torch.ones(24, 4)}  # fmt: skip
        save_file(tensors, path / "new")
        os.replace(path / "new", path / f"{name}.safetensors")
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_every_command_explains_itself_in_every_encoding(encoding, errors):
    for given in ([], *([command] for command in COMMANDS)):
        code, out, err = called([*given, "--help"], encoding, errors)
        assert (code, err) == (0, b"") and len(out) > 300
        text = out.decode("ascii" if encoding == "idna" else encoding)
        assert "?" not in text and not any("\udc80" <= letter <= "\udcff" for letter in text)
        assert f"usage: python -m lora2_core{' ' * bool(given)}{''.join(given)}" in text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_of_every_script_are_merged_compressed_expanded_and_looked_at(
    tmp_path, monkeypatch, encoding
):
    monkeypatch.chdir(folder(tmp_path, *NAMES))
    files = [f"{name}.safetensors" for name in NAMES]
    for name in NAMES:
        out = f"{name} 2.safetensors"
        work = (
            ["inspect", files[0].replace("dog", name)],
            ["merge", *files, "-o", out],
            ["compress", f"{name}.safetensors", f"{name} 3.safetensors", "--rank", "2"],
            ["expand", f"{name}.safetensors", f"{name} 4.safetensors", "--rank", "5"],
        )
        for given in work:
            code, said, err = called(given, encoding)
            assert (code, err) == (0, b"") and len(said) > 40
            if encoding.startswith("utf") and name.isprintable():
                assert name in said.decode(encoding)
        assert len(open_adapter(out).components) == 1


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", NAMES)
def test_errors_name_files_of_every_script(tmp_path, monkeypatch, encoding, name):
    monkeypatch.chdir(tmp_path)
    wrong = (
        ["inspect", f"{name}.safetensors"],
        ["merge", f"{name}.safetensors=x", "-o", "x.safetensors"],
        ["compress", "a", f"{name}.txt", "--rank", "2"],
        ["expand", f"{name}.safetensors", "x.safetensors"],
        ["ranks", f"{name}.json", "-o", "map.json"],
        ["train", "--model", name, "--images", name, "--prompt", "a", "--out", "x.safetensors"],
        ["demo", "--subject", name],
        ["merge", "--no-such", name],
        [name],
    )
    for given in wrong:
        code, out, err = called(given, encoding)
        assert (code, out) == (2, b"")
        text = err.decode("ascii" if encoding == "idna" else encoding)
        assert "error: " in text and "Traceback" not in text
    assert not list(tmp_path.glob("x*"))


def test_what_an_encoding_lacks_is_spelled_out_and_nothing_is_lost():
    assert fitting("LoRA² → 2²·Σσ²", "ascii") == "LoRA2 -> 2^2-sum sigma^2"
    assert fitting("rank 1 → 4 × 2", "cp1252") == "rank 1 -> 4 × 2"
    assert fitting("café 狗 Σπ", "ascii") == "caf\\xe9 \\u72d7 \\u03a3\\u03c0"
    assert fitting("d\udce9", "utf-8") == "d\\xe9"
    spelled = [fitting(sign, "ascii") for sign in SIGNS]
    assert all(text.isascii() for text in spelled)


def test_the_bytes_of_a_name_go_out_as_they_came_in_where_the_locale_is_unknown(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(folder(tmp_path, "d\udce9"))
    _, out, _ = called(["inspect", "d\udce9.safetensors"], "ascii", "surrogateescape")
    assert out.startswith(b"d\xe9.safetensors: 1 components")
    _, out, _ = called(["inspect", "d\udce9.safetensors"], "utf-8", "strict")
    assert out.startswith(b"d\\xe9.safetensors: 1 components")


@pytest.mark.parametrize("errors", ["xmlcharrefreplace", "namereplace"])
def test_a_users_own_way_of_replacing_stays(errors):
    _, out, _ = called(["merge", "--help"], "ascii", errors)
    assert "Σσ²".encode("ascii", errors) in out


def test_a_stream_that_is_no_ordinary_one(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", codecs.getwriter("ascii")(raw))
    with pytest.raises(SystemExit) as stop:
        main(["merge", "--help"])
    assert stop.value.code == 0 and b"sum sigma^2" in raw.getvalue()


def test_streams_that_are_closed(tmp_path, monkeypatch):
    monkeypatch.chdir(folder(tmp_path, "dog"))
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["compress", "dog.safetensors", "small.safetensors", "--rank", "2"]) == 0
    assert main(["inspect", "no.safetensors"]) == 2
    assert sys.stdout is sys.stderr is None and Path("small.safetensors").exists()


class Refusing(io.StringIO):
    """A stream behind which there is no room, or nobody."""

    def __init__(self, number):
        super().__init__()
        self._number = number

    def write(self, text):
        raise OSError(self._number, os.strerror(self._number))

    flush = None


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 2), (errno.EPIPE, 0)])
def test_the_work_is_done_though_nobody_takes_the_words(
    tmp_path, monkeypatch, capsys, number, code
):
    monkeypatch.chdir(folder(tmp_path, "dog"))
    refusing = Refusing(number)
    refusing.flush = lambda: None
    monkeypatch.setattr(sys, "stdout", refusing)
    assert main(["merge", "dog.safetensors", "-o", "x.safetensors"]) == code
    assert Path("x.safetensors").exists()
    said = capsys.readouterr().err
    assert said == "" if code == 0 else "standard output cannot be written" in said


def run_by(monkeypatch, work):
    """`inspect` does this instead."""
    stub = types.ModuleType("lora2_core.commands.inspect")
    stub.add_arguments, stub.run = lambda parser: None, lambda options: work()
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    return main(["inspect"])


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def stopped():
        print("half", end="")
        raise KeyboardInterrupt

    assert run_by(monkeypatch, stopped) == 130
    assert capsys.readouterr() == ("half", "interrupted; nothing was written\n")


def test_other_libraries_warnings_are_not_on_the_screen(monkeypatch, capsys):
    def work():
        warnings.warn("pkg_resources is old", FutureWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(sys, "warnoptions", [])
        assert run_by(monkeypatch, work) == 0
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys, "warnoptions", ["always"])
        with pytest.warns(FutureWarning, match="old"):
            run_by(monkeypatch, work)


def started(arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0"} | variables,
    )  # fmt: skip


def test_a_merge_on_a_real_stream_of_cp1252(tmp_path):
    folder(tmp_path, "狗")
    out = tmp_path / "sum.safetensors"
    command = [sys.executable, "-m", "lora2_core", "merge", tmp_path / "狗.safetensors", "-o", out]
    found = started(command, PYTHONIOENCODING="cp1252:strict")
    said, err = found.communicate()
    assert (found.returncode, err) == (0, b"") and out.exists()
    assert b"mean rank 4.0 -> 4.0" in said


def test_the_c_locale(tmp_path):
    command = [sys.executable, "-m", "lora2_core", "狗"]
    found = started(command, LC_ALL="C", PYTHONCOERCECLOCALE="0")
    said, err = found.communicate()
    assert (found.returncode, said) == (2, b"") and b"Traceback" not in err
    assert rb"invalid choice: '\udce7\udc8b\udc97'" in err  # as argparse quotes it


WAITS = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
stub = types.ModuleType("lora2_core.commands.inspect")
stub.add_arguments = lambda parser: None
def run(options):
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
stub.run = run
import lora2_core.commands
sys.modules[stub.__name__] = stub
from lora2_core.__main__ import main
sys.exit(main(["inspect"]))
"""


def test_a_real_ctrl_c_ends_a_command_at_once():
    found = started([sys.executable, "-c", WAITS])
    assert found.stdout.readline() == b"ready\n"
    found.send_signal(signal.SIGINT)
    try:
        _, err = found.communicate(timeout=60)
    finally:
        found.kill()  # or the pipes of one that hangs would fail another test
    assert (found.returncode, err) == (130, b"interrupted; nothing was written\n")


def test_a_pipe_that_is_closed_while_a_command_explains_itself():
    found = started([sys.executable, "-m", "lora2_core", "--help"])
    found.stdout.close()
    err = found.stderr.read()
    found.stderr.close()
    assert (found.wait(), err) == (0, b"")
