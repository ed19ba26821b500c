"""A task in a sweep, and in `importance`, is the task that `lm_eval` runs: shots, examples, documents, descriptions."""

import json

import pytest
from lm_eval.tasks import TaskManager
from small_sweep import settings

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness import tasks as harness_tasks
from lm_eval_prune.harness.tasks import Member, Seeds, load_tasks, members_of, seeded, task_metadata
from lm_eval_prune.sweep.run import run_sweep
from lm_eval_prune.sweep.tasks import planned_tasks

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}}}
training_split: train
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{gold}}}}"
doc_to_choice: "{{{{choices}}}}"
"""
FILES = {
    "group_fixes_shots": "group: group_fixes_shots\ntask: [plain]\nnum_fewshot: 3\n",
    "member_is_a_mapping": "group: member_is_a_mapping\ntask: [{task: plain, num_fewshot: 2, description: 'Say. '}]\n",
    "nested": "group: nested\ntask: [group_fixes_shots, fixed]\n",
    "inner_with_changes": "group: inner_with_changes\ntask: [{group: group_fixes_shots, num_fewshot: 1}]\n",
    "tag_in_a_group": "group: tag_in_a_group\ntask: [tagged]\nnum_fewshot: 2\n",
    "other_examples": "group: other_examples\ntask:\n  - task: plain\n    num_fewshot: 2\n"
    "    fewshot_delimiter: ' / '\n"
    "    fewshot_config: {sampler: first_n, doc_to_target: '{{choices[1 - gold]}}'}\n",
    "defined_within": "group: defined_within\ntask:\n  - task: inline\n    num_fewshot: 1\n"
    + "".join(f"    {line}\n" for line in TASK.format(name="", folder="@").replace("{{{{", "{{").splitlines()[1:]),
}
SHOTS = {
    "group_fixes_shots": {"plain": 3},
    "member_is_a_mapping": {"plain": 2},
    "nested": {"plain": 3, "fixed": 2},
    "inner_with_changes": {"plain": 1},
    "tag_in_a_group": {"first": 2, "second": 2},
    "tagged": {"first": 0, "second": 0},
    "other_examples": {"plain": 2},
    "defined_within": {"defined_within::inline": 1},
    "fixed": {"fixed": 2},
    "pla*": {"plain": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"q": f"color {number}", "choices": ["red", "blue"], "gold": number % 2} for number in range(12)]
    for name, part in (("train", rows[:8]), ("test", rows[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    extra = {"plain": "", "fixed": "num_fewshot: 2\n", "first": "tag: tagged\n", "second": "tag: tagged\n"}
    for name, more in extra.items():
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, folder=folder) + more)
    for name, text in FILES.items():
        (folder / f"{name}.yaml").write_text(text.replace("@", str(folder)))
    (folder / "utils.py").write_text(
        "import datasets, random\n"
        "def docs(size=2, tokenizer=None, pretrained=None, **kw):\n"
        "    texts = [f'{pretrained} {tokenizer} {random.random()}' for _ in range(size)]\n"
        "    rows = [{'q': text, 'choices': ['a', 'b'], 'gold': 0} for text in texts]\n"
        "    made = datasets.Dataset.from_list(rows)\n"
        "    return datasets.DatasetDict({'train': made, 'test': made})\n"
    )
    (folder / "handed.yaml").write_text(
        "task: handed\ncustom_dataset: !function utils.docs\ntraining_split: train\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_target: gold\ndoc_to_choice: choices\n"
    )
    return folder


def prompts(task, shots):
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    task.build_all_requests(rank=0, world_size=1)
    return [instance.args for instance in task.instances]


@pytest.mark.parametrize("asked", SHOTS)
def test_a_task_of_a_sweep_has_the_harness_s_shots_and_prompts(folder, tmp_path, asked):
    grid = {"tasks": [asked], "num_fewshot": None, "include_path": str(folder)}
    planned = planned_tasks(settings(tmp_path, **grid))
    assert [task.error for task in planned] == [None] * len(planned)
    assert {task.name: task.num_fewshot for task in planned} == SHOTS[asked]
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    theirs = manager.load(manager.match_tasks([asked]))["tasks"]
    for task in planned:
        (ours,) = load_tasks([task.member], str(folder), False).values()
        assert prompts(ours, task.num_fewshot) == prompts(theirs[task.name], SHOTS[asked][task.name])


def test_shots_that_are_asked_for_win_over_a_group_s(folder, tmp_path):
    grid = {"tasks": ["nested"], "num_fewshot": "0,1", "include_path": str(folder)}
    planned = planned_tasks(settings(tmp_path, **grid))
    assert sorted((task.name, task.num_fewshot) for task in planned) == [
        ("fixed", 0), ("fixed", 1), ("plain", 0), ("plain", 1),
    ]  # fmt: skip


def test_two_groups_may_share_a_task_unless_they_define_it_differently(folder, tmp_path):
    grid = {"num_fewshot": None, "include_path": str(folder)}
    planned = planned_tasks(settings(tmp_path, tasks=["plain", "group_fixes_shots", "nested"], **grid))
    assert [(task.name, task.num_fewshot) for task in planned] == [("plain", 0), ("plain", 3), ("fixed", 2)]
    with pytest.raises(ArgumentError, match="task plain: member_is_a_mapping and other_examples define it differently"):
        planned_tasks(settings(tmp_path, tasks=["member_is_a_mapping", "other_examples"], **grid))


def test_only_the_member_that_is_wanted_is_loaded(folder, monkeypatch):
    built = []
    original = harness_tasks.TaskFactory._build_task
    monkeypatch.setattr(
        harness_tasks.TaskFactory,
        "_build_task",
        lambda self, entry, overrides: built.append(entry.name) or original(self, entry, overrides),
    )
    assert members_of("nested", str(folder), False) == [Member("nested", "plain"), Member("nested", "fixed")]
    assert built == []
    assert list(load_tasks([Member("nested", "fixed")], str(folder), False)) == ["fixed"]
    assert built == ["fixed"]


def test_functions_are_handed_the_model_s_arguments_and_metadata_over_them(folder):
    model_args = "pretrained=org/model,tokenizer=own,size=5"
    metadata = task_metadata(model_args, {"size": 3})
    ours = load_tasks(["handed"], str(folder), False, metadata)["handed"]
    with seeded(Seeds()):
        theirs = TaskManager(
            include_defaults=False,
            include_path=str(folder),
            metadata={"pretrained": "org/model", "tokenizer": "own", "size": 3},
        ).load(["handed"])["tasks"]["handed"]
    assert list(ours.eval_docs) == list(theirs.eval_docs)
    assert len(ours.eval_docs) == 3
    assert ours.eval_docs[0]["q"].startswith("org/model own 0.")


def test_documents_that_are_drawn_are_those_of_the_seeds_and_draws_outside_go_on(folder):
    def first(seed):
        with seeded(Seeds(python=seed)):
            return load_tasks(["handed"], str(folder), False)["handed"].eval_docs[0]["q"]

    state = harness_tasks.random.getstate()
    assert first(0) == first(0) != first(1)
    assert first(0) == load_tasks(["handed"], str(folder), False)["handed"].eval_docs[0]["q"]
    assert harness_tasks.random.getstate() == state


@pytest.mark.slow
def test_a_sweep_over_groups_and_metadata_ends_in_the_harness_s_own_files(folder, tmp_path):
    grid = {"tasks": ["nested", "defined_within", "handed"], "num_fewshot": None, "include_path": str(folder)}
    config = settings(tmp_path / "sweep", ranking=["own", "aggregate"], metadata={"size": 6}, **grid)
    sweep = run_sweep(config, progress=False)
    assert sweep.failed == []
    frame = sweep.to_frame()
    shots = dict(zip(frame.task, frame.num_fewshot, strict=True))
    assert shots == {"plain": 3, "fixed": 2, "defined_within::inline": 1, "handed": 0}
    cell = frame[frame.task == "handed"].cell.iloc[0]
    assert len({sample["doc_id"] for sample in sweep.samples(cell)}) == 6
