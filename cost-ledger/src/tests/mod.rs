//! The ledger under crashes, replays, zombies and duplicates.

mod instructions;
mod logs;
mod lookups;
mod model;
mod on_kafka;
mod owners;
mod properties;
mod real_store;
mod spending;
mod sweeps;
mod truth;
mod working;
