// Publishes one request as a CloudEvent and prints its outcome: KafkaJS, nothing of Millrace.
//
//   npm install kafkajs
//   node publish.mjs 127.0.0.1:9092 acme.requests acme.json.outcomes "Say hello"
//
// KAFKA_USERNAME and KAFKA_PASSWORD, where they are set, are for SASL (SCRAM-SHA-256). The first topic must be
// bound to a tenant ([topic_bindings]); the second one of its reply_topics and json_reply_topics.

import { randomUUID } from 'node:crypto'
import kafkajs from 'kafkajs'

const [bootstrap, requests, replies, prompt] = process.argv.slice(2)
if (!prompt) {
  console.error('usage: publish.mjs BOOTSTRAP REQUEST_TOPIC REPLY_TOPIC PROMPT')
  process.exit(2)
}
const { KAFKA_USERNAME: username, KAFKA_PASSWORD: password } = process.env
const kafka = new kafkajs.Kafka({
  brokers: bootstrap.split(','),
  logLevel: kafkajs.logLevel.ERROR,
  ...(username && { sasl: { mechanism: 'scram-sha-256', username, password } }),
})

const id = randomUUID()
const source = '/examples/node'
const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
await producer.connect()
await producer.send({
  topic: requests,
  messages: [{
    value: JSON.stringify({ model: 'sim-small', messages: [{ role: 'user', content: prompt }] }),
    headers: {
      'content-type': 'application/json',
      ce_specversion: '1.0',
      ce_id: id,
      ce_source: source,
      ce_type: 'com.example.asked',
      ce_replytopic: replies,
      ce_labels: '{"origin":"node"}',
    },
  }],
})
await producer.disconnect()

// Source and id are the request's key. The first record with it is the outcome; copies of it may follow
// after a crash.
const key = `${source} ${id}`
const late = setTimeout(() => {
  console.error('no outcome within 60 s')
  process.exit(1)
}, 60_000)
const consumer = kafka.consumer({ groupId: `${replies}-node` })
await consumer.connect()
await consumer.subscribe({ topic: replies, fromBeginning: true })
const outcome = await new Promise((resolve) => {
  consumer.run({
    autoCommit: false,
    eachMessage: async ({ message }) => {
      if (message.headers['idempotency-key']?.toString() === key) resolve(message.value.toString())
    },
  })
})
clearTimeout(late)
console.log(outcome)
await consumer.disconnect()
