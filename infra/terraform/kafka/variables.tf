variable "data_dir" {
  description = "Folder with topics.json, acls.json and quotas.json; null: infra/kafka of this repository."
  type        = string
  default     = null
}

variable "topic_prefix" {
  description = "Put directly before every topic name, dot included; the same as kafka.topic_prefix in millrace.toml."
  type        = string
  default     = ""
}

variable "group_prefix" {
  description = "Put directly before every consumer group name, dot included; the same as kafka.group_prefix in millrace.toml."
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

  validation {
    condition     = var.replication_factor == null ? true : var.replication_factor >= 1
    error_message = "replication_factor must be at least 1: use 3 in production, 1 on a single node."
  }
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
