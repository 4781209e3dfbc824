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

resource "kafka_topic" "this" {
  for_each = { for topic in local.topics.topics : topic.name => topic }

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
