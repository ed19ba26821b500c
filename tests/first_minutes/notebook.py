"""The first ten minutes of somebody with a notebook: a model of one's own, masks, scores, a table, a comparison."""

from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_prune import PruningMask, bundled_model_path, compare, evaluate, importance_scores, masked, random_mask

model = AutoModelForCausalLM.from_pretrained(bundled_model_path())
tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())

inputs = tokenizer("kab blue\ntev red\nkab", return_tensors="pt")
before = model(**inputs).logits
with masked(model, PruningMask.dense(6, 6).prune_head(1, 0)):
    assert not model(**inputs).logits.equal(before)
assert model(**inputs).logits.equal(before)

scores = importance_scores(model, tasks=["demo_recall"], num_fewshot=5, limit=12)
masks = {
    "dense": None,
    "half": PruningMask.from_importance(head_scores=scores, head_fraction=0.5),
    "random half": random_mask(6, 6, prune_heads=0.5, seed=1),
}
frame = evaluate(model, masks, ["demo_recall"], num_fewshot=5, limit=24, output_path="results")
print(frame.to_string())
accuracy = frame.set_index("mask").acc
assert accuracy["dense"] == accuracy["half"] == 1.0
assert accuracy["random half"] < 1.0

board = compare("results")
print(board)
half = board.cells[board.cells.ranking == "half"].iloc[0]
assert (half.difference, half.difference_paired) == (0, 24)

again = evaluate(str(bundled_model_path()), masks["half"], "demo_recall", num_fewshot=5, limit=24, tokenizer=tokenizer)
assert list(again.acc) == [1.0]
