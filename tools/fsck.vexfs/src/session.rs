// SPDX-License-Identifier: Apache-2.0

//! Checking and mending in turn, until nothing is found that can be mended.

use crate::progress::Progress;
use crate::End;
use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use vexfs_image::check::{self, words, Found, IndexFound, Mend, Problem, Stopped};
use vexfs_image::mend::mend;
use vexfs_image::{indexes, Device, Image};

/// Checks after which it is given up: what one repair brings to light, the next check mends.
const MOST_ROUNDS: u32 = 10;

/// Whether to mend something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    No,
    Ask,
    Yes,
}

/// What was said and done so far.
pub struct Session {
    pub name: String,
    consent: Consent,
    verbose: bool,
    progress: Progress,
    mended: u64,
    left: u64,
    /// What was said already, and so is not asked again.
    said: HashSet<String>,
}

impl Session {
    pub fn new(name: String, consent: Consent, verbose: bool) -> Session {
        Session {
            name,
            consent,
            verbose,
            progress: Progress::new(),
            mended: 0,
            left: 0,
            said: HashSet::new(),
        }
    }

    /// Whether to mend a problem, if that can be. Prints it, unless [`mended`](Self::mended) will.
    ///
    /// # Errors
    ///
    /// Cancelled.
    pub fn wants(&mut self, text: &str, can_be: bool) -> Result<bool, End> {
        self.progress.clear();
        let name = &self.name;
        if !can_be {
            println!("{name}: {text}");
            return Ok(false);
        }
        match self.consent {
            Consent::No => {
                println!("{name}: {text}");
                Ok(false)
            }
            Consent::Yes => Ok(true),
            Consent::Ask => loop {
                print!("{name}: {text}. Mend? [y/n, a: all, q: quit] ");
                let _ = io::stdout().flush();
                let mut answer = String::new();
                self.progress.asks(true);
                let read = io::stdin().lock().read_line(&mut answer);
                self.progress.asks(false);
                if !matches!(read, Ok(1..)) || self.progress.is_stopped() {
                    return Err(End::Cancelled);
                }
                match answer.trim() {
                    "y" | "Y" | "yes" => return Ok(true),
                    "n" | "N" | "no" => return Ok(false),
                    "a" => {
                        self.consent = Consent::Yes;
                        return Ok(true);
                    }
                    "q" => return Err(End::Cancelled),
                    _ => {}
                }
            },
        }
    }

    /// Notes that something was mended.
    pub fn mended(&mut self, text: &str) {
        if self.consent == Consent::Yes {
            println!("{}: {text}: mended", self.name);
        }
        self.mended += 1;
    }

    /// Notes that something can't be mended.
    pub fn leave(&mut self, text: &str) {
        self.progress.clear();
        println!("{}: {text}", self.name);
        self.left += 1;
    }

    /// Whether nothing was found so far.
    pub fn end_is_sound(&self) -> bool {
        self.mended + self.left == 0
    }

    /// How it ended, if nothing is left.
    pub fn end(&self) -> End {
        match (self.mended, self.left) {
            (_, 1..) => End::Left,
            (1.., _) => End::Mended,
            _ => End::Sound,
        }
    }

    /// Checks a volume and mends it. Says whether it is sound then.
    ///
    /// # Errors
    ///
    /// Cancelled, or the device failed.
    pub fn rounds<D: Device>(&mut self, image: &mut Image<D>) -> Result<bool, End> {
        for round in 0..MOST_ROUNDS {
            let found = check::examine(image, &mut self.progress);
            self.progress.clear();
            let found = found.map_err(|Stopped| End::Cancelled)?;
            if round == 0 {
                found.indexes.iter().for_each(|index| self.index(index));
            }
            if found.problems.is_empty() {
                self.sound(&found);
                return Ok(true);
            }
            if !self.round(image, &found, round)? {
                self.summary(&found.problems);
                return Ok(false);
            }
        }
        println!("{}: still not sound after {MOST_ROUNDS} rounds", self.name);
        Ok(false)
    }

    /// Mends what a check found. Says whether there was something that could be.
    fn round<D: Device>(
        &mut self,
        image: &mut Image<D>,
        found: &Found,
        round: u32,
    ) -> Result<bool, End> {
        let mut chosen: Vec<(&str, &Mend, bool)> = Vec::new();
        for Problem { text, mend } in &found.problems {
            let new = self.said.insert(text.clone());
            // What follows from what was mended before: space that is nobody's now, and counts.
            let follows = round > 0 && matches!(mend, Some(Mend::Group(_) | Mend::Free(_)));
            let wanted = new && (follows || self.wants(text, mend.is_some())?);
            if let (true, Some(mend)) = (wanted, mend) {
                chosen.push((text, mend, follows && !self.verbose));
            }
        }
        // Bitmaps first: what is in use is marked before anything is freed.
        chosen.sort_by_key(|(_, mend, _)| !matches!(mend, Mend::Group(_)));
        let mut any = false;
        for (text, what, quietly) in chosen {
            if self.progress.is_stopped() {
                return Err(End::Cancelled);
            }
            match mend(image, found, what) {
                Ok(()) => {
                    any = true;
                    match quietly {
                        true => self.mended += 1,
                        false => self.mended(text),
                    }
                }
                Err(libvexfs::Error::Io) => {
                    let name = &self.name;
                    return Err(End::Failed(format!("{name} cannot be written")));
                }
                Err(error) => {
                    let why = words(error);
                    println!("{}: {text}: could not be mended: {why}", self.name);
                }
            }
        }
        Ok(any)
    }

    /// Prints what was found of an index, if something is wrong or everything is to be said.
    fn index(&self, index: &IndexFound) {
        let IndexFound {
            container,
            kind,
            image,
            findings,
        } = index;
        let kind = indexes::name(*kind);
        let of = format!("{}: inode {container}: the {kind} index", self.name);
        if *image == 0 {
            if self.verbose {
                println!("{of} is not built yet; the first search begins that");
            }
            return;
        }
        if self.verbose || !findings.is_sound() {
            println!("{of}: {findings}");
        }
    }

    fn sound(&self, found: &Found) {
        let report = found.report;
        let (name, indexes) = (&self.name, found.indexes.len());
        println!(
            "{name}: sound; {} directories, {} files, {} orphans, {} blocks in use, {indexes} indexes",
            report.directories, report.files, report.orphans, report.blocks
        );
    }

    fn summary(&self, problems: &[Problem]) {
        let (name, all) = (&self.name, problems.len());
        if all == 1 {
            let what = match (&problems[0].mend, self.consent) {
                (None, _) => "it can't be mended",
                (_, Consent::No) => "fsck.vexfs -y can mend it",
                _ => "it could have been mended",
            };
            return println!("{name}: 1 problem is left; {what}");
        }
        let can = problems.iter().filter(|p| p.mend.is_some()).count();
        let what = match (can, self.consent) {
            (0, _) => "they can't be mended".into(),
            (_, Consent::No) => format!("fsck.vexfs -y can mend {can} of them"),
            _ => format!("{can} of them could have been mended"),
        };
        println!("{name}: {all} problems are left; {what}");
    }
}
