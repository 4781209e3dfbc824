// Asks for responses with OpenAI's own library for Node, unmodified: only the base URL is ours.
//
//   node openai_responses.mjs BASE_URL KEY "words of a prompt that breaks"
//
// Fails with the first thing that is not as the library's users know it from OpenAI.

import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey, broken] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const model = "sim-small";

const whole = await client.responses.create({ model, input: "Describe the snow" });
assert.equal(whole.status, "completed");
const stream = client.responses.stream({ model, input: "Describe the snow" });
let text = "";
stream.on("response.output_text.delta", (event) => (text += event.delta));
const final = await stream.finalResponse();
assert.equal(final.output_text, whole.output_text);
assert.equal(text, whole.output_text);

const next = await client.responses.create({ model, input: "And the ice?", previous_response_id: whole.id });
assert.ok(next.usage.input_tokens > whole.usage.input_tokens);

let later = await client.responses.create({ model, input: "Later", background: true });
assert.equal(later.status, "queued");
while (["queued", "in_progress"].includes(later.status)) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  later = await client.responses.retrieve(later.id);
}
assert.equal(later.status, "completed");

// An answer that was begun anew after a part of it was seen is none: the library raises it.
let seen = "";
await assert.rejects(
  async () => {
    for await (const event of await client.responses.create({ model, input: broken, stream: true })) {
      if (event.type === "response.output_text.delta") seen += event.delta;
      assert.notEqual(event.type, "response.completed");
    }
  },
  (error) => error instanceof OpenAI.APIError && error.code === "stream_interrupted",
);
assert.notEqual(seen, "");
console.log("as OpenAI does");
