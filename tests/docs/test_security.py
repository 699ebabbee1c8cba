"""What SECURITY.md promises of the source as a whole."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT

from wan_alpha.training.provenance import describe_environment

SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py"), *ROOT.glob("*.py")])
FORBIDDEN = {"pickle.load", "pickle.loads", "eval", "os.system", "yaml.load", "yaml.unsafe_load", "dill.load"}


def dangers(source: str) -> Iterator[str]:
    """Calls that would run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if name in FORBIDDEN:
            yield name
        if name == "torch.load" and options.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if options.get("trust_remote_code", "False") != "False" or options.get("allow_pickle", "False") != "False":
            yield f"{name} with code from elsewhere"
        if options.get("shell", "False") != "False":
            yield f"{name} through a shell"
        if name.endswith(".extractall") and options.get("filter") is None:
            yield "extractall without a filter"


def test_nothing_runs_what_a_file_holds() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}" for path in SOURCES for what in dangers(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "pickle.load(f)",
     "M.from_pretrained(d, trust_remote_code=True)",
     "np.load(f, allow_pickle=True)", "subprocess.run(c, shell=True)", "tar.extractall(d)"],
)  # fmt: skip
def test_dangers_are_seen(source: str) -> None:
    assert list(dangers(source))


def test_the_record_of_a_run_holds_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "USER", "HOSTNAME"):
        monkeypatch.setenv(name, f"secret-{name}")
    assert "secret-" not in json.dumps(describe_environment())


def test_pages_listen_on_this_machine_only() -> None:
    assert '"--host", default="127.0.0.1"' in (ROOT / "src/wan_alpha/demo/__main__.py").read_text()
    for path in SOURCES:
        assert "0.0.0.0" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("answer", [None, "{}", "not JSON"])
def test_an_audit_without_its_service_says_so_and_does_not_fail(answer: str | None, tmp_path: Path) -> None:
    """None: nobody answers.  A mirror of the package index answers, but knows of no weaknesses."""
    file = tmp_path / "answer"
    if answer is not None:
        file.write_text(answer)
    finished = subprocess.run(
        [ROOT / ".ci" / "audit", file.as_uri()],
        capture_output=True, text=True, timeout=120, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "NOT compared" in finished.stdout
