//! Free loopback ports that stay ours while a server is down.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Below the range from which the kernel takes the local ports of outgoing connections: a broker
/// that was killed must find its port free when it comes back.
const FIRST: u16 = 16_384;
const COUNT: u16 = 16_000;

/// `wanted` different ports that nobody listens on now. The search starts at a random port so
/// that two stacks started together do not choose the same ones.
///
/// # Errors
/// When the range has too few free ports.
pub(crate) fn free(wanted: usize) -> Result<Vec<u16>> {
    let mut ports = HashSet::new();
    let mut held = Vec::new();
    for _ in 0..4_000 {
        if held.len() == wanted {
            break;
        }
        let offset = u16::try_from(RandomState::new().hash_one(held.len()) % u64::from(COUNT)).unwrap_or(0);
        let port = FIRST + offset;
        if ports.contains(&port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            ports.insert(port);
            held.push((port, listener));
        }
    }
    if held.len() < wanted {
        bail!("no {wanted} free loopback ports in {FIRST}..{}: stop what is using them", FIRST + COUNT);
    }
    Ok(held.into_iter().map(|(port, _listener)| port).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() -> Result<()> {
        let ports = free(9)?;
        let listeners =
            ports.iter().map(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(listeners.len(), 9);
        Ok(())
    }

    #[test]
    fn a_port_in_use_is_never_given() -> Result<()> {
        let taken = free(50)?;
        let _held =
            taken.iter().map(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect::<Result<Vec<_>, _>>()?;
        assert!(free(500)?.iter().all(|port| !taken.contains(port)));
        Ok(())
    }
}
