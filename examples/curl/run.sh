#!/usr/bin/env bash
# Starts a run with curl and watches it to its end. EVALIGN_URL and EVALIGN_KEY say where and who.
set -euo pipefail

url=${EVALIGN_URL:-http://127.0.0.1:8080}
auth=(--header "authorization: Bearer ${EVALIGN_KEY:?set EVALIGN_KEY}")
model=${EVALIGN_MODEL:-smollm2}

run=$(curl --fail-with-body --silent "${auth[@]}" --header 'content-type: application/json' \
    --header "idempotency-key: example-$model" \
    --data "{\"model\": \"$model\", \"tasks\": [\"samples_knowledge\"], \"limit\": 5}" "$url/v1/runs" |
    sed 's/.*"id":"\([^"]*\)".*/\1/')
echo "$run"
# The stream ends with the run.
curl --fail-with-body --silent --no-buffer "${auth[@]}" "$url/v1/runs/$run/events" | sed -n 's/^event: //p'
curl --fail-with-body --silent "${auth[@]}" "$url/v1/runs/$run/results"
