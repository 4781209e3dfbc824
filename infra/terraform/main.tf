# Millrace's topics, ACLs and quotas on a Kafka that is there already. The data is in ../kafka.

terraform {
  required_version = ">= 1.5"

  required_providers {
    kafka = {
      source  = "Mongey/kafka"
      version = ">= 0.13.1"
    }
  }
}

provider "kafka" {
  bootstrap_servers = split(",", var.bootstrap_servers)

  tls_enabled = var.tls
  ca_cert     = var.tls_ca_cert
  client_cert = var.tls_client_cert
  client_key  = var.tls_client_key

  sasl_mechanism = var.sasl_mechanism
  sasl_username  = var.sasl_username
  sasl_password  = var.sasl_password
}

module "kafka" {
  source = "./kafka"

  data_dir           = var.data_dir
  topic_prefix       = var.topic_prefix
  group_prefix       = var.group_prefix
  replication_factor = var.replication_factor
  generations        = var.generations
  acls               = var.acls
  quotas             = var.quotas
}

output "topics" {
  description = "The topics as they are called on the broker, by their name in topics.json."
  value       = module.kafka.topics
}

output "groups" {
  description = "Consumer groups to start at offset 0, by topic: run `millrace topics apply` for them."
  value       = module.kafka.groups
}
