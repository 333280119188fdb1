//! What a parser says about an input, in a form that llhttp's log and this machine's events share.

use crate::http::*;

/// A request as far as it was taken.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) version: Vec<u8>,
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its end was seen.
    pub(super) complete: bool,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let fields = |fields: &[(Vec<u8>, Vec<u8>)]| {
            fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect::<Vec<_>>()
        };
        f.debug_struct("Message")
            .field("line", &[text(&self.method), text(&self.target), text(&self.version)])
            .field("headers", &fields(&self.headers))
            .field("body", &text(&self.body))
            .field("trailers", &fields(&self.trailers))
            .field("complete", &self.complete)
            .finish()
    }
}

/// How it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Goes on with more input.
    Waits,
    /// Ended by the request's `Connection`, with input left.
    Closed,
    /// Left to another protocol.
    Upgraded,
    /// Refused.
    Refused(String),
}

/// Everything about one input. A request that is refused before its end counts as not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) messages: Vec<Message>,
    pub(super) verdict: Verdict,
}

impl Outcome {
    /// Runs the machine; each request is answered at its end. A field `Host: hidden_host` is not reported.
    pub(super) fn observe(parts: &[&[u8]], ends: bool, hidden_host: &str) -> Self {
        let mut machine = Connection::new(1 << 20);
        let mut messages: Vec<Message> = Vec::new();
        let mut verdict = Verdict::Waits;
        for (at, part) in parts.iter().enumerate() {
            machine.receive(part);
            if ends && at + 1 == parts.len() {
                machine.receive_end();
            }
            while verdict == Verdict::Waits {
                match machine.next_event() {
                    Ok(Event::Request(request)) => messages.push(message(&request, hidden_host)),
                    Ok(Event::Body(bytes)) => messages.last_mut().unwrap().body.extend_from_slice(&bytes),
                    Ok(Event::EndOfMessage) => finish(&mut machine, messages.last_mut().unwrap()),
                    Ok(Event::NeedMore | Event::Paused) => break,
                    Ok(Event::Closed) if machine.buffered() > 0 => verdict = Verdict::Closed,
                    Ok(Event::Closed) => break,
                    Err(error) => {
                        verdict = Verdict::Refused(format!("{} {}", error.status().code(), error.code()))
                    }
                }
            }
        }
        if matches!(verdict, Verdict::Refused(_)) && messages.last().is_some_and(|last| !last.complete) {
            messages.pop();
        }
        Self { messages, verdict }
    }

    /// Tells whether both say the same, whatever the words of a refusal.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        self.messages == other.messages
            && (self.verdict == other.verdict || (self.is_refused() && other.is_refused()))
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self.verdict, Verdict::Refused(_))
    }

    pub(super) fn waits(&self) -> bool {
        self.verdict == Verdict::Waits
    }

    /// Returns it in a few words, and whether field values differ where these are the same as the other's.
    pub(super) fn summary_beside(&self, other: &Self) -> String {
        let differs = self.messages != other.messages && self.summary() == other.summary();
        if differs { format!("{}, other values", self.summary()) } else { self.summary() }
    }

    /// Returns it in a few words.
    pub(super) fn summary(&self) -> String {
        let whole = self.messages.iter().filter(|message| message.complete).count();
        let mut words = match whole {
            0 => Vec::new(),
            1 => vec!["1 request".to_owned()],
            count => vec![format!("{count} requests")],
        };
        if self.messages.len() > whole {
            words.push("a head".to_owned());
        }
        let trailers: usize = self.messages.iter().map(|message| message.trailers.len()).sum();
        if trailers > 0 {
            words.push(format!("{trailers} trailers"));
        }
        match &self.verdict {
            Verdict::Waits if words.is_empty() => words.push("waits".to_owned()),
            Verdict::Waits => {}
            Verdict::Closed => words.push("closed".to_owned()),
            Verdict::Upgraded => words.push("upgraded".to_owned()),
            Verdict::Refused(reason) => words.push(format!("refused: {reason}")),
        }
        words.join(", ")
    }
}

fn message(request: &Request, hidden_host: &str) -> Message {
    let is_hidden = |(name, value): &(&[u8], &[u8])| *name == b"Host" && *value == hidden_host.as_bytes();
    let version: &[u8] = match request.version {
        Version::Http10 => b"1.0",
        Version::Http11 => b"1.1",
    };
    Message {
        method: request.method.as_str().into(),
        target: request.raw_target.to_vec(),
        version: version.to_vec(),
        headers: fields(request.headers.iter().filter(|field| !is_hidden(field))),
        ..Message::default()
    }
}

fn fields<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

fn finish(machine: &mut Connection, message: &mut Message) {
    message.complete = true;
    message.trailers = fields(machine.trailers().iter());
    let mut output = Output::default();
    machine.send_head(Status::OK, &Headers::new(), BodyLength::None, None, &mut output);
    machine.send_end(&mut output).unwrap();
    machine.next_cycle();
}
