//! What happens in a simulated run: a seed for the network and a list of steps, as text that can be kept as a test.
//!
//! Steps name paths and numbers, never what came of earlier steps, so that any of them may be left out: a step that makes
//! no sense any more (a file that is not there) comes to nothing, as it does for a user.

use std::fmt::{self, Display};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use dfs_tests::random::Random;

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Makes or replaces a file's bytes: open, truncate, write, close.
    Write,
    /// Writes another file and renames it over the first, as editors do.
    Save,
    /// Writes some bytes in the middle of a file: open, write, close.
    Edit,
    /// Sets a file's length.
    Truncate,
    /// Opens a file for writing and keeps the handle.
    Open,
    /// Writes to the open handle.
    Put,
    /// Makes what was written to the open handle durable.
    Fsync,
    /// Closes the open handle.
    Close,
    /// Moves a name, over what is there.
    Rename,
    /// Swaps two names.
    Exchange,
    /// Gives a file a second name.
    Link,
    /// Removes a name.
    Unlink,
    /// Makes a directory.
    Mkdir,
    /// Removes an empty directory.
    Rmdir,
    /// Makes a symlink.
    Symlink,
    /// Sets a mode.
    Chmod,
    /// Sets an extended attribute.
    Xattr,
    /// Reads a file.
    Read,
    /// Drops a file's bytes from this mount, if they may go.
    Evict,
    /// Makes everything on the mount durable.
    Sync,
    /// Kills the mount and starts it again: what was acknowledged stays.
    Kill,
    /// Cuts the mount's power and starts it again: what was not synced is lost as a suffix.
    Power,
    /// Cuts the mount off the server.
    Cut,
    /// Joins the mount with the server again.
    Heal,
    /// Fills the mount's disk.
    Full,
    /// Makes room on the mount's disk.
    Room,
    /// Ends the server and starts it again.
    Restart,
    /// Fills the server's disk.
    Brim,
    /// Makes room on the server's disk.
    Spare,
    /// Sets the volume's quota, to about what a few files have.
    Limit,
    /// Takes the quota away.
    Unlimit,
}

/// Every verb, with how often it is drawn.
const VERBS: [(Verb, &str, u64); 31] = [
    (Verb::Write, "write", 14),
    (Verb::Save, "save", 5),
    (Verb::Edit, "edit", 7),
    (Verb::Truncate, "truncate", 2),
    (Verb::Open, "open", 3),
    (Verb::Put, "put", 6),
    (Verb::Fsync, "fsync", 2),
    (Verb::Close, "close", 3),
    (Verb::Rename, "rename", 12),
    (Verb::Exchange, "exchange", 3),
    (Verb::Link, "link", 3),
    (Verb::Unlink, "unlink", 7),
    (Verb::Mkdir, "mkdir", 9),
    (Verb::Rmdir, "rmdir", 4),
    (Verb::Symlink, "symlink", 2),
    (Verb::Chmod, "chmod", 3),
    (Verb::Xattr, "xattr", 3),
    (Verb::Read, "read", 5),
    (Verb::Evict, "evict", 1),
    (Verb::Sync, "sync", 1),
    (Verb::Kill, "kill", 2),
    (Verb::Power, "power", 0),
    (Verb::Cut, "cut", 2),
    (Verb::Heal, "heal", 3),
    (Verb::Full, "full", 1),
    (Verb::Room, "room", 2),
    (Verb::Restart, "restart", 1),
    (Verb::Brim, "brim", 1),
    (Verb::Spare, "spare", 2),
    (Verb::Limit, "limit", 0),
    (Verb::Unlimit, "unlimit", 0),
];

/// The end of the first line of a script whose mounts let the later write win.
const LAST_WRITE_WINS: &str = " policy last-write-wins";

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Simulated milliseconds that pass before it.
    pub(crate) wait_ms: u64,
    /// On which mount.
    pub(crate) mount: usize,
    /// What.
    pub(crate) verb: Verb,
    /// The path, and the second one where there are two; `-` for none.
    pub(crate) paths: [String; 2],
    /// Numbers: an offset or mode, and a length or value.
    pub(crate) numbers: [u64; 2],
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    /// From which the network's behaviour comes.
    pub(crate) seed: u64,
    /// How many mounts there are.
    pub(crate) mounts: usize,
    /// Longest delay of a message in milliseconds.
    pub(crate) delay_ms_max: u64,
    /// How many of a thousand messages are lost, and how many arrive twice.
    pub(crate) loss_permille: u64,
    /// Mounts let the later of two contents win, instead of keeping both.
    pub(crate) last_write_wins: bool,
    /// What happens.
    pub(crate) steps: Vec<Step>,
}

impl Script {
    /// Draws a run from a seed.
    #[must_use]
    pub(crate) fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mounts = 2 + random.below(2) as usize;
        let delay_ms_max = *random.pick(&[2, 20, 200]);
        let loss_permille = *random.pick(&[0, 0, 30, 150]);
        let pause_ms_max = *random.pick(&[1, 30, 400]);
        // Few names make many meetings.
        let breadth = 2 + random.below(3);
        let faults = random.below(3) > 0;
        let count = 8 + random.below(40);
        let mut steps = Vec::new();
        while (steps.len() as u64) < count {
            let verb = draw(&mut random);
            if !faults && verb.is_fault() {
                continue;
            }
            steps.push(Step {
                wait_ms: random.below(pause_ms_max + 1),
                mount: random.below(mounts as u64) as usize,
                verb,
                paths: [path(&mut random, breadth), path(&mut random, breadth)],
                numbers: [random.below(200), 1 + random.below(300)],
            });
        }
        // Of some seeds, drawn from nothing: machines lose their power, more often than otherwise a process is killed.
        if seed % 8 == 6 {
            let faults = steps.iter_mut().filter(|step| step.verb.ends_something());
            faults.for_each(|step| step.verb = Verb::Power);
        }
        // A policy of some seeds, drawn from nothing: the others stay what they were.
        let last_write_wins = seed % 4 == 3;
        Self { seed, mounts, delay_ms_max, loss_permille, last_write_wins, steps }
    }
}

impl Script {
    /// The same run in a volume that has a quota most of the time.
    #[must_use]
    pub(crate) fn with_quotas(mut self) -> Self {
        // Not the run's own numbers: the rest stays what it was.
        let mut random = Random::new(self.seed ^ 0x5155_4f54_4153);
        for _ in 0..2 + random.below(4) {
            let verb = if random.below(4) > 0 { Verb::Limit } else { Verb::Unlimit };
            let step = Step {
                wait_ms: random.below(30),
                mount: 0,
                verb,
                paths: ["-".to_owned(), "-".to_owned()],
                numbers: [random.below(120), 1],
            };
            let at = random.below(self.steps.len() as u64 + 1) as usize;
            self.steps.insert(at, step);
        }
        self
    }
}

impl Verb {
    fn is_fault(self) -> bool {
        use Verb::{Brim, Cut, Full, Kill, Power, Restart};
        matches!(self, Kill | Power | Cut | Full | Restart | Brim)
    }

    fn ends_something(self) -> bool {
        matches!(self, Self::Kill | Self::Restart | Self::Brim)
    }

    fn text(self) -> &'static str {
        VERBS.iter().find(|(verb, ..)| *verb == self).map_or("?", |(_, text, _)| text)
    }
}

fn draw(random: &mut Random) -> Verb {
    let mut at = random.below(VERBS.iter().map(|(.., weight)| weight).sum());
    for (verb, _, weight) in VERBS {
        if at < weight {
            return verb;
        }
        at -= weight;
    }
    Verb::Read
}

fn path(random: &mut Random, breadth: u64) -> String {
    let depth = *random.pick(&[1, 1, 2, 2, 3]);
    let parts = (0..depth).map(|_| char::from(b'a' + random.below(breadth) as u8).to_string());
    parts.collect::<Vec<_>>().join("/")
}

impl Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, mounts, delay_ms_max, loss_permille, .. } = self;
        write!(f, "seed {seed} mounts {mounts} delay {delay_ms_max} loss {loss_permille}")?;
        writeln!(f, "{}", if self.last_write_wins { LAST_WRITE_WINS } else { "" })?;
        for Step { wait_ms, mount, verb, paths: [first, second], numbers: [a, b] } in &self.steps {
            writeln!(f, "{wait_ms} {mount} {} {first} {second} {a} {b}", verb.text())?;
        }
        Ok(())
    }
}

impl FromStr for Script {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let head = lines.next().context("an empty script")?;
        let plain = head.strip_suffix(LAST_WRITE_WINS);
        let last_write_wins = plain.is_some();
        let head: Vec<&str> = plain.unwrap_or(head).split_whitespace().collect();
        let ["seed", seed, "mounts", mounts, "delay", delay, "loss", loss] = head[..] else {
            bail!("the first line is no head: {head:?}");
        };
        let steps = lines.map(step).collect::<Result<_>>()?;
        Ok(Self {
            seed: seed.parse()?,
            mounts: mounts.parse()?,
            delay_ms_max: delay.parse()?,
            loss_permille: loss.parse()?,
            last_write_wins,
            steps,
        })
    }
}

fn step(line: &str) -> Result<Step> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [wait, mount, verb, first, second, a, b] = words[..] else { bail!("no step: {line}") };
    let (verb, ..) =
        VERBS.iter().find(|(_, text, _)| *text == verb).with_context(|| format!("verb {verb}"))?;
    Ok(Step {
        wait_ms: wait.parse()?,
        mount: mount.parse()?,
        verb: *verb,
        paths: [first.to_owned(), second.to_owned()],
        numbers: [a.parse()?, b.parse()?],
    })
}
