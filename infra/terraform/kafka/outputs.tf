output "topics" {
  description = "The topics as they are called on the broker, by their name in topics.json."
  value       = { for name, topic in kafka_topic.this : name => topic.name }
}

output "groups" {
  description = "Consumer groups to start at offset 0, by topic; Terraform cannot commit offsets, `millrace topics apply` does."
  value = {
    for topic in local.topics.topics :
    kafka_topic.this[topic.name].name => [for group in topic.groups : "${var.group_prefix}${group}"]
    if length(topic.groups) > 0
  }
}
