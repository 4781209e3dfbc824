//! Free loopback ports that stay ours while a server is down.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Below the range from which the kernel takes the local ports of outgoing connections: a process
/// that was killed must find its port free when it comes back.
const FIRST: u16 = 16_384;
const COUNT: u16 = 16_000;

/// `wanted` different ports that nobody listens on now, and that no connection takes meanwhile. The search starts at a random port so
/// that two stacks started together do not choose the same ones.
///
/// # Errors
/// When the range has too few free ports.
pub fn free_ports(wanted: usize) -> Result<Vec<u16>> {
    Ok(hold(wanted)?.into_keys().collect())
}

/// The ports with their listeners, which keep them from everyone else.
fn hold(wanted: usize) -> Result<HashMap<u16, TcpListener>> {
    let mut held = HashMap::new();
    for _ in 0..4_000 {
        if held.len() == wanted {
            return Ok(held);
        }
        let offset = u16::try_from(RandomState::new().hash_one(held.len()) % u64::from(COUNT)).unwrap_or(0);
        let port = FIRST + offset;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.insert(port, listener);
        }
    }
    bail!("no {wanted} free loopback ports in {FIRST}..{}: stop what is using them", FIRST + COUNT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_lie_below_the_kernels_own() -> Result<()> {
        let ports: std::collections::HashSet<u16> = free_ports(9)?.into_iter().collect();
        assert_eq!(ports.len(), 9);
        assert!(ports.iter().all(|port| (FIRST..FIRST + COUNT).contains(port)));
        Ok(())
    }

    #[test]
    fn a_port_in_use_is_never_given() -> Result<()> {
        let taken = hold(50)?;
        assert!(free_ports(500)?.iter().all(|port| !taken.contains_key(port)));
        Ok(())
    }
}
