//! The server over HTTP/1.1: the only user of the HTTP client.
//!
//! Several servers of one volume are tried in turn: a request goes to the one that answered last and moves on
//! when no connection can be made. Requests are safe to repeat, so moving on needs no care.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::limits::{CHUNK_BATCH_LEN_MAX, HISTORY_ITEMS_MAX, QUERY_ITEMS_MAX};
use dfs_shared::lineage::{Known, State};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::RecordKey;
use dfs_shared::wire::chunks::{ChunkBody, ChunkHeader};
use dfs_shared::wire::history::{HistoryReply, HistoryRequest};
use dfs_shared::wire::messages::{
    ChunksRequest, CommitReply, ContentsReply, ContentsRequest, LineageReply, LineageRequest, MerkleReply,
    MerkleRequest, MissingReply, MissingRequest, RecordsReply, RecordsRequest, RegisterReply,
    RegisterRequest, WhoamiReply, WhoamiRequest,
};
use dfs_shared::wire::report::{ReportReply, ReportRequest};
use dfs_shared::wire::{CHUNKS_CONTENT_TYPE, CONTENT_TYPE, encode};
use futures_util::{FutureExt, stream};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE as CONTENT_TYPE_HEADER};
use reqwest::{Body, Certificate, Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::token::{Token, TokenSource};
use super::{ChunkStream, FrameStream, Remote, RemoteError, RemoteFuture, UploadOf};
use crate::limits::{
    REPLY_HASH_LEN_MAX, REPLY_NODE_LEN_MAX, REPLY_RECORD_LEN_MAX, REPLY_VERSION_LEN_MAX,
    REQUEST_SILENCE_MS_MAX,
};

mod answer;
mod download;
mod frames;
mod pool;
#[cfg(test)]
mod tests;

use answer::{Expected, check_status};
use pool::{Line, Pool, Settings};

/// Why a server's address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The text is no address.
    #[error("`{text}` is no server: give HOST:PORT, http://HOST:PORT or https://HOST:PORT")]
    Invalid {
        /// The text.
        text: String,
    },
    /// The certificates that are to be trusted cannot be read.
    #[error("cannot read the certificates in {}", path.display())]
    Ca {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The HTTP client cannot be made.
    #[error("cannot make the HTTP client")]
    Client {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}

/// A volume on a server that is reached over HTTP.
#[derive(Debug)]
pub struct HttpRemote {
    pool: Arc<Pool>,
    servers: Vec<String>,
    current: AtomicUsize,
    volume: VolumeName,
    token: TokenSource,
}

/// Turns `host:port`, `http://host:port/` or `https://host:port/` into the base of every URL.
///
/// # Errors
/// [`AddressError`] when the text is no address.
pub fn base_url(text: &str) -> Result<String, AddressError> {
    let invalid = || AddressError::Invalid { text: text.to_owned() };
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(invalid()),
        None => ("http", text),
    };
    let url = format!("{scheme}://{}", rest.trim_end_matches('/'));
    let parsed = reqwest::Url::parse(&url).map_err(|_| invalid())?;
    let plain = parsed.host_str().is_some() && parsed.path() == "/" && parsed.query().is_none();
    if !plain || rest.is_empty() || parsed.username() != "" {
        return Err(invalid());
    }
    Ok(url)
}

/// Reads the certificates that a server's may be signed by.
fn certificates(path: &Path) -> Result<Vec<Certificate>, AddressError> {
    let failed = |source| AddressError::Ca { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(|error| failed(error.into()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.into()))?;
    if found.is_empty() {
        return Err(failed("it holds no certificate in PEM form".into()));
    }
    Ok(found)
}

impl HttpRemote {
    /// Prepares to talk to a volume; connects to nothing yet. Over TLS the server needs a certificate that one of those in the PEM
    /// file `ca` has signed, or the system's if there is none. Blocks for the time of reading it.
    ///
    /// # Errors
    /// [`AddressError`] when a server's address or the certificates cannot be used.
    pub fn new(
        servers: &[String],
        volume: VolumeName,
        token: TokenSource,
        ca: Option<&Path>,
    ) -> Result<Self, AddressError> {
        let urls = servers.iter().map(|server| base_url(server)).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() {
            return Err(AddressError::Invalid { text: String::new() });
        }
        let trusted = ca.map(certificates).transpose()?;
        let silence = Duration::from_millis(REQUEST_SILENCE_MS_MAX);
        let pool = Pool::new(Settings { trusted, silence })?;
        Ok(Self { pool, servers: urls, current: AtomicUsize::new(0), volume, token })
    }

    fn server(&self) -> (usize, &str) {
        let at = self.current.load(Ordering::Relaxed) % self.servers.len();
        (at, &self.servers[at])
    }

    /// Sends a request and returns its successful answer. After a refused token once more, if the token's file
    /// holds another one by now.
    async fn send(
        &self,
        method: Method,
        route: &str,
        content_type: &'static str,
        len: u64,
        body: impl Fn() -> Body,
    ) -> Result<(Line, Response), RemoteError> {
        let token = self.token.get();
        let sent = self.send_with(&token, method.clone(), route, content_type, len, &body).await;
        match sent {
            Err(error) if error.token_refused().is_some() => match self.token.renew(&token) {
                Some(token) => {
                    tracing::info!("the token file holds another token: trying that one");
                    self.send_with(&Some(token), method, route, content_type, len, &body).await
                }
                None => Err(error),
            },
            sent => sent,
        }
    }

    /// Sends a request to the first server that can be reached.
    async fn send_with(
        &self,
        token: &Option<Token>,
        method: Method,
        route: &str,
        content_type: &'static str,
        len: u64,
        body: &impl Fn() -> Body,
    ) -> Result<(Line, Response), RemoteError> {
        let mut tried = 0;
        loop {
            let (at, server) = self.server();
            let url = format!("{server}/sync/{}/{route}", self.volume);
            let (client, line) = self.pool.line(server);
            let mut request = client.request(method.clone(), url);
            if method != Method::GET {
                request = request
                    .header(CONTENT_TYPE_HEADER, content_type)
                    .header(CONTENT_LENGTH, len)
                    .body(body());
            }
            if let Some(token) = token {
                request = request.header(AUTHORIZATION, token.header());
            }
            match request.send().await {
                Ok(response) => return Ok((line.clone(), check_status(&line, response).await?)),
                Err(error) => {
                    tried += 1;
                    let next = (at + 1) % self.servers.len();
                    // Another task may have moved on already; then its choice stands.
                    let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
                    if tried >= self.servers.len() || !error.is_connect() {
                        return Err(line.failed(error));
                    }
                }
            }
        }
    }

    async fn post(&self, route: &str, body: Bytes) -> Result<(Line, Response), RemoteError> {
        let len = body.len() as u64;
        self.send(Method::POST, route, CONTENT_TYPE, len, || Body::from(body.clone())).await
    }

    async fn ask<Q: Serialize, R: DeserializeOwned>(
        &self,
        route: &str,
        expected: Expected,
        request: &Q,
    ) -> Result<R, RemoteError> {
        self.ask_encoded(route, expected, encode(request).into()).await
    }

    async fn ask_encoded<R: DeserializeOwned>(
        &self,
        route: &str,
        expected: Expected,
        request: Bytes,
    ) -> Result<R, RemoteError> {
        let (line, response) = self.post(route, request).await?;
        answer::message(&line, response, expected).await
    }

    fn damaged(&self, what: &'static str, why: impl Into<String>) -> RemoteError {
        RemoteError::Damaged { server: self.server().1.to_owned(), what, why: why.into() }
    }

    fn same_count(&self, what: &'static str, asked: usize, came: usize) -> Result<(), RemoteError> {
        if asked == came { Ok(()) } else { Err(self.damaged(what, format!("{asked} asked, {came} came"))) }
    }
}

impl Remote for HttpRemote {
    fn register(&self, request: RegisterRequest) -> RemoteFuture<'_, RegisterReply> {
        async move { self.ask("register", Expected::fields("registration"), &request).await }.boxed()
    }

    fn lineage(&self, seen: Vec<State>) -> RemoteFuture<'_, Known> {
        async move {
            let reply: LineageReply =
                self.ask("lineage", Expected::fields("lineage"), &LineageRequest { seen }).await?;
            Ok(reply.known)
        }
        .boxed()
    }

    fn whoami(&self, client: ClientId) -> RemoteFuture<'_, WhoamiReply> {
        async move { self.ask("whoami", Expected::fields("whoami"), &WhoamiRequest { client }).await }.boxed()
    }

    fn commit(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        // It can read a refusal for the quota.
        self.ask_encoded("commit?quota=1", Expected::message("commit reply"), request).boxed()
    }

    fn past(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.ask_encoded("past", Expected::message("reply to a past version"), request).boxed()
    }

    fn missing(&self, hashes: Vec<ChunkHash>, of: Option<UploadOf>) -> RemoteFuture<'_, Vec<ChunkHash>> {
        debug_assert!(hashes.len() <= QUERY_ITEMS_MAX);
        async move {
            let size = of.as_ref().map(|of| format!("&size={}", of.size));
            let route = format!("missing{}{}", upload_query(of.as_ref()), size.unwrap_or_default());
            let expected = Expected::items("list of chunks", hashes.len(), REPLY_HASH_LEN_MAX);
            let reply: MissingReply = self.ask(&route, expected, &MissingRequest { hashes }).await?;
            Ok(reply.missing)
        }
        .boxed()
    }

    fn put_chunks(&self, chunks: Vec<(ChunkHash, Bytes)>, of: Option<UploadOf>) -> RemoteFuture<'_, ()> {
        let mut pieces = Vec::with_capacity(2 * chunks.len());
        for (hash, bytes) in chunks {
            let len = u32::try_from(bytes.len()).expect("a chunk is within CHUNK_LEN_MAX");
            let header = ChunkHeader { hash, body: ChunkBody::Bytes(len) }.encode();
            pieces.extend([Bytes::copy_from_slice(&header), bytes]);
        }
        let len = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        debug_assert!(len <= 2 * CHUNK_BATCH_LEN_MAX as u64);
        let body =
            move || Body::wrap_stream(stream::iter(pieces.clone().into_iter().map(Ok::<_, std::io::Error>)));
        async move {
            let route = format!("chunks{}", upload_query(of.as_ref()));
            let (line, response) = self.send(Method::PUT, &route, CHUNKS_CONTENT_TYPE, len, body).await?;
            answer::collect(&line, response, Expected::fields("reply to an upload")).await.map(drop)
        }
        .boxed()
    }

    fn report(&self, request: ReportRequest) -> RemoteFuture<'_, ReportReply> {
        async move { self.ask("report", Expected::fields("reply to a report"), &request).await }.boxed()
    }

    fn get_chunks(&self, hashes: Vec<ChunkHash>) -> RemoteFuture<'_, ChunkStream> {
        debug_assert!(hashes.len() <= QUERY_ITEMS_MAX);
        async move {
            let request = ChunksRequest { hashes };
            let (line, response) = self.post("chunks/get", encode(&request).into()).await?;
            Ok(download::chunks(line, response, request.hashes))
        }
        .boxed()
    }

    fn contents(&self, contents: Vec<ContentId>) -> RemoteFuture<'_, Vec<Option<Manifest>>> {
        async move {
            let request = ContentsRequest { contents };
            let expected = Expected::message("list of manifests");
            let reply: ContentsReply = self.ask("contents", expected, &request).await?;
            self.same_count("list of manifests", request.contents.len(), reply.manifests.len())?;
            for (id, manifest) in request.contents.iter().zip(&reply.manifests) {
                if manifest.as_ref().is_some_and(|manifest| manifest.id() != *id) {
                    return Err(self.damaged("manifest", format!("it is not the one of content {id}")));
                }
            }
            Ok(reply.manifests)
        }
        .boxed()
    }

    fn records(&self, keys: Vec<RecordKey>) -> RemoteFuture<'_, RecordsReply> {
        async move {
            let request = RecordsRequest { keys };
            let expected = Expected::items("list of records", request.keys.len(), REPLY_RECORD_LEN_MAX);
            let reply: RecordsReply = self.ask("records", expected, &request).await?;
            self.same_count("list of records", request.keys.len(), reply.records.len())?;
            Ok(reply)
        }
        .boxed()
    }

    fn merkle(&self, prefixes: Vec<Vec<u8>>) -> RemoteFuture<'_, MerkleReply> {
        async move {
            let request = MerkleRequest { prefixes };
            let expected =
                Expected::items("list of Merkle nodes", request.prefixes.len(), REPLY_NODE_LEN_MAX);
            let reply: MerkleReply = self.ask("merkle", expected, &request).await?;
            self.same_count("list of Merkle nodes", request.prefixes.len(), reply.nodes.len())?;
            Ok(reply)
        }
        .boxed()
    }

    fn history(&self, request: HistoryRequest) -> RemoteFuture<'_, HistoryReply> {
        async move {
            let expected = Expected::items("history", HISTORY_ITEMS_MAX, REPLY_VERSION_LEN_MAX);
            self.ask("history", expected, &request).await
        }
        .boxed()
    }

    fn stream(&self, client: ClientId) -> RemoteFuture<'_, FrameStream> {
        async move {
            let route = format!("stream?client={client}&quota=1");
            let (line, response) = self.send(Method::GET, &route, CONTENT_TYPE, 0, Body::default).await?;
            Ok(frames::frames(line, response))
        }
        .boxed()
    }

    fn name(&self) -> String {
        self.server().1.to_owned()
    }
}

/// Names the file that an upload is about.
fn upload_query(of: Option<&UploadOf>) -> String {
    let Some(of) = of else { return String::new() };
    let mut query = format!("?client={}&path=", of.client);
    for byte in &of.path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                query.push(char::from(*byte));
            }
            byte => query.push_str(&format!("%{byte:02X}")),
        }
    }
    query
}
