#!/bin/sh
# The whole loop on one machine, from measuring to measuring again: eval, critique, pairs, DPO and a reward model, eval.
# Takes a quarter of an hour on two cores with the default model (14 min 37 s when it was timed); run it where you want
# its files (loop/), for example
#   MODEL=local/smollm2-135m-instruct sh examples/loop.sh
set -eu

MODEL=${MODEL:-local/smollm2-135m-instruct}
EVALIGN=${EVALIGN:-evalign}
OUT=${OUT:-loop}
QUESTIONS=${QUESTIONS:-200} PROMPTS=${PROMPTS:-250} UPDATES=${UPDATES:-40}
TASK=one_step_arithmetic
mkdir -p "$OUT"

last_run() { "$EVALIGN" runs --limit 1 --json | sed -n 's/.*"run_id": "\(.*\)".*/\1/p'; }
step() { printf '\n== %s\n' "$*"; }

step "1. measure"
case $MODEL in local/smollm2-135m-instruct) "$EVALIGN" models pull smollm2-135m-instruct ;; esac
"$EVALIGN" eval $TASK samples --model "$MODEL" --chat-template --limit "$QUESTIONS"
before=$(last_run)

step "2. critique: answers, criticised and revised by principles; what a judge prefers becomes pairs"
cat > "$OUT/prompts.jsonl" <<'PROMPTS'
{"prompt": "How do I keep bread fresh for a week?"}
{"prompt": "Explain to a child why the sky is blue."}
{"prompt": "My neighbour's dog barks all night. What can I say to him?"}
{"prompt": "Which is heavier, a litre of oil or a litre of water, and why?"}
PROMPTS
"$EVALIGN" critique --prompts "$OUT/prompts.jsonl" --model "$MODEL" --rounds 1 --max-tokens 96 --out "$OUT/critique"

step "3. pairs: right against wrong answers to training questions (never those of the evaluation)"
"$EVALIGN" pairs build --task $TASK --model "$MODEL" --shots 4 --samples 8 --limit "$PROMPTS" --out "$OUT/pairs"
"$EVALIGN" pairs export last --format parquet --out "$OUT/pairs"
"$EVALIGN" pairs check "$OUT/pairs/train.jsonl"

step "4. train: DPO on the pairs, and a reward model on the same pairs as parquet"
"$EVALIGN" train dpo --model "$MODEL" --data "$OUT/pairs/train.jsonl" --eval-data "$OUT/pairs/held_out.jsonl" \
    --out "$OUT/tuned" --fresh --loss-type sigmoid,sft --loss-weights 1,0.2 \
    --learning-rate 5e-5 --batch-size 8 --max-steps "$UPDATES" --eval-steps 0.5 --samples 2
"$EVALIGN" train reward --model "$MODEL" --data "$OUT/pairs/train.parquet" --eval-data "$OUT/pairs/held_out.parquet" \
    --out "$OUT/rewards" --fresh --learning-rate 2e-4 --batch-size 8 --max-steps "$UPDATES" --eval-steps 0.5
"$EVALIGN" train score --model "$MODEL+adapter=$OUT/rewards" --data "$OUT/pairs/held_out.jsonl" --category strategy

step "5. measure again: the same questions, before and after, item by item"
"$EVALIGN" eval $TASK samples --model "$MODEL+adapter=$OUT/tuned" --chat-template --limit "$QUESTIONS"
after=$(last_run)
"$EVALIGN" compare "$before" "$after"
"$EVALIGN" leaderboard --task $TASK
