variable "bootstrap_servers" {
  description = "Comma-separated host:port list of the brokers."
  type        = string
}

variable "tls" {
  description = "Whether to speak TLS to the brokers."
  type        = bool
  default     = true
}

variable "tls_ca_cert" {
  description = "PEM of the authority that signed the brokers' certificates; empty: the system's."
  type        = string
  default     = ""
}

variable "tls_client_cert" {
  description = "PEM of the client certificate, for mutual TLS."
  type        = string
  default     = ""
}

variable "tls_client_key" {
  description = "PEM of the client key, for mutual TLS."
  type        = string
  default     = ""
  sensitive   = true
}

variable "sasl_mechanism" {
  description = "plain, scram-sha256, scram-sha512 or aws-iam; used when sasl_username is given."
  type        = string
  default     = "scram-sha512"
}

variable "sasl_username" {
  description = "An operator of acls.json; empty: no SASL."
  type        = string
  default     = ""
}

variable "sasl_password" {
  description = "Its password; best given as TF_VAR_sasl_password."
  type        = string
  default     = ""
  sensitive   = true
}

variable "data_dir" {
  description = "Folder with topics.json, acls.json and quotas.json; null: infra/kafka of this repository."
  type        = string
  default     = null
}

variable "topic_prefix" {
  description = "Put directly before every topic name, dot included."
  type        = string
  default     = ""
}

variable "group_prefix" {
  description = "Put directly before every consumer group name, dot included."
  type        = string
  default     = ""
}

variable "generations" {
  description = "Partitions of each generation of the topics that have generations, by its number; null: as in topics.json. While moving from one to the next there are two."
  type        = map(number)
  default     = { "0" = null }
}

variable "replication_factor" {
  description = "Replicas of every topic; null: as in topics.json. A single node takes 1."
  type        = number
  default     = null
}

variable "acls" {
  description = "Whether to make ACLs; the brokers need an authorizer for them."
  type        = bool
  default     = true
}

variable "quotas" {
  description = "Whether to make client quotas."
  type        = bool
  default     = true
}
