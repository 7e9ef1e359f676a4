"""The commands and examples of docs/deployment.md run as they are printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from rwkd_lightning.export import __main__ as export
from rwkd_lightning.export import hub
from rwkd_lightning.predict import __main__ as predict
from tests.export.test_export import Hub

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/deployment.md").read_text()
MAINS: dict[str, Callable[[list[str]], int]] = {"export": export.main, "predict": predict.main}


def test_the_page_is_true(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: an option that was renamed, a file that is not written, an example that no longer runs."""
    monkeypatch.chdir(tmp_path)
    copied.rename("RUN")
    Path("new.csv").write_text("id,text\n1,good\n")
    Path("pairs.jsonl").write_text('{"body": "bad"}\n')
    monkeypatch.setattr(hub, "client", Hub)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    ran = []
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"]:
            name = words[2].rpartition(".")[2]
            if name == "predict" and "--onnx" in words:  # after a --push without it
                assert export.main(["RUN", "--int8", "--force"]) == 0
            assert MAINS[name](words[3:]) == 0, capsys.readouterr().err
            ran.append(name)
    assert ran.count("export") == 3 and ran.count("predict") == 2
    listed = set(
        re.findall(r"`([\w.]+\.(?:safetensors|json|onnx|md))`", PAGE.split("## The folder")[1].split("\n\n")[1])
    )
    assert listed - {"topics.md"} <= {path.name for path in Path("DIR").iterdir()}
    assert parquet.read_table("answers.parquet").column_names[:3] == ["id", "text", "predicted_label"]
    assert list(json.loads(Path("DIR/comparison.json").read_text())["models"])[-1] == "ONNX int8"
    names: dict[str, np.ndarray] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(code, names)
    assert names["logits"].shape == (2, 3)
