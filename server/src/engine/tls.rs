//! TLS for every engine: certificate and key from files, read again on demand, and one session without a socket.
//!
//! The TLS library is a state machine; [`TlsSession`] drives it over an engine's [`Socket`]. Invariant: a reload that
//! fails leaves the certificate in use, and connections keep the one that they began with.

use std::io::{self, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use parking_lot::RwLock;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::scratch::with_scratch;
use super::session::Socket;
use crate::limits;

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the TLS file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM with what is wanted from it.
    #[error("{} holds no {wanted} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was wanted.
        wanted: &'static str,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// A file has no certificate.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key cannot be used, or not together.
    #[error("the certificate {} and the key {} cannot be used", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate in use, and where it came from.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads certificate (with its chain) and key.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the reason.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read_pair(&certificate, &key)?));
        Ok(Self { certificate, key, current })
    }

    /// Reads both files again, for connections from now on.
    ///
    /// # Errors
    /// [`TlsError`]; the old certificate stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = Arc::new(read_pair(&self.certificate, &self.key)?);
        *self.current.write() = read;
        Ok(())
    }

    /// Makes the session of a new connection.
    pub(super) fn session(&self) -> Option<TlsSession> {
        let config = Arc::clone(&*self.current.read());
        match ServerConnection::new(config) {
            Ok(mut connection) => {
                connection.set_buffer_limit(Some(limits::TLS_UNSENT_LEN_MAX));
                Some(TlsSession { connection })
            }
            Err(error) => {
                tracing::error!("cannot begin a TLS session: {error}");
                None
            }
        }
    }
}

fn read_pair(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let pem = |path: &Path, wanted, source| TlsError::Pem { path: path.to_owned(), wanted, source };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read_file(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|source| pem(certificate, "certificate", source))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: certificate.to_owned() });
    }
    let secret =
        PrivateKeyDer::from_pem_slice(&read_file(key)?).map_err(|source| pem(key, "private key", source))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, secret))
        .map_err(|source| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        })?;
    // A client that speaks only the older version names only that one, and is refused if it is not offered.
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    Ok(config)
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(limits::TLS_FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limits::TLS_FILE_LEN_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it is too large for a certificate or key",
            ));
        }
        Ok(bytes)
    };
    read().map_err(|source| TlsError::File { path: path.to_owned(), source })
}

/// The TLS side of one connection.
#[derive(Debug)]
pub(super) struct TlsSession {
    connection: ServerConnection,
}

impl TlsSession {
    /// Reads decrypted bytes; 0 is the peer's end. A TCP end without TLS's own counts as one: HTTP's framing tells
    /// whether a message is whole.
    pub(super) fn poll_read<S: Socket>(
        &mut self,
        context: &mut Context<'_>,
        socket: &mut S,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        loop {
            let sent = self.poll_flush(context, socket)?;
            match self.take_plaintext(buffer) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            match self.connection.read_tls(&mut Raw { socket, context }) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
            if let Err(error) = self.connection.process_new_packets() {
                // The alert says why, if the peer still reads.
                if sent.is_ready() {
                    let _ = self.poll_flush(context, socket);
                }
                tracing::debug!("TLS connection refused: {error}");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
    }

    fn take_plaintext(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        with_scratch(|scratch| {
            let len = self.connection.reader().read(scratch)?;
            buffer.extend_from_slice(&scratch[..len]);
            Ok(len)
        })
    }

    /// Encrypts some of these slices and sends what the socket takes; the rest waits within its limit.
    pub(super) fn poll_write<S: Socket>(
        &mut self,
        context: &mut Context<'_>,
        socket: &mut S,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.poll_flush(context, socket)?.is_pending() {
            return Poll::Pending;
        }
        let written = self.connection.writer().write_vectored(slices)?;
        // What does not leave now leaves with the next write or the flush.
        let _ = self.poll_flush(context, socket)?;
        Poll::Ready(Ok(written))
    }

    /// Sends everything that is encrypted.
    pub(super) fn poll_flush<S: Socket>(
        &mut self,
        context: &mut Context<'_>,
        socket: &mut S,
    ) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Raw { socket, context }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells whether encrypted bytes wait.
    pub(super) fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }

    /// Makes TLS's own end; tells whether it waits to be sent.
    pub(super) fn close(&mut self) -> bool {
        self.connection.send_close_notify();
        self.connection.wants_write()
    }
}

/// The socket as the TLS library wants it: "not yet" is an error, and the task is woken later.
struct Raw<'a, 'c, S> {
    socket: &'a mut S,
    context: &'a mut Context<'c>,
}

fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<S: Socket> Read for Raw<'_, '_, S> {
    fn read(&mut self, slice: &mut [u8]) -> io::Result<usize> {
        now(self.socket.poll_read(self.context, slice))
    }
}

impl<S: Socket> Write for Raw<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        now(self.socket.poll_write(self.context, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_and_a_key_may_have_the_largest_length_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        // Text around the blocks is no part of them.
        let padded = |name: &str, len: u64| {
            let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
            let mut bytes = std::fs::read(data).unwrap();
            bytes.resize(len as usize, b'\n');
            let path = dir.path().join(format!("{len}-{name}"));
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let max = limits::TLS_FILE_LEN_MAX;
        let (certificate, key) = (padded("certificate.pem", max), padded("key.pem", max));
        Tls::load(certificate.clone(), key.clone()).unwrap();
        let (longer_certificate, longer_key) =
            (padded("certificate.pem", max + 1), padded("key.pem", max + 1));
        for (certificate, key, longer) in
            [(&longer_certificate, &key, &longer_certificate), (&certificate, &longer_key, &longer_key)]
        {
            let error = Tls::load(certificate.clone(), key.clone()).expect_err("too long");
            assert!(
                matches!(&error, TlsError::File { path, source }
                    if path == longer && source.kind() == io::ErrorKind::FileTooLarge),
                "{error:?}"
            );
        }
    }
}
