"""Completion for shells: what the shell itself makes of the script, and help that a person can follow."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanocache.cli.main import COMMANDS, main
from tests.conftest import ROOT

# Each asks a shell what may follow `nanocache $1 $2`, a line each; $3 is the script.
ASK = {
    "bash": """
source "$3"
COMP_WORDS=(nanocache $1 "$2"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE="nanocache $1 $2"; COMP_POINT=${#COMP_LINE}
function=$(complete -p nanocache | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" nanocache "$2" "$1"
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "fish": """
source $argv[3]
complete -C"nanocache $argv[1] $argv[2]" | cut -f1
""",
}


@pytest.fixture(params=ASK)
def shell(request: pytest.FixtureRequest) -> str:
    if not shutil.which(request.param):
        pytest.skip(f"needs {request.param}")
    return str(request.param)


def script(shell: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    with pytest.raises(SystemExit) as e:
        main(["--print-completion", shell])
    assert e.value.code == 0
    (path := tmp_path / f"nanocache.{shell}").write_text(capfd.readouterr().out)
    return path


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [("", "doc", "doctor"), ("", "sna", "snapshot"), ("fetch", "--sh", "--sha256"), ("ls", "--j", "--json")],
)
def test_a_shell_offers_commands_and_options(
    shell: str, words: str, begun: str, offered: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = [shell, "-c", ASK[shell], *([shell] if shell == "bash" else []), words, begun]
    said = subprocess.check_output([*asked, script(shell, tmp_path, capfd)], text=True, cwd=tmp_path)
    assert offered in said.split()


@pytest.mark.parametrize("shell", ["zsh"])
def test_zsh_can_read_its_script(shell: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = script(shell, tmp_path, capfd)
    assert path.read_text().startswith("#compdef nanocache")
    if shutil.which(shell):
        subprocess.run([shell, "-n", path], check=True)


def test_without_shtab_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['shtab'] = None; from nanocache.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--print-completion", "bash"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "pip install 'nanocache[completion]'" in ended.stderr
    assert ended.stderr.count("\n") == 1


# --- help -------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    made = argparse.ArgumentParser().add_subparsers()
    for command in COMMANDS:
        command.add_to(made)
    yield from made.choices


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", ["", *commands()])
def test_help_has_an_example_and_fits_the_terminal(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main([*name.split(), "-h"])
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    examples = out.partition("\nexamples:\n")[2].splitlines()
    assert examples, "no example"
    assert f"nanocache {name}".strip() in examples[0]
