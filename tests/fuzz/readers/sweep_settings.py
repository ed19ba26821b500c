"""The YAML settings of a sweep, for `sweep --config` and `plan --config`."""

from __future__ import annotations

from pathlib import Path

from lm_eval_prune.sweep.config import load_configs
from lm_eval_prune.sweep.ranking import parse_ranking
from tests.fuzz.readers import Target

GOOD = [
    b"""model_args: pretrained=facebook/opt-125m,dtype=float32
tasks: [piqa, copa]
num_fewshot: [0, 5]
prune_heads: [0, 0.1, "0.50"]
prune_ffns: [0]
ranking: [own, aggregate, "random:0+1", "most:task:piqa", a.json+b.json]
fewshot_seeds: [1234]
output_path: out
""",
    b"""model_args: {pretrained: x, max_length: 64}
tasks: icl14_5shot   # a comment
ranking:
  - own
limit: 0.5
seed: 7
output_path: &out out
""",
    b"""tasks: [piqa, copa]
output_path: out
grids:
  - {ranking: [own, "task:closest"], prune_heads: [0.1, 0.2]}
  - {prune_ffns: 0.5}
""",
]


def prepare(folder: Path) -> Target:
    return Target(GOOD, read, "text")


def read(data: bytes, own: Path) -> None:
    path = own / "sweep.yaml"
    path.write_bytes(data)
    for config in load_configs(path):
        config.grid()
        for text in config.ranking:
            parse_ranking(text)
