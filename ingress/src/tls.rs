//! TLS at the front door. Certificates that are renewed on disk are taken up by new connections, without a
//! restart; ones that can not be used leave the last good ones in place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_config::{Settled, TlsConfig};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, rustls::pki_types::pem};
use tokio_util::sync::CancellationToken;

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What a client may take for its part of the handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// HTTP/2 where the client can.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can not be read.
    #[error("{} can not be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not PEM, or has nothing of the kind in it.
    #[error("{} holds no {what} in PEM: {error}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// A certificate, or a private key.
        what: &'static str,
        /// What the library said.
        error: pem::Error,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("certificate and key can not be used: {0}")]
    Refused(#[from] rustls::Error),
}

/// What connections are accepted with.
#[derive(Clone)]
pub struct Tls(watch::Receiver<Arc<ServerConfig>>);

/// The two files as they were read.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads the files, and again whenever they have changed, until `shutdown`.
    ///
    /// # Errors
    /// [`TlsError`], the first time.
    pub fn start(config: TlsConfig, shutdown: CancellationToken) -> Result<Self, TlsError> {
        let files = Files::read(&config)?;
        let (sender, receiver) = watch::channel(files.server(&config)?);
        tokio::spawn(async move { shutdown.run_until_cancelled(keep_up(&config, files, &sender)).await });
        Ok(Self(receiver))
    }

    /// The encrypted connection, or why there is none.
    ///
    /// # Errors
    /// What the client or the network did wrong.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.borrow()));
        let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream));
        handshake.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

async fn keep_up(config: &TlsConfig, known: Files, sender: &watch::Sender<Arc<ServerConfig>>) {
    // Two files are never replaced at once.
    let mut settled = Settled::new(known, 2);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(files) = Files::read(config) else { continue };
        if !settled.look(files.clone()) {
            continue;
        }
        match files.server(config) {
            Ok(server) => {
                sender.send_replace(server);
                tracing::info!(certificate = %config.certificate.display(), "a new certificate is used from now on");
            }
            Err(error) => tracing::warn!(%error, "the new certificate can not be used; the one before stays"),
        }
    }
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|error| TlsError::Unreadable { path: path.to_owned(), error });
        Ok(Self { certificate: read(&config.certificate)?, key: read(&config.key)? })
    }

    fn server(&self, config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
        let empty = |path: &Path, what, error| TlsError::Empty { path: path.to_owned(), what, error };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .and_then(|chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
            .map_err(|error| empty(&config.certificate, "certificate", error))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| empty(&config.key, "private key", error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(server))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::routing::get;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::net::TcpListener;

    use super::*;

    /// A new certificate in the two files, and a client that trusts nothing else.
    fn renew(config: &TlsConfig) -> reqwest::Client {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&config.certificate, cert.pem()).expect("written");
        std::fs::write(&config.key, signing_key.serialize_pem()).expect("written");
        let root = reqwest::Certificate::from_pem(cert.pem().as_bytes()).expect("a root");
        reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().expect("a client")
    }

    async fn asks(client: &reqwest::Client, address: SocketAddr) -> Result<String, reqwest::Error> {
        client.get(format!("https://localhost:{}/", address.port())).send().await?.text().await
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = TlsConfig { certificate: folder.path().join("chain.pem"), key: folder.path().join("key.pem") };
        let first = renew(&config);
        let (listener, shutdown) = (TcpListener::bind("127.0.0.1:0").await.expect("a port"), CancellationToken::new());
        let address = listener.local_addr().expect("an address");
        let tls = Tls::start(config.clone(), shutdown.clone()).expect("TLS");
        let router = Router::new().route("/", get(|| async { "hello" }));
        let serving = tokio::spawn(crate::serve::serve(listener, Some(tls), router, 10, shutdown.clone()));
        assert_eq!(asks(&first, address).await.expect("an answer"), "hello");

        std::fs::write(&config.key, "not a key").expect("written");
        tokio::time::sleep(LOOK_EVERY * 2 + Duration::from_secs(1)).await;
        assert_eq!(asks(&first, address).await.expect("an answer"), "hello");

        let second = renew(&config);
        let until = tokio::time::Instant::now() + LOOK_EVERY * 4;
        while let Err(error) = asks(&second, address).await {
            assert!(tokio::time::Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        drop((first, second));
        shutdown.cancel();
        serving.await.expect("it ends");
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = TlsConfig { certificate: folder.path().join("chain.pem"), key: folder.path().join("key.pem") };
        let why = |config: &TlsConfig| {
            let server = Files::read(config).and_then(|files| files.server(config));
            server.err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(why(&config).contains("chain.pem can not be read"), "{}", why(&config));
        renew(&config);
        let good = std::fs::read(&config.certificate).expect("read");
        std::fs::write(&config.certificate, "nothing").expect("written");
        assert!(why(&config).contains("chain.pem holds no certificate"), "{}", why(&config));
        std::fs::write(&config.certificate, good).expect("written");
        let other = TlsConfig { key: folder.path().join("other.pem"), ..config.clone() };
        std::fs::write(&other.key, "nothing").expect("written");
        assert!(why(&other).contains("other.pem holds no private key"), "{}", why(&other));
        let strange = TlsConfig { certificate: folder.path().join("c2.pem"), key: other.key };
        renew(&strange);
        let mixed = TlsConfig { certificate: config.certificate, key: strange.key };
        assert!(why(&mixed).contains("can not be used"), "{}", why(&mixed));
    }
}
