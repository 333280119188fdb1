//! A sync session as a state machine: which calls fit which state, and where they lead.
//!
//! ```text
//! Idle ─ diff ─► ComputingDiff ─ planned ─► TransferringFiles ◄─┐
//!                                              │ │ upload_complete
//!                                 all moved ┌──┘ ▼              │ more to move
//!                                           │  ApplyingChanges ─┤
//!                                           ▼                   │ only conflicts are left
//!                                        Complete ◄── nothing ──┤
//!                                           ▲    is left        ▼
//!                                           └────────── ResolvingConflicts ─ upload_complete ─► ApplyingChanges
//! any but Complete ─ failed ─► Failed
//! ```
//!
//! | state | `diff` | `upload_chunk` | `upload_complete` | download |
//! |---|---|---|---|---|
//! | `Idle` | yes | 409 | 409 | 409 |
//! | `ComputingDiff` | 409 | 409 | 409 | 409 |
//! | `TransferringFiles` | yes, plans anew | yes | yes | yes |
//! | `ResolvingConflicts` | yes, plans anew | yes | yes | yes |
//! | `ApplyingChanges` | 409 | yes | yes | yes |
//! | `Complete`, `Failed` | 409 | 409 | 409 | 409 |
//!
//! After each of them [`Left`] decides: files under way → `ApplyingChanges`, else files to move → `TransferringFiles`, else
//! conflicts → `ResolvingConflicts`, else `Complete`. A restarted server lets what it was about to do be asked for again.
//! Invariant: no clock and no store in here; `Complete` and `Failed` are never left.

use std::fmt;

use dfs_shared::time::Timestamp;

use crate::limits::SESSION_SILENCE_S_MAX;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Started; nothing compared yet.
    Idle,
    /// The client's files are being compared with the server's.
    ComputingDiff,
    /// Files go up and down.
    TransferringFiles,
    /// Only files that both sides changed are left.
    ResolvingConflicts,
    /// Uploaded files are being put together and published.
    ApplyingChanges,
    /// Nothing is left to do.
    Complete,
    /// The server could not go on; a new session can.
    Failed,
}

/// What a client asks of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `POST /api/sync/diff`.
    Diff,
    /// `POST /api/file/upload_chunk`.
    UploadChunk,
    /// `POST /api/file/upload_complete`.
    UploadComplete,
    /// `GET /api/file/download/…` that names the session.
    Download,
}

/// What is left to do in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Files to upload or download.
    pub transfers: u64,
    /// Files that both sides changed.
    pub conflicts: u64,
    /// Uploads that are being published at this moment.
    pub applying: u64,
}

/// A call that does not fit the session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call} needs a session in state {}, this one is in state {state}", wanted(*.call))]
pub struct WrongState {
    /// What was asked.
    pub call: Call,
    /// Where the session stands.
    pub state: State,
}

impl State {
    /// All of them, in the order of their stored numbers.
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::ComputingDiff,
        Self::TransferringFiles,
        Self::ResolvingConflicts,
        Self::ApplyingChanges,
        Self::Complete,
        Self::Failed,
    ];

    /// Returns its name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::ComputingDiff => "ComputingDiff",
            Self::TransferringFiles => "TransferringFiles",
            Self::ResolvingConflicts => "ResolvingConflicts",
            Self::ApplyingChanges => "ApplyingChanges",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
        }
    }

    /// Returns the number under which it is stored.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns what a stored number stands for.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Returns the states in which uploads are under way, as bits of their stored numbers.
    #[must_use]
    pub fn bits_of_open() -> u32 {
        let open = Self::ALL.into_iter().filter(|state| state.begin(Call::UploadChunk).is_ok());
        open.fold(0, |bits, state| bits | 1 << state.number())
    }

    /// Takes a call; returns the state while it is being answered.
    ///
    /// # Errors
    /// [`WrongState`] when the call does not fit.
    pub const fn begin(self, call: Call) -> Result<Self, WrongState> {
        match (self, call) {
            (Self::Idle | Self::TransferringFiles | Self::ResolvingConflicts, Call::Diff) => {
                Ok(Self::ComputingDiff)
            }
            (
                Self::TransferringFiles | Self::ResolvingConflicts | Self::ApplyingChanges,
                Call::UploadComplete,
            ) => Ok(Self::ApplyingChanges),
            (
                Self::TransferringFiles | Self::ResolvingConflicts | Self::ApplyingChanges,
                Call::UploadChunk | Call::Download,
            ) => Ok(self),
            (Self::Idle | Self::ComputingDiff | Self::Complete | Self::Failed, _)
            | (Self::ApplyingChanges, Call::Diff) => Err(WrongState { call, state: self }),
        }
    }

    /// Returns the state after a call was answered, by what is left to do. What has ended stays so.
    #[must_use]
    pub const fn settle(self, left: Left) -> Self {
        match self {
            Self::Complete | Self::Failed | Self::Idle => self,
            Self::ComputingDiff
            | Self::TransferringFiles
            | Self::ResolvingConflicts
            | Self::ApplyingChanges => match left {
                Left { applying: 1.., .. } => Self::ApplyingChanges,
                Left { transfers: 1.., .. } => Self::TransferringFiles,
                Left { conflicts: 1.., .. } => Self::ResolvingConflicts,
                Left { .. } => Self::Complete,
            },
        }
    }

    /// Returns the state after the server could not go on.
    #[must_use]
    pub const fn fail(self) -> Self {
        match self {
            Self::Complete => Self::Complete,
            Self::Idle
            | Self::ComputingDiff
            | Self::TransferringFiles
            | Self::ResolvingConflicts
            | Self::ApplyingChanges
            | Self::Failed => Self::Failed,
        }
    }

    /// Returns the state in which a server that was restarted goes on: a diff is asked for again, and so is
    /// an `upload_complete` that was not answered.
    #[must_use]
    pub const fn restart(self, left: Left) -> Self {
        match self {
            Self::ComputingDiff => Self::Idle,
            Self::ApplyingChanges => self.settle(Left { applying: 0, ..left }),
            Self::Idle
            | Self::TransferringFiles
            | Self::ResolvingConflicts
            | Self::Complete
            | Self::Failed => self,
        }
    }
}

/// Tells whether a session whose client was heard last at `heard` is over at `now`.
#[must_use]
pub fn is_expired(heard: Timestamp, now: Timestamp) -> bool {
    heard < expired_before(now)
}

/// Returns the time at which a client must have been heard for its session to go on at `now`.
#[must_use]
pub fn expired_before(now: Timestamp) -> Timestamp {
    Timestamp { secs: now.secs.saturating_sub(SESSION_SILENCE_S_MAX), nanos: now.nanos }
}

/// The states that a call fits, for people.
const fn wanted(call: Call) -> &'static str {
    match call {
        Call::Diff => "Idle, TransferringFiles or ResolvingConflicts",
        Call::UploadChunk | Call::UploadComplete | Call::Download => {
            "TransferringFiles, ResolvingConflicts or ApplyingChanges"
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diff => "diff",
            Self::UploadChunk => "upload_chunk",
            Self::UploadComplete => "upload_complete",
            Self::Download => "a download of this session",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: [Call; 4] = [Call::Diff, Call::UploadChunk, Call::UploadComplete, Call::Download];

    #[test]
    fn every_call_in_every_state_does_what_the_table_says() {
        use State::*;
        let no = None;
        let table = [
            (Idle, [Some(ComputingDiff), no, no, no]),
            (ComputingDiff, [no; 4]),
            (
                TransferringFiles,
                [
                    Some(ComputingDiff),
                    Some(TransferringFiles),
                    Some(ApplyingChanges),
                    Some(TransferringFiles),
                ],
            ),
            (
                ResolvingConflicts,
                [
                    Some(ComputingDiff),
                    Some(ResolvingConflicts),
                    Some(ApplyingChanges),
                    Some(ResolvingConflicts),
                ],
            ),
            (ApplyingChanges, [no, Some(ApplyingChanges), Some(ApplyingChanges), Some(ApplyingChanges)]),
            (Complete, [no; 4]),
            (Failed, [no; 4]),
        ];
        assert_eq!(table.map(|(state, _)| state), State::ALL);
        for (state, row) in table {
            for (call, expected) in CALLS.into_iter().zip(row) {
                assert_eq!(state.begin(call).ok(), expected, "{call} in {state}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_state_found_and_those_that_fit() {
        let text = State::Idle.begin(Call::UploadChunk).unwrap_err().to_string();
        assert!(text.contains("state Idle") && text.contains("TransferringFiles"), "{text}");
    }

    #[test]
    fn what_is_left_decides_the_state_after_a_call() {
        use State::*;
        let left = |transfers, conflicts, applying| Left { transfers, conflicts, applying };
        for state in [ComputingDiff, TransferringFiles, ResolvingConflicts, ApplyingChanges] {
            assert_eq!(state.settle(left(0, 0, 0)), Complete);
            assert_eq!(state.settle(left(0, 1, 0)), ResolvingConflicts);
            assert_eq!(state.settle(left(1, 1, 0)), TransferringFiles);
            assert_eq!(state.settle(left(1, 1, 1)), ApplyingChanges);
            assert_eq!(state.fail(), Failed);
        }
        for state in [Complete, Failed] {
            assert_eq!(state.settle(left(1, 1, 1)), state, "what has ended stays so");
            assert_eq!(state.fail(), state);
        }
    }

    #[test]
    fn a_restarted_server_can_be_asked_again() {
        let left = Left { transfers: 1, conflicts: 0, applying: 1 };
        assert!(State::ComputingDiff.restart(left).begin(Call::Diff).is_ok());
        assert!(State::ApplyingChanges.restart(left).begin(Call::UploadComplete).is_ok());
        assert_eq!(State::Complete.restart(left), State::Complete);
    }

    #[test]
    fn a_session_expires_after_its_silence_and_not_before() {
        let heard = Timestamp { secs: 1000, nanos: 5 };
        let at = |secs, nanos| Timestamp { secs, nanos };
        assert!(!is_expired(heard, at(1000 + SESSION_SILENCE_S_MAX, 5)));
        assert!(is_expired(heard, at(1000 + SESSION_SILENCE_S_MAX, 6)));
        assert!(!is_expired(heard, at(0, 0)), "a clock that was set back ends nothing");
    }

    #[test]
    fn stored_numbers_are_read_back() {
        for state in State::ALL {
            assert_eq!(State::from_number(state.number()), Some(state));
        }
        assert_eq!(State::from_number(7), None);
    }
}
