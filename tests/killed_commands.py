"""Commands killed in the middle, in children of one process that has imported everything.

python killed_commands.py compact CHECKPOINT MASK FOLDER: SIGKILL before each change of the file system, each time with
a folder of its own, until a child ends by itself; and in the middle of a shard.
python killed_commands.py demo FOLDER POINT... (or paper): SIGKILL before the changes of these numbers, all in one
folder; a line for each says how many files it left, and which are no whole ones. A last child ends by itself.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from click.testing import CliRunner

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import cli
from lm_eval_prune.compaction import checkpoint, shards
from lm_eval_prune.paper import page, study, terminal  # noqa: F401
from lm_eval_prune.report import leaderboard  # noqa: F401 (imported once, before the children)
from lm_eval_prune.sweep import demo

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
OF_PAPER = [
    "--tasks",
    "demo_facts,demo_recall",
    "--num_fewshot",
    "0",
    "--importance_limit",
    "2",
    "--num_sequences",
    "2",
]
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.truncate"}


def child(work: Callable[[], object], folder: Path, point: int | None) -> int:
    """The exit code of a child that does `work` and is killed before its change number `point` below `folder`."""
    if not (pid := os.fork()):
        changes = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal changes
            path = arguments[0] if arguments else None
            opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
            if (opened or event in CHANGES) and isinstance(path, str | bytes | os.PathLike):
                changes += os.fsdecode(path).startswith(str(folder))
                if changes == point:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_compactions(source: str, mask: str, folder: Path) -> None:
    def compacted(output_path: Path) -> Callable[[], object]:
        return lambda: checkpoint.compact_checkpoint(source, PruningMask.load(mask), output_path, max_shard_size="9KB")

    def half(tensors: object, path: Path, **settings: object) -> None:
        path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
        os.kill(os.getpid(), signal.SIGKILL)

    point, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        point += 1
        (folder / f"{point}").mkdir()
        code = child(compacted(folder / f"{point}" / "out"), folder / f"{point}", point)
    assert code == 0
    (folder / "shard").mkdir()
    shards.save_file = half
    assert child(compacted(folder / "shard" / "out"), folder / "shard", None) == -signal.SIGKILL


def killed_studies(arguments: list[str], folder: Path, points: list[int]) -> None:
    # The same studies, smaller.
    demo.GRIDS = ({"ranking": (demo.RANKING,), "prune_heads": ("0", "0.5")},)
    study.GRIDS = ({"ranking": ("own",), "prune_heads": ("0.5",)}, {"ranking": ("own",), "prune_ffns": ("0.2",)})

    def work() -> None:
        found = CliRunner().invoke(cli, [*arguments, "--limit", "2", "--output_path", str(folder)])
        if found.exception:
            raise found.exception

    for point in points:
        code = child(work, folder, point)
        files = [
            path
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".lock"
        ]
        broken = [str(path) for path in files if not whole(path)]
        print(json.dumps({"code": code, "files": len(files), "broken": broken}))
    assert child(work, folder, None) == 0


def whole(path: Path) -> bool:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data).endswith(b"\n")
    if path.suffix == ".parquet":
        return data.endswith(b"PAR1")
    if path.suffix == ".html":
        return data.rstrip().endswith(b"</html>")
    if path.suffix == ".json":
        try:
            return isinstance(json.loads(data), dict)
        except ValueError:
            return False
    return data.endswith(b"\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, *given = sys.argv[1:]
    if command == "compact":
        killed_compactions(given[0], given[1], Path(given[2]))
    else:
        killed_studies([command, *OF_PAPER * (command == "paper")], Path(given[0]), [int(point) for point in given[1:]])
