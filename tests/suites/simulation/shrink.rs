//! Makes a failing script short: leaves out steps, mounts and faults as long as it still fails.

use super::script::Script;

/// Returns the shortest script found that still fails as `fails` says.
#[must_use]
pub(crate) fn shrink(script: &Script, fails: impl Fn(&Script) -> bool) -> Script {
    let mut best = script.clone();
    for quiet in [
        Script { loss_permille: 0, ..best.clone() },
        Script { loss_permille: 0, delay_ms_max: 2, ..best.clone() },
    ] {
        if fails(&quiet) {
            best = quiet;
        }
    }
    let mut size = best.steps.len().div_ceil(2).max(1);
    loop {
        let before = best.steps.len();
        let mut at = 0;
        while at < best.steps.len() {
            let mut shorter = best.clone();
            shorter.steps.drain(at..(at + size).min(best.steps.len()));
            if fails(&shorter) {
                best = shorter;
            } else {
                at += size;
            }
        }
        if size == 1 && best.steps.len() == before {
            break;
        }
        size = size.div_ceil(2).max(1);
    }
    simplify(best, fails)
}

/// Makes what is left plainer: no pauses, small numbers.
fn simplify(mut best: Script, fails: impl Fn(&Script) -> bool) -> Script {
    for at in 0..best.steps.len() {
        let mut plainer = best.clone();
        plainer.steps[at].wait_ms = 0;
        if plainer != best && fails(&plainer) {
            best = plainer;
        }
        let mut plainer = best.clone();
        plainer.steps[at].numbers = [1, 1];
        if plainer != best && fails(&plainer) {
            best = plainer;
        }
    }
    let mut fewer = Script { mounts: 2, ..best.clone() };
    fewer.steps.iter_mut().for_each(|step| step.mount %= 2);
    if fewer != best && fails(&fewer) { fewer } else { best }
}
