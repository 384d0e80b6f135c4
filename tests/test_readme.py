"""What the README says runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from attached_models import bert

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = bert()
    model.config.num_labels = 2
    model.save_pretrained("my-model")
    torch.manual_seed(0)
    data = [{"input_ids": torch.randint(0, 50, (7,)), "labels": i % 2} for i in range(8)]
    small = BLOCKS[0].replace("d=5760", "d=60")  # the model here has 1,024 entries to fill
    assert small != BLOCKS[0] and len(BLOCKS) == 3
    for block in (small, *BLOCKS[1:]):
        exec(compile(block, "README.md", "exec"), {"data": data})  # noqa: S102  our own text
    assert "bert.encoder.layer.1.attention.self.value.weight (32, 32)" in capsys.readouterr().out
    assert (tmp_path / "net.onnx").stat().st_size > 0
