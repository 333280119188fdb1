//! Bodies of gigabytes on every engine: byte for byte, and in constant memory. A process of its own, so that its peak
//! memory is that of these bodies.

#![expect(clippy::unwrap_used, reason = "a test; clippy knows only its functions with an attribute as such")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dfs_server::engine::{Drained, Engine, EngineConfig, Handler, Options, RequestBody, Tls, prepare};
use dfs_server::http::{Body, FilePart, Piece, Request, Response, Status};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::sync::{mpsc, oneshot};

const GIB: u64 = 1 << 30;
const PIECE_LEN: usize = 1 << 20;
/// Peak memory may grow by this much, whatever the bodies' lengths.
const GROWTH_KIB_MAX: u64 = 48 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// The peak is one for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// `/file` answers with the file, `/pieces` with the same in pieces, anything else with the length of its body.
struct Large {
    file: Arc<File>,
    len: u64,
}

impl Handler for Large {
    async fn handle(&self, request: Request, mut body: RequestBody) -> Response {
        if request.path.as_ref() == b"/file" {
            let offset = request.query("offset").map_or(0, |text| text.parse().unwrap());
            let part = FilePart { file: self.file.clone(), offset, len: self.len - offset };
            return Response::new(Status::OK).with_body(Body::File(part));
        }
        if request.path.as_ref() == b"/pieces" {
            let (pieces, body) = mpsc::channel(2);
            let (file, len) = (Arc::clone(&self.file), self.len);
            std::thread::spawn(move || {
                for offset in (0..len).step_by(PIECE_LEN) {
                    let len = (len - offset).min(PIECE_LEN as u64);
                    let part = FilePart { file: file.clone(), offset, len };
                    // The connection may be gone; then the test sees a short body.
                    let _ = pieces.blocking_send(Ok(Piece::Files(vec![part])));
                }
            });
            return Response::new(Status::OK).with_body(Body::Sized(self.len, body));
        }
        let mut len = 0;
        while let Some(piece) = body.next().await {
            len += piece.unwrap().len();
        }
        Response::text(Status::OK, len.to_string())
    }
}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Drained>,
}

impl Running {
    fn start(engine: Engine, file: &Arc<File>, tls: Option<Arc<Tls>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = EngineConfig { body_len_max: 64 * GIB, ..EngineConfig::default() };
        let prepared = prepare(engine, listener, Options { config, threads: Some(2), tls }).unwrap();
        let handler = Arc::new(Large { file: Arc::clone(file), len: file.metadata().unwrap().len() });
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            prepared.serve(handler, async {
                let _ = stopped.await;
            })
        });
        Self { address, stop, thread }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn end(self) {
        drop(self.stop);
        assert_eq!(self.thread.join().unwrap(), Drained { aborted: 0 });
    }
}

/// A file of holes with marks at its ends and around its middle.
fn sparse(len: u64) -> (Arc<File>, Vec<u64>) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    let marks = vec![0, 4095, len / 2, len / 2 + 1, len - 1];
    for at in &marks {
        file.write_all_at(b"#", *at).unwrap();
    }
    (Arc::new(file), marks)
}

/// Reads a response to the end of its body; returns where its bytes are not zero, and its length.
fn read_marks(stream: impl Read) -> (Vec<u64>, u64) {
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    let len = read_head(&mut reader);
    let zeros = vec![0_u8; 1 << 20];
    let (mut at, mut marks) = (0, Vec::new());
    while at < len {
        let piece = reader.fill_buf().unwrap();
        assert!(!piece.is_empty(), "cut short at {at}");
        if piece != &zeros[..piece.len()] {
            let found = piece.iter().enumerate().filter(|(_, byte)| **byte != 0);
            marks.extend(found.map(|(index, _)| at + index as u64));
        }
        let taken = piece.len();
        at += taken as u64;
        reader.consume(taken);
    }
    (marks, at)
}

/// Reads a head of status 200; returns the body's length.
fn read_head(reader: &mut impl BufRead) -> u64 {
    let (mut len, mut line) = (None, String::new());
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        len = line.strip_prefix("Content-Length: ").map(|text| text.trim().parse().unwrap()).or(len);
    }
    len.expect("the response has a length")
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn in_constant_memory(work: impl FnOnce()) {
    let before = peak_kib();
    work();
    // The kernel adds up what each processor counted, now and then: the highest value can go down a little.
    let grown = peak_kib().saturating_sub(before);
    assert!(grown <= GROWTH_KIB_MAX, "peak memory grew by {grown} KiB");
}

#[test]
fn a_sparse_file_of_4_gib_is_downloaded_in_constant_memory_on_every_engine() {
    let _alone = ALONE.lock().unwrap();
    let len = 4 * GIB + 12_345;
    let (file, marks) = sparse(len);
    in_constant_memory(|| {
        for engine in Engine::ALL {
            let running = Running::start(engine, &file, None);
            let mut stream = running.connect();
            for path in ["/file", "/pieces"] {
                write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                assert_eq!(read_marks(&stream), (marks.clone(), len), "{engine:?} {path}");
            }
            let offset = 4 * GIB;
            write!(stream, "GET /file?offset={offset} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            assert_eq!(read_marks(&stream), (vec![12_344], 12_345), "{engine:?}");
            running.end();
        }
    });
}

#[test]
fn a_gibibyte_is_uploaded_in_constant_memory_on_every_engine() {
    let _alone = ALONE.lock().unwrap();
    let (file, _) = sparse(1);
    let piece = vec![b'x'; 1 << 20];
    in_constant_memory(|| {
        for engine in Engine::ALL {
            for chunked in [false, true] {
                let running = Running::start(engine, &file, None);
                let mut stream = running.connect();
                let framing = if chunked {
                    "Transfer-Encoding: chunked".into()
                } else {
                    format!("Content-Length: {GIB}")
                };
                write!(stream, "POST /count HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n").unwrap();
                for _ in 0..GIB >> 20 {
                    if chunked {
                        stream.write_all(b"100000\r\n").unwrap();
                    }
                    stream.write_all(&piece).unwrap();
                    if chunked {
                        stream.write_all(b"\r\n").unwrap();
                    }
                }
                if chunked {
                    stream.write_all(b"0\r\n\r\n").unwrap();
                }
                let mut reader = BufReader::new(&stream);
                let mut answer = vec![0; usize::try_from(read_head(&mut reader)).unwrap()];
                reader.read_exact(&mut answer).unwrap();
                assert_eq!(String::from_utf8(answer).unwrap(), GIB.to_string(), "{engine:?}");
                running.end();
            }
        }
    });
}

#[test]
fn a_file_is_downloaded_under_tls_in_constant_memory_on_every_engine() {
    let _alone = ALONE.lock().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let tls = Arc::new(Tls::load(data.join("certificate.pem"), data.join("key.pem")).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
    let len = 192 << 20;
    let (file, marks) = sparse(len);
    in_constant_memory(|| {
        for engine in Engine::ALL {
            let running = Running::start(engine, &file, Some(Arc::clone(&tls)));
            let name = ServerName::try_from("localhost").unwrap();
            let session = ClientConnection::new(Arc::clone(&client), name).unwrap();
            let mut stream = StreamOwned::new(session, running.connect());
            for path in ["/file", "/pieces"] {
                write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                assert_eq!(read_marks(&mut stream), (marks.clone(), len), "{engine:?} {path}");
            }
            stream.write_all(b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc").unwrap();
            assert_eq!(read_marks(&mut stream).1, 1, "{engine:?}");
            running.end();
        }
    });
}
