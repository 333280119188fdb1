//! What the machine sends.

use bytes::{Buf, Bytes};

use super::*;

fn machine(input: &str) -> Connection {
    let mut machine = Connection::new(1 << 20);
    machine.receive(input.as_bytes());
    assert!(matches!(machine.next_event(), Ok(Event::Request(_))));
    machine
}

fn text(output: &mut Output) -> String {
    String::from_utf8(output.copy_to_bytes(output.remaining()).to_vec()).unwrap()
}

/// Answers with these pieces; returns what is sent and whether the connection goes on.
fn answer(
    input: &str,
    status: Status,
    headers: &Headers,
    length: BodyLength,
    pieces: &[&'static str],
) -> (String, bool) {
    let (mut machine, mut output) = (machine(input), Output::default());
    while !matches!(machine.next_event(), Ok(Event::Paused | Event::NeedMore)) {}
    machine.send_head(status, headers, length, None, &mut output);
    for piece in pieces {
        machine.send_data(Bytes::from_static(piece.as_bytes()), &mut output).unwrap();
    }
    machine.send_end(&mut output).unwrap();
    (text(&mut output), machine.next_cycle())
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const GET10: &str = "GET / HTTP/1.0\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn bodies_are_framed_by_what_is_known_of_them() {
    let none = Headers::new();
    let known = BodyLength::Known(2);
    type Row = (&'static str, Status, BodyLength, &'static [&'static str], &'static str, bool);
    let table: [Row; 9] = [
        (GET, Status::OK, BodyLength::None, &[], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        (GET, Status::OK, known, &["a", "", "b"], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", true),
        (
            GET,
            Status::OK,
            BodyLength::Unknown,
            &["abc", "", "0123456789abcdef"],
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
            true,
        ),
        (HEAD, Status::OK, known, &["ab"], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", true),
        (
            HEAD,
            Status::OK,
            BodyLength::Unknown,
            &["a"],
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            true,
        ),
        (GET, Status::NO_CONTENT, known, &["ab"], "HTTP/1.1 204 No Content\r\n\r\n", true),
        (GET, Status::NOT_MODIFIED, BodyLength::None, &[], "HTTP/1.1 304 Not Modified\r\n\r\n", true),
        (
            GET10,
            Status::OK,
            known,
            &["ab"],
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
            false,
        ),
        (
            GET10,
            Status::OK,
            BodyLength::Unknown,
            &["a", "b"],
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab",
            false,
        ),
    ];
    for (input, status, length, pieces, expected, goes_on) in table {
        assert_eq!(answer(input, status, &none, length, pieces), (expected.to_owned(), goes_on), "{input:?}");
    }
}

#[test]
fn framing_headers_of_a_handler_are_skipped() {
    let mut headers = Headers::new();
    for name in ["Content-Length", "transfer-encoding", "Connection", "DATE", "X-Kept"] {
        headers.append(name, "7");
    }
    let (sent, _) = answer(GET, Status::OK, &headers, BodyLength::None, &[]);
    assert_eq!(sent, "HTTP/1.1 200 OK\r\nX-Kept: 7\r\nContent-Length: 0\r\n\r\n");
    let (sent, _) = answer(HEAD, Status::OK, &headers, BodyLength::None, &[]);
    assert_eq!(sent, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-Kept: 7\r\n\r\n");
}

#[test]
fn a_keep_alive_peer_of_http10_is_told_so() {
    let input = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let (sent, goes_on) = answer(input, Status::OK, &Headers::new(), BodyLength::None, &[]);
    assert_eq!(sent, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n");
    assert!(goes_on);
}

#[test]
fn a_body_of_another_length_than_announced_is_an_error() {
    let (mut machine, mut output) = (machine(GET), Output::default());
    machine.send_head(Status::OK, &Headers::new(), BodyLength::Known(3), None, &mut output);
    machine.send_data(Bytes::from_static(b"ab"), &mut output).unwrap();
    assert_eq!(machine.send_end(&mut output), Err(BodyLengthError { left: 1 }));
    assert_eq!(machine.send_data(Bytes::from_static(b"cd"), &mut output), Err(BodyLengthError { left: 0 }));
    assert!(!machine.next_cycle());
}

#[test]
fn continue_is_sent_once_and_only_while_the_peer_waits() {
    let expecting = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let mut output = Output::default();
    let mut waiting = machine(expecting);
    assert_eq!(waiting.next_event(), Ok(Event::NeedMore));
    assert!(waiting.needs_continue());
    waiting.send_continue(&mut output);
    waiting.send_continue(&mut output);
    assert_eq!(text(&mut output), "HTTP/1.1 100 Continue\r\n\r\n");

    let mut begun = machine(&format!("{expecting}bo"));
    assert!(!begun.needs_continue());
    begun.send_continue(&mut output);
    assert_eq!(output.remaining(), 0);

    let mut refused = machine(expecting);
    refused.send_head(Status::NOT_FOUND, &Headers::new(), BodyLength::None, None, &mut output);
    refused.send_end(&mut output).unwrap();
    assert!(text(&mut output).contains("Connection: close"));
    assert!(!refused.keeps_alive());
}

#[test]
fn a_short_unread_body_can_be_read_past_and_a_long_one_closes() {
    for (fields, keeps) in [
        (format!("Content-Length: {}", crate::limits::HTTP_DISCARD_LEN_MAX), true),
        (format!("Content-Length: {}", crate::limits::HTTP_DISCARD_LEN_MAX + 1), false),
        ("Transfer-Encoding: chunked".to_owned(), false),
    ] {
        let mut machine = machine(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n"));
        let mut output = Output::default();
        machine.send_head(Status::OK, &Headers::new(), BodyLength::None, None, &mut output);
        machine.send_end(&mut output).unwrap();
        assert_eq!(machine.keeps_alive(), keeps, "{fields}");
        assert_eq!(text(&mut output).contains("Connection: close"), !keeps, "{fields}");
    }
}

#[test]
fn an_error_can_still_be_answered_and_closes() {
    let (mut machine, mut output) = (Connection::new(0), Output::default());
    machine.receive(b"nonsense\r\n");
    assert_eq!(machine.next_event(), Err(HttpError::RequestLine));
    machine.send_head(Status::BAD_REQUEST, &Headers::new(), BodyLength::Known(1), None, &mut output);
    machine.send_data(Bytes::from_static(b"x"), &mut output).unwrap();
    machine.send_end(&mut output).unwrap();
    assert_eq!(
        text(&mut output),
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    );
    assert!(!machine.next_cycle());
    assert_eq!(machine.next_event(), Ok(Event::Closed));
}

#[test]
fn an_error_after_a_head_request_is_answered_with_its_body() {
    let (mut machine, mut output) = (machine(&format!("{HEAD}nonsense\r\n")), Output::default());
    assert_eq!(machine.next_event(), Ok(Event::EndOfMessage));
    machine.send_head(Status::OK, &Headers::new(), BodyLength::None, None, &mut output);
    machine.send_end(&mut output).unwrap();
    assert!(machine.next_cycle());
    text(&mut output);
    assert_eq!(machine.next_event(), Err(HttpError::RequestLine));
    machine.send_head(Status::BAD_REQUEST, &Headers::new(), BodyLength::Known(1), None, &mut output);
    machine.send_data(Bytes::from_static(b"x"), &mut output).unwrap();
    assert!(text(&mut output).ends_with("\r\n\r\nx"));
}

/// Answers with a chunked body and trailers; returns what is sent.
fn answer_with_trailers(input: &str, length: BodyLength) -> String {
    let (mut machine, mut output) = (machine(input), Output::default());
    let (mut headers, mut trailers) = (Headers::new(), Headers::new());
    headers.append("Trailer", "X-Sum");
    trailers.append("X-Sum", "1\r\n2");
    trailers.append("Content-Length", "9");
    machine.send_head(Status::OK, &headers, length, None, &mut output);
    machine.send_data(Bytes::from_static(b"ab"), &mut output).unwrap();
    machine.send_end_with(&trailers, &mut output).unwrap();
    text(&mut output)
}

#[test]
fn trailers_are_sent_to_a_peer_that_takes_them() {
    let takes = "GET / HTTP/1.1\r\nHost: h\r\nTE: gzip;q=0.5, Trailers\r\nConnection: TE\r\n\r\n";
    assert_eq!(
        answer_with_trailers(takes, BodyLength::Unknown),
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1  2\r\n\r\n"
    );
    assert_eq!(
        answer_with_trailers(takes, BodyLength::Known(2)),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"
    );
    let plain = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    assert_eq!(answer_with_trailers(GET, BodyLength::Unknown), plain);
    let other = "GET / HTTP/1.1\r\nHost: h\r\nTE: deflate\r\n\r\n";
    assert_eq!(answer_with_trailers(other, BodyLength::Unknown), plain);
    let old = "GET / HTTP/1.0\r\nTE: trailers\r\n\r\n";
    assert_eq!(
        answer_with_trailers(old, BodyLength::Unknown),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab"
    );
}
