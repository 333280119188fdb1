//! HTTP/1.1, server side, without sockets and clocks (RFC 9110, RFC 9112).

mod error;
mod headers;
mod method;
mod request;
mod response;
mod status;
mod target;

pub use error::HttpError;
pub use headers::Headers;
pub use method::Method;
pub use request::{Request, Version};
pub use response::{Body, Response, StreamError, StreamItem};
pub use status::Status;
pub(crate) use target::percent_decode;
