# The first ten minutes of somebody who knows lm_eval: the command that is at hand, with a mask.
set -eu
cat > mask.json <<'MASK'
{"format": "lm-eval-prune-mask", "version": 1, "num_hidden_layers": 6, "num_attention_heads": 6,
 "pruned_heads": {"0": "all", "3": [1, 2]}, "pruned_ffns": [5]}
MASK
evaluate() { # NAME COMMAND...
    name=$1; shift
    "$@" --tasks demo_recall --num_fewshot 5 --limit 16 --batch_size 8 --device cpu --log_samples \
        --output_path "results/$name" > "$name.log" 2>&1 || { cat "$name.log"; exit 1; }
    grep -q '|demo_recall' "$name.log"
}
evaluate pruned lm_eval --model pruned-hf --model_args mask=mask.json
lm-eval-prune compact --mask mask.json --output_path smaller > compact.log 2>&1 || { cat compact.log; exit 1; }
evaluate smaller lm_eval --model hf --model_args pretrained=smaller
evaluate dense lm-eval-prune run

# Both ways of pruning found the same; the leaderboard compares them with the dense model.
accuracy() { grep -h -o '"acc,none": [0-9.]*' results/"$1"/*/results_*.json results/"$1"/results_*.json 2>/dev/null; }
test "$(accuracy pruned)" = "$(accuracy smaller)"
test "$(accuracy pruned)" != "$(accuracy dense)"
lm-eval-prune leaderboard results/dense results/pruned --output_path board | tee board.txt
grep -q dense board.txt
