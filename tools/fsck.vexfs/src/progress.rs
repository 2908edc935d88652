// SPDX-License-Identifier: Apache-2.0

//! How far a check is, on a terminal; and whether somebody wants it to stop.

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use vexfs_image::check::Watch;

/// A bar on standard error, and a flag that SIGINT and SIGTERM set: repairs end whole.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    stop: Arc<AtomicBool>,
}

impl Progress {
    pub fn new() -> Progress {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Without it the signal ends the program where it is, which repairs allow for.
            let _ = signal_hook::flag::register(signal, stop.clone());
        }
        // Hidden unless standard error is a terminal.
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{msg} [{wide_bar}] {percent}% {eta}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress {
            bar,
            what: "",
            stop,
        }
    }

    /// Whether somebody wants it to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes the bar away, for text.
    pub fn clear(&mut self) {
        self.bar.finish_and_clear();
        self.bar.reset();
        self.what = "";
    }
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
