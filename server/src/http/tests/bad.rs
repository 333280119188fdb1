//! Input that is refused, with its status; after it the connection says nothing but that it is closed.

use super::run_split;
use crate::limits::*;

fn refused(input: &str, body_len_max: u64) -> String {
    let said = run_split(input.as_bytes(), body_len_max);
    assert_eq!(said.last().map(String::as_str), Some("closed"), "{input:?} said {said:?}");
    said[said.len() - 2].clone()
}

#[test]
fn malformed_heads_are_refused_with_their_status() {
    let table = [
        ("GET / HTTP/1.1\nHost: h\r\n\r\n", "400 BareLineEnd"),
        ("GET / HTTP/1.1\r\nHost: h\n\r\n", "400 BareLineEnd"),
        ("GET / HTTP/1.1\r\nHost: h\r\n\n", "400 BareLineEnd"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", "400 BareLineEnd"),
        ("GET / HTTP/1.1\r\r\nHost: h\r\n\r\n", "400 BareLineEnd"),
        ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "400 BareLineEnd"),
        ("GET / HTTP/1.1", "400 CutShort"),
        ("GET / HTTP/1.1\r\nHost: h\r\n", "400 CutShort"),
        ("GET /\r\n\r\n", "400 RequestLine"),
        ("GET\r\n\r\n", "400 RequestLine"),
        (" / HTTP/1.1\r\nHost: h\r\n\r\n", "400 RequestLine"),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET /  HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", "400 RequestLine"),
        ("GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", "400 RequestLine"),
        ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", "400 RequestLine"),
        ("GET / http/1.1\r\nHost: h\r\n\r\n", "400 RequestLine"),
        ("GET / HTTP/1.10\r\nHost: h\r\n\r\n", "400 RequestLine"),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", "505 Version"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 Version"),
        ("GET / HTTP/0.9\r\n\r\n", "505 Version"),
        ("get / HTTP/1.1\r\nHost: h\r\n\r\n", "501 Method"),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", "501 Method"),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", "501 Method"),
        ("BREW / HTTP/1.1\r\nHost: h\r\n\r\n", "501 Method"),
        ("GET h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", "400 Target"),
        ("GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET /%2 HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET /#f HTTP/1.1\r\nHost: h\r\n\r\n", "400 Target"),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\n Host: h\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: \0\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA\0: b\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: \u{7f}\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\nHost: h\r\n\u{e9}: b\r\n\r\n", "400 Header"),
        ("GET / HTTP/1.1\r\n\r\n", "400 Host"),
        ("GET / HTTP/1.1\r\nHost: h\r\nhost: h\r\n\r\n", "400 Host"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400 Host"),
        ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", "400 Host"),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", "417 Expectation"),
    ];
    for (input, expected) in table {
        assert_eq!(refused(input, 100), expected, "{input:?}");
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    let table = [
        ("Content-Length: 1\r\nContent-Length: 1", "400 ContentLength"),
        ("Content-Length: 1\r\nContent-Length: 2", "400 ContentLength"),
        ("Content-Length: 1, 1", "400 ContentLength"),
        ("Content-Length: +1", "400 ContentLength"),
        ("Content-Length: -1", "400 ContentLength"),
        ("Content-Length: 0x1", "400 ContentLength"),
        ("Content-Length: 1 1", "400 ContentLength"),
        ("Content-Length:", "400 ContentLength"),
        ("Content-Length: 101", "413 BodyTooLarge"),
        ("Content-Length: 99999999999999999999999", "413 BodyTooLarge"),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", "400 TransferEncoding"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1", "400 TransferEncoding"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "400 TransferEncoding"),
        ("Transfer-Encoding: chunked, chunked", "400 TransferEncoding"),
        ("Transfer-Encoding: chunked, gzip", "400 TransferEncoding"),
        ("Transfer-Encoding: identity", "400 TransferEncoding"),
        ("Transfer-Encoding: xchunked", "400 TransferEncoding"),
        ("Transfer-Encoding:", "400 TransferEncoding"),
        ("Transfer-Encoding: gzip, chunked", "501 TransferCoding"),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "400 TransferEncoding"),
    ];
    for (fields, expected) in table {
        let input = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n0\r\n\r\n");
        assert_eq!(refused(&input, 100), expected, "{fields:?}");
    }
    let http10 = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(refused(http10, 100), "400 TransferEncoding");
}

#[test]
fn malformed_bodies_are_refused() {
    let long_extension = format!("1;{}\r\nx\r\n", "e".repeat(HTTP_CHUNK_LINE_LEN_MAX - 3));
    let long_trailer = format!("0\r\nT:{}\r\n\r\n", "t".repeat(HTTP_TRAILERS_LEN_MAX - 5));
    let too_many_trailers = format!("0\r\n{}\r\n", "T:\r\n".repeat(HTTP_HEADERS_MAX + 1));
    let many_trailers = format!("0\r\n{}\r\n", "T: 1\r\n".repeat(HTTP_TRAILERS_LEN_MAX / 6 + 1));
    let table = [
        ("g\r\n", "400 Chunk"),
        ("\r\n", "400 Chunk"),
        ("-1\r\n", "400 Chunk"),
        ("+1\r\nx\r\n", "400 Chunk"),
        (" 1\r\nx\r\n", "400 Chunk"),
        ("1 \r\nx\r\n", "400 Chunk"),
        ("0x1\r\nx\r\n", "400 Chunk"),
        ("00000000000000001\r\nx\r\n", "400 Chunk"),
        ("1,\r\nx\r\n", "400 Chunk"),
        ("1;\0\r\nx\r\n", "400 Chunk"),
        ("1;\r\nx\r\n", "400 Chunk"),
        ("1;a;\r\nx\r\n", "400 Chunk"),
        ("1;=b\r\nx\r\n", "400 Chunk"),
        ("1;a=\r\nx\r\n", "400 Chunk"),
        ("1;a=b c\r\nx\r\n", "400 Chunk"),
        ("1;a=\"b\r\nx\r\n", "400 Chunk"),
        ("1;a=\"b\\\"\r\nx\r\n", "400 Chunk"),
        ("1;a=\"b\"c\r\nx\r\n", "400 Chunk"),
        ("1;a=\"\x01\"\r\nx\r\n", "400 Chunk"),
        ("1 a\r\nx\r\n", "400 Chunk"),
        ("ffffffffffffffff0\r\nx\r\n", "400 Chunk"),
        ("1\nx\r\n", "400 BareLineEnd"),
        ("1;a\rb\r\nx\r\n", "400 BareLineEnd"),
        ("1\r\nxy\r\n", "400 Chunk"),
        ("1\r\nx\n", "400 Chunk"),
        ("1\r\nx\ry", "400 Chunk"),
        ("1\r\nx", "400 CutShort"),
        ("5\r\nx", "400 CutShort"),
        ("1\r\nx\r\n0\r\n", "400 CutShort"),
        ("0\r\nbad trailer\r\n\r\n", "400 Chunk"),
        ("0\r\n folded: x\r\n\r\n", "400 Chunk"),
        ("0\r\nT : x\r\n\r\n", "400 Chunk"),
        ("0\r\nT: \0\r\n\r\n", "400 Chunk"),
        ("0\r\nT: x\n\r\n", "400 BareLineEnd"),
        ("0\r\nT: x\ry\r\n\r\n", "400 BareLineEnd"),
        (&too_many_trailers, "400 Chunk"),
        ("65\r\n", "413 BodyTooLarge"),
        ("64\r\n", "400 CutShort"),
        ("ffffffffffffffff\r\n", "413 BodyTooLarge"),
        ("2\r\nxy\r\n63\r\n", "413 BodyTooLarge"),
        (&long_extension, "400 Chunk"),
        (&long_trailer, "400 Chunk"),
        (&many_trailers, "400 Chunk"),
    ];
    for (body, expected) in table {
        let input = format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(refused(&input, 100), expected, "{body:?}");
    }
    let short = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n1234";
    assert_eq!(refused(short, 100), "400 CutShort");
}

#[test]
fn lengths_one_past_their_limits_are_refused() {
    let target = "a".repeat(HTTP_TARGET_LEN_MAX);
    assert_eq!(refused(&format!("GET /{target} HTTP/1.1\r\nHost: h\r\n\r\n"), 0), "414 TargetTooLong");
    assert_eq!(refused(&format!("GET /{target}{target}"), 0), "414 TargetTooLong");

    let value = "v".repeat(HTTP_HEADERS_LEN_MAX - "Host: h\r\nA: \r\n\r\n".len() + 1);
    assert_eq!(
        refused(&format!("GET / HTTP/1.1\r\nHost: h\r\nA: {value}\r\n\r\n"), 0),
        "431 HeadersTooLarge"
    );
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: h\r\nA: {value}{value}"), 0), "431 HeadersTooLarge");

    let fields = "A: 1\r\n".repeat(HTTP_HEADERS_MAX);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"), 0), "431 HeadersTooLarge");

    let empty = "\r\n".repeat(HTTP_EMPTY_LINES_MAX + 1);
    assert_eq!(refused(&format!("{empty}GET / HTTP/1.1\r\nHost: h\r\n\r\n"), 0), "400 RequestLine");

    let input = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n123456";
    assert_eq!(refused(input, 5), "413 BodyTooLarge");
}
