locals {
  acls = jsondecode(file("${local.data_dir}/acls.json"))

  # Customers write what the prompt builder reads, and read what the result sink writes; a request whose
  # outcome is there already is answered by the prompt builder.
  customer_request_topics = flatten([for customer in local.acls.customers : customer.request_topics])
  customer_reply_topics   = flatten([for customer in local.acls.customers : customer.reply_topics])

  clients = concat(
    [for service in local.acls.services : {
      principal      = service.principal
      read           = concat(service.read, service.principal == "millrace-prompt-builder" ? local.customer_request_topics : [])
      write          = concat(service.write, contains(["millrace-prompt-builder", "millrace-result-sink"], service.principal) ? local.customer_reply_topics : [])
      group_prefixes = service.group_prefixes
      watch          = { Topic = try(service.watch_topics, []), Group = try(service.watch_groups, []) }
    }],
    [for customer in local.acls.customers : {
      principal      = customer.principal
      read           = customer.reply_topics
      write          = customer.request_topics
      group_prefixes = customer.group_prefixes
      watch          = { Topic = [], Group = [] }
    }],
  )

  # An empty prefix means every topic: Kafka's wildcard is a literal star.
  everything = {
    Topic = var.topic_prefix == "" ? { name = "*", pattern = "Literal" } : { name = var.topic_prefix, pattern = "Prefixed" }
    Group = var.group_prefix == "" ? { name = "*", pattern = "Literal" } : { name = var.group_prefix, pattern = "Prefixed" }
  }

  grants = concat(
    flatten([for client in local.clients : concat(
      [for name in flatten([for topic in client.read : lookup(local.names, topic, [topic])]) : {
        principal = client.principal, operation = "Read", type = "Topic", name = "${var.topic_prefix}${name}", pattern = "Literal"
      }],
      [for name in flatten([for topic in client.write : lookup(local.names, topic, [topic])]) : {
        principal = client.principal, operation = "Write", type = "Topic", name = "${var.topic_prefix}${name}", pattern = "Literal"
      }],
      [for group in client.group_prefixes : {
        principal = client.principal, operation = "Read", type = "Group", name = "${var.group_prefix}${group}", pattern = "Prefixed"
      }],
      [for name in flatten([for topic in client.watch.Topic : lookup(local.names, topic, [topic])]) : {
        principal = client.principal, operation = "Describe", type = "Topic", name = "${var.topic_prefix}${name}", pattern = "Literal"
      }],
      [for group in client.watch.Group : {
        principal = client.principal, operation = "Describe", type = "Group", name = "${var.group_prefix}${group}", pattern = "Prefixed"
      }],
    )]),
    flatten([for operator in local.acls.operators : concat(
      [for type, all in local.everything : {
        principal = operator, operation = "All", type = type, name = all.name, pattern = all.pattern
      }],
      [for operation in ["Alter", "AlterConfigs", "Create", "Describe", "DescribeConfigs"] : {
        principal = operator, operation = operation, type = "Cluster", name = "kafka-cluster", pattern = "Literal"
      }],
    )]),
  )
}

resource "kafka_acl" "this" {
  for_each = {
    for grant in local.grants :
    "${grant.principal} ${grant.operation} ${grant.type} ${grant.name}" => grant
    if var.acls
  }

  acl_principal                = "User:${each.value.principal}"
  acl_host                     = "*"
  acl_permission_type          = "Allow"
  acl_operation                = each.value.operation
  resource_type                = each.value.type
  resource_name                = each.value.name
  resource_pattern_type_filter = each.value.pattern
}
