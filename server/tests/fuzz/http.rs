//! The HTTP machine: what it says does not depend on how the input is split, it ends, and what it hands over is checked.

use dfs_server::http::{
    BodyLength, Connection, Event, Headers, Method, Output, Representation, Request, Status,
};
use dfs_server::http::{ContentCoding, EntityTag};

use crate::{Target, data_directory, place_in};

const BODY_LEN_MAX: u64 = 300;

pub(super) fn target() -> Target {
    Target {
        name: "HTTP requests",
        seeds: seeds(),
        words: &[
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b"\0",
            b" ",
            b"\t",
            b":",
            b"%00",
            b"%",
            b"Host: h\r\n",
            b"Content-Length: 5\r\n",
            b"Content-Length: 0\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"Connection: keep-alive\r\n",
            b"Expect: 100-continue\r\n",
            b"TE: trailers\r\n",
            b"Range: bytes=0-1\r\n",
            b"If-None-Match: \"a\", W/\"b\"\r\n",
            b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            b"Accept-Encoding: gzip;q=0.5, *;q=0\r\n",
            b"HTTP/1.0",
            b"HTTP/1.1",
            b"http://h:1/",
            b"0\r\n\r\n",
            b"1;a=\"b\\\"\"\r\nx\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
        check,
        answers_min: 200,
    }
}

const PIPELINED: &[u8] = b"POST /a%20b?x=1&y=%26 HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
    3;e=\"f\"\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX-A: 1\r\nHost: h\r\n\r\n\
    GET /b HTTP/1.1\r\nHost: h\r\nRange: bytes=2-4\r\nIf-Range: \"a\"\r\nAccept-Encoding: gzip\r\n\r\n\
    PUT http://h/c HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\nIf-Match: \"a\"\r\n\r\nbody\
    GET /d HTTP/1.0\r\nConnection: keep-alive\r\nIf-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT\r\n\r\n\
    OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\nRange: bytes=-1\r\nConnection: close\r\n\r\n";

/// The requests of the corpus files, each also with a `Host`, and some that use everything.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![PIPELINED.to_vec()];
    let mut files: Vec<_> = std::fs::read_dir(data_directory().join("http/llhttp"))
        .expect("the corpus is there")
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("the corpus is text");
        for block in text.split("```http\n").skip(1) {
            let request = block.split("```").next().unwrap_or_default().replace('\n', "\r\n");
            let request = request.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t");
            seeds.push(request.replacen("\r\n", "\r\nHost: h\r\n", 1).into_bytes());
            seeds.push(request.into_bytes());
        }
    }
    seeds
}

fn check(input: &[u8]) -> String {
    let whole = said(&[input]);
    let (first, second) = input.split_at(place_in(input));
    assert_eq!(said(&[first, second]), whole, "split at {}", first.len());
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(said(&bytes), whole, "byte by byte");
    // The answer in short: kinds of events and errors, without texts and lengths.
    whole.iter().map(|event| event.split('\u{1f}').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
}

/// Runs the machine on an input in parts, answering each request; adjacent pieces of a body count as one.
fn said(parts: &[&[u8]]) -> Vec<String> {
    let mut machine = Connection::new(BODY_LEN_MAX);
    let mut said = Vec::new();
    let mut body = Vec::new();
    let mut budget = 8 * parts.iter().map(|part| part.len()).sum::<usize>() + 16;
    for part in parts.iter().copied().map(Some).chain([None]) {
        match part {
            Some(part) => machine.receive(part),
            None => machine.receive_end(),
        }
        loop {
            budget = budget.checked_sub(1).expect("the machine makes no end of events");
            match machine.next_event() {
                Ok(Event::Request(request)) => said.push(describe(&request)),
                Ok(Event::Body(bytes)) => {
                    assert!(!bytes.is_empty());
                    body.extend_from_slice(&bytes);
                    assert!(body.len() as u64 <= BODY_LEN_MAX);
                }
                Ok(Event::EndOfMessage) => {
                    let trailers = fields(machine.trailers());
                    let count = machine.trailers().len().min(3);
                    let size = body.len().min(2);
                    said.push(format!(
                        "end {size} {count}\u{1f}{} {trailers}",
                        std::mem::take(&mut body).escape_ascii()
                    ));
                    respond(&mut machine);
                }
                Ok(Event::NeedMore | Event::Paused | Event::Closed) => break,
                Err(error) => {
                    body.clear();
                    said.push(error.code().to_owned());
                    assert!(matches!(machine.next_event(), Ok(Event::Closed)), "an error is the last word");
                }
            }
        }
    }
    assert!(body.is_empty(), "an incomplete body is an error");
    said
}

fn respond(machine: &mut Connection) {
    let (mut output, mut trailers) = (Output::default(), Headers::new());
    trailers.append("X-Sum", "1");
    machine.send_head(Status::OK, &Headers::new(), BodyLength::Unknown, None, &mut output);
    machine.send_data(bytes::Bytes::from_static(b"ab"), &mut output).expect("the length is open");
    machine.send_end_with(&trailers, &mut output).expect("the length is open");
    machine.next_cycle();
}

/// Describes a request and checks what every handler relies on.
fn describe(request: &Request) -> String {
    let is_line = |bytes: &[u8]| !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0'));
    assert!(!request.path.contains(&0));
    assert!(request.raw_target.iter().all(|byte| *byte > b' ' && *byte != 0x7f));
    assert!(request.raw_path.starts_with(b"/") || request.method == Method::Options);
    for (name, value) in request.headers.iter() {
        assert!(!name.is_empty() && is_line(name) && is_line(value) && value == value.trim_ascii());
    }
    assert!(
        request.headers.get_all("Transfer-Encoding").count()
            + request.headers.get_all("Content-Length").count()
            <= 1
    );

    let tag = EntityTag::strong("a");
    let representation = Representation { len: 10, tag: &tag, modified: Some(784_111_777) };
    let answer = representation.answer(request.method, &request.headers);
    let head = representation.head(answer);
    assert!(head.headers.iter().all(|(_, value)| is_line(value)));
    let coding = ContentCoding::preferred(&request.headers);
    format!(
        "{} {} {} {coding:?}\u{1f}{} {:?} {}",
        request.method,
        request.query.len().min(3),
        answer.status().code(),
        request.path.escape_ascii(),
        request.query,
        fields(&request.headers)
    )
}

fn fields(headers: &Headers) -> String {
    let field = |(name, value): (&[u8], &[u8])| format!("{}={}", name.escape_ascii(), value.escape_ascii());
    headers.iter().map(field).collect::<Vec<_>>().join(",")
}
