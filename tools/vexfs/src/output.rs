// SPDX-License-Identifier: Apache-2.0
//! What goes to the terminal: a JSON object or text, and a progress bar.

use crate::error::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::Write;

/// Where a command prints its result.
pub struct Output<'a> {
    /// Print JSON.
    pub json: bool,
    /// Standard output.
    pub to: &'a mut dyn Write,
    /// Standard error, for remarks that are no result.
    pub remarks: &'a mut dyn Write,
}

impl Output<'_> {
    /// Prints `value` as JSON, or what `text` prints.
    pub fn print(
        &mut self,
        value: &impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        let printed = if self.json {
            serde_json::to_writer(&mut self.to, value)
                .map_err(std::io::Error::from)
                .and_then(|()| writeln!(self.to))
        } else {
            text(self.to)
        };
        printed
            .and_then(|()| self.to.flush())
            .map_err(Error::output)
    }

    /// Prints a remark for people.
    pub fn remark(&mut self, text: &str) {
        if !self.json {
            // A remark that nobody can see is no error.
            let _ = writeln!(self.remarks, "{text}");
        }
    }

    /// A bar over `total` `things`, on a terminal only.
    pub fn progress(&self, total: u64, things: &str) -> ProgressBar {
        let target = if self.json {
            ProgressDrawTarget::hidden()
        } else {
            // Hides itself where standard error is no terminal.
            ProgressDrawTarget::stderr()
        };
        let template = format!("{{wide_bar}} {{pos}}/{{len}} {things}, {{per_sec}}, {{eta}} left");
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(Some(total), target).with_style(style)
    }
}

/// `count` per second, 0 if no time passed.
pub fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}
