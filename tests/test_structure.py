"""The promises of the layout: what is public, what imports what, and how fast the command answers."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lm_eval_prune
import lm_eval_prune.cli

PACKAGE = Path(lm_eval_prune.__file__).parent
LAYERS = [
    ["errors", "version", "after_import", "text", "model_names"],
    [
        "file_names",
        "strict_json",
        "json_lines",
        "locks",
        "files",
        "strict_yaml",
        "folders",
        "fractions",
        "limits",
        "budget",
        "units",
        "splits",
        "variants",
        "questions",
        "scores",
        "metric_names",
        "progress",
    ],
    ["model_args", "identity"],
    ["components", "masks", "mask_files", "foreign_masks", "means"],
    ["decoders"],
    ["demo"],
    ["random_opt"],
    ["ablation"],
    ["compaction"],
    ["scoring"],
    ["importance"],
    ["sequences"],
    ["induction"],
    ["agreement", "analysis", "intervals", "sequential", "unit_intervals", "sum_intervals"],
    ["ranked_masks"],
    ["selection"],
    ["packaged_models"],
    ["abilities", "families"],
    ["harness"],
    ["sweep"],
    ["costs"],
    ["report"],
    ["paper", "search"],
    ["cli", "tasks"],
]
"""Each may import only from the lists before it, and from its own."""


def test_public_names_are_those_that_can_be_imported():
    for name in lm_eval_prune.__all__:
        assert getattr(lm_eval_prune, name) is not None
    assert sorted(lm_eval_prune.__all__, key=str.lower) == sorted(lm_eval_prune._HOMES, key=str.lower)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = lm_eval_prune.absent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lm_eval_prune"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def test_modules_import_only_what_lies_above_them():
    rank = {name: number for number, names in enumerate(LAYERS) for name in names}
    files = [path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py", "startup.py")]
    files += list((PACKAGE / "decoders").glob("__init__.py"))
    assert len(files) > 10
    for path in files:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert own in rank, f"{path}: not in LAYERS"
        for name in imported(path):
            assert rank.get(name, -1) <= rank[own], f"{path} imports lm_eval_prune.{name}"


def test_only_the_decoders_import_model_classes_and_only_the_harness_touches_lm_eval():
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0]
        text = path.read_text(encoding="utf-8")
        if own != "harness":
            assert "import lm_eval\n" not in text, path
            assert "from lm_eval." not in text, path


def test_help_answers_without_heavy_imports():
    code = (
        "import sys; sys.argv = ['lm-eval-prune', '--help']\n"
        "from lm_eval_prune.cli.main import cli\n"
        "try: cli()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "doctor" in found.stdout
    assert found.stdout.strip().endswith("[]")


NAMES_OF_OURS = r"pruned-opt|PrunedOPT\b|random_opt|save_random_opt|opt_config|opt_settings|docs/opt-66b"
CHECKPOINTS = r"(facebook/)?(sweep-)?opt-[\w.]+"
"""Examples in help and docstrings, and the study's own model."""
OF_ONE_FAMILY = r"\bOPT|\bopt\b|\bffn_dim\b|word_embed_proj_dim|do_layer_norm_before|\bPrunedOPT"


def test_no_family_is_named_outside_the_decoders():
    """But in the names of our own: the harness model `pruned-opt`, and the script for random checkpoints."""
    from lm_eval_prune.decoders.table import PROVEN

    names = [name for name in PROVEN if "opt" not in name]
    assert len(names) > 8
    found = {}
    for path in [*PACKAGE.rglob("*.py"), *Path(lm_eval_prune.cli.__path__[0]).rglob("*.py")]:
        if "decoders" not in path.parts and path.name != "random_opt.py":
            text = re.sub(f"{NAMES_OF_OURS}|{CHECKPOINTS}", "", path.read_text(encoding="utf-8"))
            named = [name for name in names if name in text.lower()] + re.findall(OF_ONE_FAMILY, text)
            found |= {str(path): named} if named else {}
    assert not found


def test_our_models_names_stand_in_one_place():
    for path in PACKAGE.rglob("*.py"):
        strings = (node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if _is_text(node))
        if path.name != "model_names.py":
            assert not {"pruned-opt", "pruned-hf"} & set(strings), path


def _is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_wheels_hold_every_folder_of_the_package():
    root = Path(__file__).parents[1]
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(text.split("\npackages = ")[1].split("]")[0] + "]")
    files = [file for folder in ("lm_eval_prune", "cli", "tasks") for file in (root / folder).rglob("__init__.py")]
    names = [".".join(file.parent.relative_to(root).parts) for file in files]
    assert sorted(listed) == sorted(n if n.startswith("lm_eval_prune") else f"lm_eval_prune.{n}" for n in names)
