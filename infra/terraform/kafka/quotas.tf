locals {
  quotas = jsondecode(file("${local.data_dir}/quotas.json")).quotas
}

resource "kafka_quota" "this" {
  for_each = { for quota in local.quotas : quota.user => quota if var.quotas }

  entity_type = "user"
  # Without a name it is the quota of every user that has none of its own.
  entity_name = each.key == "<default>" ? null : each.key

  config = {
    for name in ["producer_byte_rate", "consumer_byte_rate", "request_percentage"] :
    name => each.value[name]
  }
}
