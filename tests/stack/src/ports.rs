//! Free loopback ports that stay ours while a server is down.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// Below the range from which the kernel takes the local ports of outgoing connections: a process
/// that was killed must find its port free when it comes back.
const FIRST: u16 = 16_384;
const COUNT: u16 = 16_000;

/// What was given out: whoever has a port may be down just now.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// `wanted` different ports that nobody listens on now, that no connection takes meanwhile, and that this process is never
/// given again. They are chosen at random so that two stacks started together do not choose the same ones.
///
/// # Errors
/// When the range has too few free ports.
pub fn free_ports(wanted: usize) -> Result<Vec<u16>> {
    let ports: Vec<u16> = hold(wanted)?.into_keys().collect();
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).extend(&ports);
    Ok(ports)
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
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).contains(&port) {
            continue;
        }
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
        let given = free_ports(500)?;
        assert!(given.iter().all(|port| !taken.contains_key(port)));
        assert!(free_ports(500)?.iter().all(|port| !given.contains(port)), "none is given twice");
        Ok(())
    }
}
