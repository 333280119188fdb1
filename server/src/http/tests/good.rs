//! Input that is taken.

use super::*;

#[test]
fn good_input_gives_its_events_however_it_is_split() {
    let table: [(&str, &[&str]); 20] = [
        ("", &["closed"]),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", &["GET / host=h", "end ", "closed"]),
        ("\r\n\r\nGET / HTTP/1.1\r\nhost:h\r\n\r\n\r\n", &["GET / host=h", "end ", "closed"]),
        (
            "GET /a%20b?x=1&y=%26 HTTP/1.1\r\nHost:\t h:1 \t\r\n\r\n",
            &["GET /a b ?x=1 ?y=& host=h:1", "end ", "closed"],
        ),
        ("GET / HTTP/1.1\r\nHost: h\r\nA:\r\nB: x y\t\r\n\r\n", &["GET / host=h a= b=x y", "end ", "closed"]),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: \u{e9}\r\n\r\n", &["GET / host=h a=\\xc3\\xa9", "end ", "closed"]),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", &["GET / host=", "end ", "closed"]),
        ("GET / HTTP/1.0\r\n\r\n", &["GET /", "end ", "last", "closed"]),
        (
            "GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n",
            &["GET /1 connection=Keep-Alive", "end ", "GET /2", "end ", "last", "closed"],
        ),
        ("GET / HTTP/1.9\r\nHost: h\r\n\r\n", &["GET / host=h", "end ", "closed"]),
        ("GET http://h/p HTTP/1.1\r\nHost: h\r\n\r\n", &["GET /p host=h", "end ", "closed"]),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", &["OPTIONS * host=h", "end ", "closed"]),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: x, close\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
            &["GET / host=h connection=x, close", "end ", "last", "closed"],
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbodyHEAD /2 HTTP/1.1\r\nHost: h\r\n\r\n",
            &["POST / host=h content-length=4", "end body", "HEAD /2 host=h", "end ", "closed"],
        ),
        (
            "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0004\r\n\r\n\r\n\r\n",
            &["PUT / host=h content-length=0004", "end \\r\\n\\r\\n", "closed"],
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
            &["POST / host=h content-length=0", "end ", "closed"],
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n",
            &["POST / host=h transfer-encoding=Chunked", "end abc0123456789", "closed"],
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b\"\r\n\r\n\r\n1 ;c\r\nx\r\n000;e\r\nT: 1\r\nU:2\r\n\r\n\
             GET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
            &["POST / host=h transfer-encoding=chunked", "end \\r\\nx", "GET /2 host=h", "end ", "closed"],
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
            &["POST / host=h expect=100-Continue content-length=1", "end x", "closed"],
        ),
        (
            "DELETE /1 HTTP/1.1\r\nHost: h\r\n\r\nPATCH /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n",
            &["DELETE /1 host=h", "end ", "PATCH /2 host=h", "end ", "GET /3 host=h", "end ", "closed"],
        ),
    ];
    for (input, expected) in table {
        assert_eq!(run_split(input.as_bytes(), 100), expected, "{input:?}");
    }
}

#[test]
fn lengths_at_their_limits_are_taken() {
    use crate::limits::*;
    let target = format!("/{}", "a".repeat(HTTP_TARGET_LEN_MAX - 1));
    let said = run_split(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(), 0);
    assert_eq!(said, [&format!("GET {target} host=h"), "end ", "closed"]);

    let value = "v".repeat(HTTP_HEADERS_LEN_MAX - "Host: h\r\nA: \r\n\r\n".len());
    let said = run_split(format!("GET / HTTP/1.1\r\nHost: h\r\nA: {value}\r\n\r\n").as_bytes(), 0);
    assert_eq!(said, [&format!("GET / host=h a={value}"), "end ", "closed"]);

    let fields = "A: 1\r\n".repeat(HTTP_HEADERS_MAX - 1);
    let said = run_split(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes(), 0);
    assert_eq!(said.len(), 3, "{said:?}");

    let empty = "\r\n".repeat(HTTP_EMPTY_LINES_MAX);
    let said = run_split(format!("{empty}GET / HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(), 0);
    assert_eq!(said, ["GET / host=h", "end ", "closed"]);

    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = "e".repeat(HTTP_CHUNK_LINE_LEN_MAX - "5;\r\n".len());
    let trailer = "t".repeat(HTTP_TRAILERS_LEN_MAX - "T:\r\n\r\n".len());
    let input = format!("{chunked}5;{extension}\r\n12345\r\n0\r\nT:{trailer}\r\n\r\n");
    let said = run_split(input.as_bytes(), 5);
    assert_eq!(said[1..], ["end 12345", "closed"]);

    let input = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12345";
    assert_eq!(run_split(input.as_bytes(), 5)[1..], ["end 12345", "closed"]);
}

#[test]
fn extensions_of_chunks_are_read_past() {
    for extensions in [";a", " ; a = b", ";a=b;c", "\t;a=\"b c; \\\" d\\\\\"", ";a=\"\";b=\"\u{e9}\""] {
        let input = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1{extensions}\r\nx\r\n0{extensions}\r\n\r\n"
        );
        assert_eq!(run_split(input.as_bytes(), 1)[1..], ["end x", "closed"], "{extensions:?}");
    }
}

#[test]
fn trailers_are_handed_over_without_those_that_no_trailer_may_be() {
    let input = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\
                 Content-Digest: d\r\nContent-Length: 5\r\nhost: other\r\nX-A:\t b \r\nX-A: c\r\n\r\n";
    for at in 0..=input.len() {
        let mut machine = Connection::new(1);
        let mut events = Vec::new();
        for part in [&input[..at], &input[at..]] {
            machine.receive(part.as_bytes());
            while let Ok(event) = machine.next_event() {
                match event {
                    Event::NeedMore | Event::Paused => break,
                    Event::EndOfMessage => events.push("end"),
                    _ => assert!(machine.trailers().is_empty()),
                }
            }
        }
        let trailers: Vec<_> = machine.trailers().iter().collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"Content-Digest", b"d"), (b"X-A", b"b"), (b"X-A", b"c")];
        assert_eq!(trailers, expected, "split at {at}");
        assert_eq!(events, ["end"]);

        let mut output = Output::default();
        machine.send_head(Status::OK, &Headers::new(), BodyLength::None, None, &mut output);
        machine.send_end(&mut output).unwrap();
        assert!(machine.next_cycle());
        assert!(machine.trailers().is_empty());
    }
}

#[test]
fn as_many_trailers_as_header_fields_are_taken() {
    let trailers = "T:\r\n".repeat(crate::limits::HTTP_HEADERS_MAX);
    let input =
        format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n");
    assert_eq!(run_split(input.as_bytes(), 0)[1..], ["end ", "closed"]);
}
