//! The least of each protocol that tells whether a server serves: one request, one answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One try may not outlive this: a stopped process accepts connections and never answers.
const TRY: Duration = Duration::from_secs(3);

/// How a server is asked whether it serves.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    /// The broker answers Metadata and counts itself (its node id) among the live brokers.
    Kafka { node: i32 },
    /// The node answers CQL OPTIONS with SUPPORTED.
    Cql,
    /// The path answers 200.
    Http { path: &'static str },
}

impl Probe {
    /// Asks once.
    ///
    /// # Errors
    /// When the server does not answer, or answers that it is not ready.
    pub(crate) async fn ask(&self, address: SocketAddr) -> Result<()> {
        match self {
            Self::Kafka { node } => {
                let nodes = kafka_nodes(address).await?;
                ensure!(nodes.contains(node), "node {node} is not among the live brokers {nodes:?}");
                Ok(())
            }
            Self::Cql => within(cql_options(address)).await,
            Self::Http { path } => within(http_get(address, path)).await,
        }
    }
}

async fn within<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TRY, asked).await.context("no answer in time")?
}

/// The node ids that the broker at `address` counts as alive, by Metadata version 1 for no topic.
///
/// # Errors
/// When the broker does not answer as Kafka does.
pub(crate) async fn kafka_nodes(address: SocketAddr) -> Result<Vec<i32>> {
    within(async {
        let mut socket = TcpStream::connect(address).await?;
        let mut request = Vec::new();
        request.extend(3_i16.to_be_bytes()); // api: Metadata
        request.extend(1_i16.to_be_bytes()); // version
        request.extend(7_i32.to_be_bytes()); // correlation id
        request.extend((-1_i16).to_be_bytes()); // no client id
        request.extend(0_i32.to_be_bytes()); // no topic
        socket.write_i32(i32::try_from(request.len())?).await?;
        socket.write_all(&request).await?;

        let length = usize::try_from(socket.read_i32().await?)?;
        ensure!(length < 1 << 20, "an answer of {length} bytes is not Kafka's");
        let mut answer = vec![0; length];
        socket.read_exact(&mut answer).await?;
        live_nodes(&answer)
    })
    .await
}

fn live_nodes(answer: &[u8]) -> Result<Vec<i32>> {
    let mut rest = answer;
    let correlation = i32::from_be_bytes(take(&mut rest)?);
    ensure!(correlation == 7, "the answer belongs to another request");
    let count = i32::from_be_bytes(take(&mut rest)?);
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(i32::from_be_bytes(take(&mut rest)?));
        skip_string(&mut rest)?; // host
        take::<4>(&mut rest)?; // port
        skip_string(&mut rest)?; // rack
    }
    Ok(nodes)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>().context("the answer is cut short")?;
    *rest = tail;
    Ok(*head)
}

fn skip_string(rest: &mut &[u8]) -> Result<()> {
    // A length of -1 is a null string, which has no bytes.
    let length = usize::try_from(i16::from_be_bytes(take(rest)?).max(0))?;
    *rest = rest.get(length..).context("the answer is cut short")?;
    Ok(())
}

async fn cql_options(address: SocketAddr) -> Result<()> {
    const VERSION: u8 = 4;
    const OPTIONS: u8 = 5;
    const SUPPORTED: u8 = 6;
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(&[VERSION, 0, 0, 0, OPTIONS, 0, 0, 0, 0]).await?;
    let mut header = [0; 9];
    socket.read_exact(&mut header).await?;
    ensure!(header[4] == SUPPORTED, "the node answered OPTIONS with opcode {}", header[4]);
    Ok(())
}

async fn http_get(address: SocketAddr, path: &str) -> Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut head = [0; 12];
    socket.read_exact(&mut head).await?;
    match &head {
        b"HTTP/1.0 200" | b"HTTP/1.1 200" => Ok(()),
        other => bail!("{path} answered {}", String::from_utf8_lossy(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a Metadata answer naming nodes 1 and 3, as Kafka 4.1 writes it.
    fn metadata() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 7, 0, 0, 0, 2];
        for node in [1_u8, 3] {
            bytes.extend([0, 0, 0, node, 0, 9]);
            bytes.extend(b"127.0.0.1");
            bytes.extend([0, 0, 0x4e, 0x20, 0xff, 0xff]);
        }
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn live_nodes_are_read_from_a_metadata_answer() -> Result<()> {
        assert_eq!(live_nodes(&metadata())?, [1, 3]);
        Ok(())
    }

    #[test]
    fn a_cut_answer_is_an_error_at_every_length() {
        let bytes = metadata();
        // The last eight bytes (controller, topics) are not read.
        for length in 0..bytes.len() - 8 {
            assert!(live_nodes(&bytes[..length]).is_err(), "{length}");
        }
    }
}
