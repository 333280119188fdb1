//! File metadata as the public API writes and reads it: JSON, or text of the metadata language.
//!
//! `curl -d` labels everything as a form and takes the line breaks out, so what a body is shows its first character, not
//! its label. The metadata language reads a text without line breaks by its spaces.

use dfs_shared::ddl::{self, Diagnostic, FileHash, FileMetadata, ModifiedAt, SyncState};
use dfs_shared::hash::ChunkHash;
use serde_json::{Map, Value, json};

use super::status::ApiError;
use crate::files::{FileInfo, FilePath};
use crate::http::Request;

/// The media type of the metadata language.
pub(super) const DDL_TYPE: &str = "text/x-dfs-ddl";

/// What a request says of a file. What it does not say is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) path: FilePath,
    pub(super) hash: Option<FileHash>,
    pub(super) size: Option<u64>,
    pub(super) version: Option<u64>,
    pub(super) last_modified: Option<ModifiedAt>,
    pub(super) owner: Option<String>,
}

impl Said {
    fn of(metadata: FileMetadata) -> Result<Self, ApiError> {
        Ok(Self {
            path: FilePath::from_bytes(&metadata.name)?,
            hash: Some(metadata.hash),
            size: Some(metadata.size),
            // A mount, which does not count versions, says 0.
            version: Some(metadata.version).filter(|version| *version > 0),
            last_modified: Some(metadata.last_modified),
            owner: Some(metadata.owner).filter(|owner| !owner.is_empty()),
        })
    }
}

/// Reads a body: one JSON object, or one or more records of the metadata language.
pub(super) fn read(body: &[u8]) -> Result<Vec<Said>, ApiError> {
    let text =
        std::str::from_utf8(body).map_err(|_| ApiError::Json { why: "the body is not UTF-8".to_owned() })?;
    if text.trim_start().starts_with(['{', '[']) {
        return Ok(vec![from_json(text)?]);
    }
    let records = ddl::parse(text).map_err(|found| ApiError::Ddl { why: all(text, &found) })?;
    if records.is_empty() {
        return Err(ApiError::Ddl { why: "the body is empty: a file's metadata is expected".to_owned() });
    }
    records.into_iter().map(Said::of).collect()
}

/// Joins everything that is wrong with a text.
fn all(text: &str, found: &[Diagnostic]) -> String {
    let mut all: Vec<String> = found.iter().map(ToString::to_string).collect();
    if !text.trim_end().contains('\n') {
        all.push(
            "the text has no line breaks: `curl --data-binary @FILE` keeps them, `-d @FILE` does not"
                .to_owned(),
        );
    }
    all.join("\n")
}

fn from_json(text: &str) -> Result<Said, ApiError> {
    let bad = |why: String| ApiError::Json { why };
    let value: Value = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    let Value::Object(fields) = value else { return Err(bad("a JSON object is expected".to_owned())) };
    let text = |name| string(&fields, name);
    let path = text("file_path")?.ok_or(ApiError::FieldMissing { name: "file_path" })?;
    let hash = text("hash")?.map(|hash| {
        let prefixed = if hash.contains(':') { hash.to_owned() } else { format!("sha256:{hash}") };
        FileHash::from_text(&prefixed).ok_or(wrong("hash", "`sha256:` and 64 hexadecimal digits"))
    });
    let time = text("last_modified")?.map(|time| {
        ModifiedAt::from_text(time)
            .ok_or(wrong("last_modified", "a date and time such as 2024-01-15T10:30:00Z"))
    });
    Ok(Said {
        path: FilePath::from_text(path)?,
        hash: hash.transpose()?,
        size: number(&fields, "size")?,
        version: number(&fields, "version")?,
        last_modified: time.transpose()?,
        owner: text("owner")?.map(ToOwned::to_owned),
    })
}

fn wrong(name: &'static str, expected: &'static str) -> ApiError {
    ApiError::Field { name, expected }
}

/// Returns a field that is there and not null.
fn field<'f>(fields: &'f Map<String, Value>, name: &str) -> Option<&'f Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn string<'f>(fields: &'f Map<String, Value>, name: &'static str) -> Result<Option<&'f str>, ApiError> {
    field(fields, name).map(|value| value.as_str().ok_or(wrong(name, "a string"))).transpose()
}

fn number(fields: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, ApiError> {
    field(fields, name).map(|value| value.as_u64().ok_or(wrong(name, "a number from 0 on"))).transpose()
}

/// A file's metadata with a hash that may not be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// The metadata; what stands under `hash` counts only if `is_hashed`.
    pub(super) metadata: FileMetadata,
    /// Whether the hash is known.
    pub(super) is_hashed: bool,
}

impl Told {
    /// Describes a version; `None` for a hash that cannot be had.
    pub(super) fn new(info: FileInfo, hash: Option<ChunkHash>) -> Self {
        let metadata = FileMetadata {
            name: info.path.to_bytes(),
            version: info.version,
            size: info.size(),
            hash: FileHash::from(hash.unwrap_or(ChunkHash::HOLE)),
            last_modified: ModifiedAt::from(info.mtime()),
            owner: info.owner(),
            sync_state: SyncState { status: info.status, replicas: info.replicas },
        };
        Self { metadata, is_hashed: hash.is_some() }
    }
}

/// Writes a file's metadata.
pub(super) fn file(told: &Told) -> Value {
    let metadata = &told.metadata;
    let path = FilePath::from_bytes(&metadata.name).map(|path| path.to_string());
    let replicas = metadata.sync_state.replicas.iter();
    json!({
        "file_path": path.unwrap_or_else(|_| String::from_utf8_lossy(&metadata.name).into_owned()),
        "hash": told.is_hashed.then(|| metadata.hash.as_str()),
        "size": metadata.size,
        "version": metadata.version,
        "last_modified": metadata.last_modified.to_string(),
        "owner": metadata.owner,
        "sync_state": metadata.sync_state.status.as_str(),
        "replicas": replicas
            .map(|replica| json!({ "node": replica.node, "version": replica.version }))
            .collect::<Vec<_>>(),
    })
}

/// Writes metadata in the metadata language. A file without a known hash cannot be written in it.
pub(super) fn text(told: &[Told]) -> Result<String, ApiError> {
    match told.iter().find(|told| !told.is_hashed) {
        Some(unknown) => {
            let name = String::from_utf8_lossy(&unknown.metadata.name).into_owned();
            Err(ApiError::HashUnknown { name })
        }
        None => Ok(ddl::print(&told.iter().map(|told| told.metadata.clone()).collect::<Vec<_>>())),
    }
}

/// Tells whether a request asks for the metadata language.
pub(super) fn wants_ddl(request: &Request) -> bool {
    let mut accepts = request.headers.get_all("Accept").filter_map(|value| std::str::from_utf8(value).ok());
    accepts.any(|value| {
        value
            .split(',')
            .any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(DDL_TYPE))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DDL: &str = "file_metadata:\n  name: \"docs/a.pdf\"\n  version: 3\n  size: 7\n  hash: \"sha256:abc123\"\n  \
                       last_modified: \"2024-01-15T10:30:00Z\"\n  owner: \"laptop1\"\n  sync_state:\n    \
                       status: \"synced\"\n    replicas:\n      - node: \"server1\"\n        version: 3\n";

    fn why(body: &str) -> String {
        read(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_text_without_its_line_breaks_says_the_same() {
        let whole = read(DDL.as_bytes()).unwrap();
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].path.to_string(), "docs/a.pdf");
        let flat = DDL.replace('\n', "");
        assert_eq!(read(flat.as_bytes()).unwrap(), whole);
        let windows = DDL.replace('\n', "\r\n");
        assert_eq!(read(windows.as_bytes()).unwrap(), whole);
        let two = [DDL, DDL].concat();
        assert_eq!(read(two.replace('\n', "").as_bytes()).unwrap(), read(two.as_bytes()).unwrap());
    }

    #[test]
    fn every_error_of_a_text_is_told_and_what_curl_did_to_it() {
        let bad = DDL.replace("version: 3\n  size: 7", "version: x\n  size: y");
        let told = why(&bad);
        assert!(
            told.contains("line 3") && told.contains("line 4") && !told.contains("--data-binary"),
            "{told}"
        );
        let told = why(&bad.replace('\n', ""));
        assert!(told.contains("--data-binary"), "{told}");
        let comment = DDL.replace("  size", "  # a comment\n  size");
        assert_eq!(read(comment.as_bytes()).unwrap(), read(DDL.as_bytes()).unwrap());
        assert!(why(&comment.replace('\n', "")).contains("--data-binary"));
    }

    #[test]
    fn json_ignores_unknown_fields_and_names_missing_and_wrong_ones() {
        let said =
            read(br#"{"file_path":"/a%FFb","size":1,"version":null,"color":"red","owner":"x"}"#).unwrap();
        assert_eq!(said[0].path.to_bytes(), b"a\xffb");
        assert_eq!((said[0].size, said[0].version, said[0].owner.as_deref()), (Some(1), None, Some("x")));
        let table = [
            (r#"{"size":1}"#, "`file_path`"),
            (r#"{"file_path":7}"#, "`file_path`"),
            (r#"{"file_path":"a","size":-1}"#, "`size`"),
            (r#"{"file_path":"a","size":"1"}"#, "`size`"),
            (r#"{"file_path":"a","hash":"md5:00"}"#, "`hash`"),
            (r#"{"file_path":"a","last_modified":"yesterday"}"#, "`last_modified`"),
            (r#"{"file_path":"../a"}"#, "path"),
            ("{", "line 1"),
            ("[]", "object"),
        ];
        for (body, name) in table {
            let why = crate::report::chain(&read(body.as_bytes()).unwrap_err());
            assert!(why.contains(name), "{body}: {why}");
        }
    }
}
