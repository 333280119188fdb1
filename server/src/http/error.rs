//! Why a request is refused before any handler sees it: one enum, one exhaustive match to a status.

use super::status::Status;

/// A violation of HTTP by the peer. The connection closes after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The request line is not `method SP target SP version CRLF`.
    #[error("the request line is malformed")]
    RequestLine,
    /// A line ends in LF without CR, or holds a CR that is not before LF.
    #[error("a line has a bare CR or LF")]
    BareLineEnd,
    /// The request target has no valid form or bad percent-encoding.
    #[error("the request target is malformed")]
    Target,
    /// The request target is longer than allowed.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The method is not implemented here.
    #[error("the method is not implemented")]
    Method,
    /// The version is not HTTP/1.x.
    #[error("the HTTP version is not supported")]
    Version,
    /// A header field is malformed: folded, without a name, with a space before the colon, or with control bytes.
    #[error("a header field is malformed")]
    Header,
    /// The header section is too long or has too many fields.
    #[error("the header section is too large")]
    HeadersTooLarge,
    /// `Host` is missing, repeated or malformed.
    #[error("the Host header is missing, repeated or malformed")]
    Host,
    /// `Content-Length` is repeated or not a number.
    #[error("Content-Length is repeated or malformed")]
    ContentLength,
    /// `Transfer-Encoding` stands beside `Content-Length`, in HTTP/1.0, or does not end in one `chunked`.
    #[error("Transfer-Encoding is malformed or in conflict with Content-Length")]
    TransferEncoding,
    /// `Transfer-Encoding` names a coding other than `chunked`.
    #[error("the transfer coding is not implemented")]
    TransferCoding,
    /// The body is longer than allowed.
    #[error("the request body is too large")]
    BodyTooLarge,
    /// A chunk's size line, its end or the trailer section is malformed or too long.
    #[error("the chunked body is malformed")]
    Chunk,
    /// `Expect` names something other than `100-continue`.
    #[error("the expectation is not supported")]
    Expectation,
    /// The peer ended the connection inside a request.
    #[error("the request is cut short")]
    CutShort,
}

impl HttpError {
    /// Returns the status that answers this violation.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::RequestLine
            | Self::BareLineEnd
            | Self::Target
            | Self::Header
            | Self::Host
            | Self::ContentLength
            | Self::TransferEncoding
            | Self::Chunk
            | Self::CutShort => Status::BAD_REQUEST,
            Self::TargetTooLong => Status::URI_TOO_LONG,
            Self::Method | Self::TransferCoding => Status::NOT_IMPLEMENTED,
            Self::Version => Status::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadersTooLarge => Status::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => Status::CONTENT_TOO_LARGE,
            Self::Expectation => Status::EXPECTATION_FAILED,
        }
    }

    /// Returns the stable code of the JSON error body.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::RequestLine => "bad_request_line",
            Self::BareLineEnd => "bare_line_end",
            Self::Target => "bad_target",
            Self::TargetTooLong => "target_too_long",
            Self::Method => "method_not_implemented",
            Self::Version => "version_not_supported",
            Self::Header => "bad_header",
            Self::HeadersTooLarge => "headers_too_large",
            Self::Host => "bad_host",
            Self::ContentLength => "bad_content_length",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::TransferCoding => "transfer_coding_not_implemented",
            Self::BodyTooLarge => "body_too_large",
            Self::Chunk => "bad_chunk",
            Self::Expectation => "expectation_failed",
            Self::CutShort => "cut_short",
        }
    }
}
