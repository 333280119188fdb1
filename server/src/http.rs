//! HTTP/1.1, server side, as pure code: bytes in, events and bytes out (RFC 9110, RFC 9112).
//!
//! [`Connection`] is the machine, the rest are its values. Nothing here has a socket, a clock or a thread; the engines
//! have those. Whatever the peer can drive is bounded by [`crate::limits`].

mod chunked;
mod conditional;
mod connection;
mod content_coding;
mod date;
mod encode;
mod error;
mod framing;
mod head;
mod headers;
mod method;
mod output;
mod range;
mod representation;
mod request;
mod response;
mod status;
mod target;
mod trailers;

pub use conditional::{EntityTag, Precondition};
pub use connection::{BodyLengthError, Connection, Event};
pub use content_coding::ContentCoding;
pub use date::HttpDate;
pub use encode::BodyLength;
pub use error::HttpError;
pub use headers::Headers;
pub use method::Method;
pub use output::Output;
pub use range::ByteRange;
pub use representation::{Answer, Representation};
pub use request::{Request, Version};
pub use response::{Body, BodyFile, FilePart, Piece, Response, StreamError, StreamItem};
pub use status::Status;
pub(crate) use target::percent_decode;

#[cfg(test)]
mod tests;
