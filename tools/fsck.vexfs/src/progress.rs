// SPDX-License-Identifier: Apache-2.0

//! How far a check is, on a terminal; and whether somebody wants it to stop.

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use vexfs_image::check::Watch;

use crate::CANCELLED;

/// A bar on standard error, and a flag that SIGINT and SIGTERM set: repairs end whole.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    stop: Arc<AtomicBool>,
    /// A question was asked: nothing is being written.
    asking: Arc<AtomicBool>,
}

impl Progress {
    pub fn new() -> Progress {
        let stop = Arc::new(AtomicBool::new(false));
        let asking = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Without these the signal ends the program where it is, which repairs allow for.
            let _ = flag::register_conditional_shutdown(signal, CANCELLED.into(), asking.clone());
            let _ = flag::register(signal, stop.clone());
        }
        Progress {
            bar: bar(),
            what: "",
            stop,
            asking,
        }
    }

    /// Whether an answer is waited for: a signal ends the program then.
    pub fn asks(&self, asking: bool) {
        self.asking.store(asking, Ordering::Relaxed);
    }

    /// Whether somebody wants it to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes the bar away, for text.
    pub fn clear(&mut self) {
        if !self.what.is_empty() {
            self.bar.finish_and_clear();
            self.bar = bar();
            self.what = "";
        }
    }
}

/// Hidden unless standard error is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{msg} [{wide_bar}] {percent}% {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

impl Watch for Progress {
    fn step(&mut self, what: &'static str, done: u64, all: u64) -> bool {
        if self.what != what {
            self.what = what;
            self.bar.set_message(what);
        }
        self.bar.set_length(all);
        self.bar.set_position(done);
        !self.is_stopped()
    }
}
