output "topics" {
  description = "The topics as they are called on the broker, by their name in topics.json."
  value       = { for name, topic in kafka_topic.this : name => topic.name }
}

output "groups" {
  description = "Consumer groups to start at offset 0, by topic; Terraform cannot commit offsets, `millrace topics apply` does."
  value = merge([
    for topic in local.topics.topics : {
      for name in local.names[topic.name] :
      kafka_topic.this[name].name => [
        for group in topic.groups : "${var.group_prefix}${group}${trimprefix(name, topic.name)}"
      ]
    } if length(topic.groups) > 0
  ]...)
}
