// Streams answers with OpenAI's own library for Node, unmodified: only the base URL is ours.
//
//   node openai_stream.mjs BASE_URL KEY "words of a prompt that breaks"
//
// Fails with the first thing that is not as the library's users know it from OpenAI.

import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey, broken] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const model = "sim-small";
const ask = (content) => [{ role: "user", content }];

async function streamed(content, fields = {}) {
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ model, stream: true, messages: ask(content), ...fields })) {
    chunks.push(chunk);
  }
  return chunks;
}

const textOf = (chunks) => chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.delta.content ?? "").join("");

const whole = await client.chat.completions.create({ model, messages: ask("Describe the rain") });
const chunks = await streamed("Describe the rain");
assert.equal(textOf(chunks), whole.choices[0].message.content);
assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");

const counted = await streamed("Count me again", { stream_options: { include_usage: true } });
assert.deepEqual(counted.at(-1).choices, []);
assert.ok(counted.at(-1).usage.total_tokens > 0);

const runner = client.chat.completions.stream({ model, messages: ask("Describe the rain") });
assert.equal((await runner.finalChatCompletion()).choices[0].message.content, whole.choices[0].message.content);

await assert.rejects(streamed("Hello", { model: "no-such-model" }), (error) => error instanceof OpenAI.NotFoundError);

let seen = "";
await assert.rejects(
  async () => {
    for await (const chunk of await client.chat.completions.create({ model, stream: true, messages: ask(broken) })) {
      seen += chunk.choices[0].delta.content ?? "";
    }
  },
  (error) => error instanceof OpenAI.APIError && error.code === "stream_interrupted",
);
assert.notEqual(seen, "");
console.log("as OpenAI does");
