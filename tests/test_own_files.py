"""Nothing is replaced that does not say that it is ours, whatever the command is told."""

import pytest
import torch
from click.testing import CliRunner

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.importance.files import ImportanceScores

MASK = PruningMask(num_hidden_layers=2, num_attention_heads=2, pruned_heads={0: (1,)})
SCORES = ImportanceScores.from_tensor(
    torch.tensor([[1.0, 2.0], [3.0, 4.0]]), num_attention_heads=2, settings={"method": "gradient"}
)
OTHERS = {
    "settings of another program": '{"my": "settings"}',
    "another project's mask": '{"0": [1, 3]}',
    "notes": "the name lm-eval-prune alone says nothing\n",
    "text of no encoding": "\udc80\udcff",
    "our name, but deep inside": '{"x": "' + "-" * 2000 + '"lm-eval-prune-mask"',
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("what", [MASK, SCORES], ids=["mask", "importance"])
def test_another_program_s_file_is_kept(what, text, tmp_path):
    path = tmp_path / "file.json"
    data = text.encode(errors="surrogateescape")
    path.write_bytes(data)
    with pytest.raises(ArgumentError, match=r"file\.json: is there and is no file of lm-eval-prune; .* another name"):
        what.save(path)
    assert path.read_bytes() == data
    assert [each.name for each in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("what", [MASK, SCORES], ids=["mask", "importance"])
def test_our_own_file_is_replaced_even_where_it_was_cut_off(what, share, tmp_path):
    path = tmp_path / "file.json"
    what.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    what.save(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("command", ["importance", "induction"])
def test_overwrite_is_refused_before_a_model_is_loaded(command, tmp_path, monkeypatch):
    import transformers

    loaded = []
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: loaded.append(a))
    names = {"importance": "heads-random.json", "induction": "prefix-matching.json"}
    path = tmp_path / names[command]
    path.write_text('{"mine": 1}')
    arguments = [command, "--output_path", str(tmp_path), "--overwrite"]
    if command == "importance":
        arguments += ["--method", "random"]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, ArgumentError), result.output
    assert "is no file of lm-eval-prune" in str(result.exception)
    assert (path.read_text(), loaded) == ('{"mine": 1}', [])
