"""`python -m training.generate_tasks`: writes, or checks, the JSONL files of the demo tasks.

One file per task and split, `<task>.<split>.jsonl`, one document a line: `text`, `choices` and `answer`. The same files
come out at every run; `--check` compares them with the files that lie there and writes nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from training.documents import TASKS, documents

__all__ = ["check", "files", "main", "packaged_data_path", "write"]


def packaged_data_path() -> Path:
    """Where the tasks' data lie: beside the harness YAML."""
    return Path(__file__).parents[1] / "tasks" / "demo" / "data"


def files() -> dict[str, str]:
    """File name -> its text, for every task and split."""
    return {
        f"{task}.{split}.jsonl": "".join(json.dumps(document._asdict()) + "\n" for document in split_documents)
        for task in TASKS
        for split, split_documents in documents(task).items()
    }


def check(output_path: Path) -> str | None:
    """What is wrong with the files in `output_path`, in one line; None if they are this generator's output."""
    expected = files()
    for name, text in expected.items():
        path = output_path / name
        if not path.is_file():
            return f"{path}: missing; write it with python -m training.generate_tasks"
        if path.read_text(encoding="utf-8") != text:
            return f"{path}: not what the generator writes; write it with python -m training.generate_tasks"
    unknown = sorted(path.name for path in output_path.glob("*.jsonl") if path.name not in expected)
    return f"{output_path / unknown[0]}: no task of the generator has this file; remove it" if unknown else None


def write(output_path: Path) -> list[Path]:
    """Write every file into `output_path`, which is made if need be; returns their paths."""
    output_path.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in files().items():
        path = output_path / name
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written


@click.command()
@click.option(
    "--output_path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the files; by default the packaged tasks' own.",
)
@click.option(
    "--check", "only_check", is_flag=True, help="Compare the files with what would be written; write nothing."
)
def main(output_path: Path | None, only_check: bool) -> None:
    """Write the documents of the demo tasks; with --check, exit with code 1 if they are not this program's output."""
    output_path = packaged_data_path() if output_path is None else output_path
    if not only_check:
        try:
            written = write(output_path)
        except OSError as error:
            click.echo(f"Error: {output_path}: cannot be written: {error.strerror}", err=True)
            sys.exit(2)
        click.echo(f"{len(written)} files in {output_path}")
        return
    fault = check(output_path)
    if fault:
        click.echo(fault, err=True)
        sys.exit(1)
    click.echo(f"{output_path}: as generated")


if __name__ == "__main__":
    main()
