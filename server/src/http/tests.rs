//! Tests of the machine: tables of good and bad input, each input split at every byte; and its output.

mod bad;
mod corpus;
mod good;
mod mutated;
mod output;

use super::*;

/// Everything the machine says about an input that comes in these parts, adjacent body pieces joined. Each request is
/// answered at once, so that pipelined ones follow.
fn run(parts: &[&[u8]], body_len_max: u64, end: bool) -> Vec<String> {
    let mut machine = Connection::new(body_len_max);
    let mut said = Vec::new();
    let mut body = Vec::new();
    for part in parts {
        machine.receive(part);
        step(&mut machine, &mut said, &mut body);
    }
    if end {
        machine.receive_end();
        step(&mut machine, &mut said, &mut body);
    }
    if !body.is_empty() {
        said.push(format!("partial {}", body.escape_ascii()));
    }
    said
}

fn step(machine: &mut Connection, said: &mut Vec<String>, body: &mut Vec<u8>) {
    loop {
        match machine.next_event() {
            Ok(Event::Request(request)) => said.push(describe(&request)),
            Ok(Event::Body(bytes)) => {
                assert!(!bytes.is_empty());
                body.extend_from_slice(&bytes);
            }
            Ok(Event::EndOfMessage) => {
                said.push(format!("end {}", std::mem::take(body).escape_ascii()));
                let mut output = Output::default();
                machine.send_head(Status::OK, &Headers::new(), BodyLength::None, None, &mut output);
                machine.send_end(&mut output).unwrap();
                if !machine.next_cycle() {
                    said.push("last".to_owned());
                }
            }
            Ok(Event::NeedMore | Event::Paused) => return,
            Ok(Event::Closed) => {
                if said.last().is_none_or(|last| last != "closed") {
                    said.push("closed".to_owned());
                }
                return;
            }
            Err(error) => {
                body.clear();
                said.push(format!("{} {error:?}", error.status().code()));
            }
        }
    }
}

fn describe(request: &Request) -> String {
    let fields = request.headers.iter().map(|(name, value)| {
        format!(" {}={}", name.escape_ascii().to_string().to_lowercase(), value.escape_ascii())
    });
    let query = request
        .query
        .iter()
        .map(|(name, value)| format!(" ?{}={}", name.escape_ascii(), value.escape_ascii()));
    format!(
        "{} {}{}{}",
        request.method,
        request.path.escape_ascii(),
        query.collect::<String>(),
        fields.collect::<String>()
    )
}

/// Runs an input whole, byte by byte and split in two at every byte; all must say the same.
fn run_split(input: &[u8], body_len_max: u64) -> Vec<String> {
    let whole = run(&[input], body_len_max, true);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&bytes, body_len_max, true), whole, "byte by byte: {}", input.escape_ascii());
    let step = (input.len() / 2000).max(1);
    for at in (0..input.len()).step_by(step) {
        let (first, second) = input.split_at(at);
        assert_eq!(run(&[first, second], body_len_max, true), whole, "at {at}: {}", input.escape_ascii());
    }
    whole
}
