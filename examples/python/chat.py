"""Asks a served model with OpenAI's client: pip install openai. EVALIGN_URL and EVALIGN_KEY say where and who."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("EVALIGN_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ["EVALIGN_KEY"],
)
model = os.environ.get("EVALIGN_MODEL") or client.models.list().data[0].id

answer = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Name three colours."}],
    max_tokens=40,
    temperature=0,
)
print(answer.choices[0].message.content)

for chunk in client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Count to five."}],
    max_tokens=40,
    temperature=0,
    stream=True,
):
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="")
print()
