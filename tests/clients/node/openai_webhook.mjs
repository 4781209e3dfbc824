// Verifies and parses a webhook with OpenAI's own library for Node, as its users do.
//
//   node openai_webhook.mjs WEBHOOK.json SECRET…
//
// The file has `headers` and `body`, as they were received.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [path, ...secrets] = process.argv.slice(2);
const { headers, body } = JSON.parse(readFileSync(path, "utf8"));
const client = new OpenAI({ apiKey: "not used" });
let event;
for (const secret of secrets) event = await client.webhooks.unwrap(body, headers, secret);
await assert.rejects(
  () => client.webhooks.unwrap(body.replace("completed", "cancelled"), headers, secrets[0]),
  OpenAI.InvalidWebhookSignatureError,
);
console.log(JSON.stringify({ type: event.type, id: event.id, data_id: event.data.id }));
