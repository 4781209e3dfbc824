locals {
  data_dir = coalesce(var.data_dir, "${path.module}/../../kafka")
  topics   = jsondecode(file("${local.data_dir}/topics.json"))

  replication_factor = coalesce(var.replication_factor, local.topics.defaults.replication_factor)

  # With as many in-sync replicas required as there are, the loss of one broker would stop writes.
  min_insync_replicas = min(
    tonumber(local.topics.defaults.configs["min.insync.replicas"]),
    max(1, local.replication_factor - 1),
  )
}

locals {
  # Each topic under its name on the broker, without prefix: as often as there are generations, where it
  # has any. Generation 1 of `calls` is `calls.g1`.
  every_topic = merge(concat(
    [for generation, partitions in var.generations : {
      for topic in local.topics.topics :
      "${topic.name}${generation == "0" ? "" : ".g${generation}"}" => merge(topic, {
        partitions = coalesce(partitions, topic.partitions)
      })
      if try(topic.generations, false)
    }],
    [{ for topic in local.topics.topics : topic.name => topic if !try(topic.generations, false) }],
  )...)

  # The names that a topic of the data has.
  names = {
    for topic in local.topics.topics : topic.name => try(topic.generations, false) ? [
      for generation in keys(var.generations) : "${topic.name}${generation == "0" ? "" : ".g${generation}"}"
    ] : [topic.name]
  }
}

resource "kafka_topic" "this" {
  for_each = local.every_topic

  name               = "${var.topic_prefix}${each.key}"
  partitions         = each.value.partitions
  replication_factor = local.replication_factor

  config = merge(
    local.topics.defaults.configs,
    { "min.insync.replicas" = tostring(local.min_insync_replicas) },
    each.value.configs,
  )

  # A topic holds requests, answers or money. Whoever means to delete one does it by hand.
  lifecycle {
    prevent_destroy = true
  }
}
