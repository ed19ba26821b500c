# The first ten minutes of somebody with several GPUs (here: processors): a ready grid, two processes on one folder, what
# a stopped process leaves, and the comparison.
set -eu
grid() {
    lm-eval-prune sweep --config bundled --tasks demo_recall --num_fewshot 0,5 --prune_heads 0,0.5,0.9 --prune_ffns 0 \
        --limit 8 --importance_limit 8 --device cpu --output_path sweep "$@"
}
lm-eval-prune plan 125m --devices cpu:16GB --config bundled --tasks piqa > plan.txt
grep -q parameters plan.txt

grid > one.log 2>&1 &
first=$!
grid > two.log 2>&1 &
second=$!
wait $first || { cat one.log; exit 1; }
wait $second || { cat two.log; exit 1; }
lm-eval-prune sweep status sweep | tee status.txt
grep -q '10 cells done, 0 running, 0 missing, 0 failed' status.txt

# A cell that is lost is computed again, and no other.
rm "$(find sweep/cells -name '*.json' | sort | head -n 1)"
grid > three.log 2>&1
test "$(grep -c 'on demo_recall' three.log)" = 1
lm-eval-prune sweep export sweep --output_path cells.csv
grep -q ',acc,' cells.csv

lm-eval-prune leaderboard sweep --output_path board --figures svg
test -s board/leaderboard.html
ls board/figures/*.svg
