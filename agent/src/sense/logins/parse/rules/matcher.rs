//! Reads a message by a variant of a pattern, in linear time and without allocation.
//!
//! What stands before the first text field is read from the front, what stands behind the last from the back: each has one
//! reading only. Between two text fields the parts in between (*separators*) are looked for twice: each as early as
//! possible, and each as late as possible. Every other reading lies between these two. Where both find a separator in the same place, it
//! is there in all readings; where they do not, the fields beside it are left out and the reading is ambiguous.

use memchr::memmem::{Finder, FinderRev};

use super::bytes::ByteSet;
use super::pattern::{CAPTURES, Capture, Shape, Token, Variant};
use super::stamp::{Form, Written};

/// Longest part between two text fields. Honest ones are far shorter; without a limit, a message full of beginnings of a
/// separator would take quadratic time.
const SEPARATOR_BYTES_MAX: usize = 512;

/// What a reading found, by capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    texts: [Option<&'a [u8]>; CAPTURES],
    form: Option<Form>,
    /// Something was left out because it can be read in more than one way.
    pub ambiguous: bool,
}

impl<'a> Fields<'a> {
    /// The text of a capture.
    pub fn get(&self, capture: Capture) -> Option<&'a [u8]> {
        self.texts.get(capture as usize).copied().flatten()
    }

    /// The time.
    pub fn time(&self) -> Option<Written<'a>> {
        Some(Written { form: self.form?, text: self.get(Capture::Time)? })
    }

    /// Sets a capture.
    pub fn set(&mut self, capture: Capture, text: &'a [u8]) {
        if capture != Capture::Nothing
            && let Some(slot) = self.texts.get_mut(capture as usize)
        {
            *slot = Some(text);
        }
    }

    fn set_token(&mut self, token: &Token, text: &'a [u8]) {
        match token {
            Token::Literal(_) => {}
            Token::Choice(capture, _) => self.set(*capture, text),
            Token::Field { capture, shape, .. } => {
                self.set(*capture, text);
                if let Shape::Time(form) = shape {
                    self.form = Some(*form);
                }
            }
        }
    }

    /// Keeps what `other` says too.
    pub fn share(&mut self, other: &Self) {
        self.ambiguous |= other.ambiguous;
        for (mine, theirs) in self.texts.iter_mut().zip(other.texts) {
            if *mine != theirs {
                *mine = None;
                self.ambiguous = true;
            }
        }
    }

    /// Adds what another part of the message says.
    pub fn add(&mut self, other: &Self) {
        self.ambiguous |= other.ambiguous;
        self.form = self.form.or(other.form);
        for (mine, theirs) in self.texts.iter_mut().zip(other.texts) {
            *mine = mine.or(theirs);
        }
    }

    /// Leaves out everything but the time and the process id, which stand before anything that a peer chose.
    pub fn forget(&mut self) {
        let (time, pid) = (self.get(Capture::Time), self.get(Capture::Pid));
        self.texts = [None; CAPTURES];
        self.ambiguous = true;
        if let Some(time) = time {
            self.set(Capture::Time, time);
        }
        if let Some(pid) = pid {
            self.set(Capture::Pid, pid);
        }
    }
}

/// A variant, prepared.
#[derive(Debug)]
pub struct Matcher {
    front: Vec<Token>,
    /// The first text field and all that follows up to the last.
    middle: Option<Middle>,
    back: Vec<Token>,
    /// The sum of the literals' lengths: no shorter message matches.
    length_min: usize,
    /// The longest literal, unless it is at the front where it is compared anyway.
    rare: Option<Finder<'static>>,
}

#[derive(Debug)]
struct Middle {
    first: Capture,
    separators: Vec<Separator>,
}

/// What stands between two text fields, and where the latter goes.
#[derive(Debug)]
struct Separator {
    tokens: Vec<Token>,
    forward: Finder<'static>,
    backward: FinderRev<'static>,
    then: Capture,
}

impl Matcher {
    /// Prepares a variant.
    pub fn new(variant: Variant) -> Self {
        let tokens = variant.tokens;
        let length_min = tokens.iter().filter_map(Token::literal).map(<[u8]>::len).sum();
        let longest = tokens.iter().filter_map(Token::literal).max_by_key(|bytes| bytes.len());
        let first = tokens.first().and_then(Token::literal);
        let rare = longest.filter(|longest| Some(*longest) != first);
        let rare = rare.map(|bytes| Finder::new(bytes).into_owned());
        let mut parts = tokens.split(Token::is_text).map(<[Token]>::to_vec);
        let front = parts.next().unwrap_or_default();
        let mut captures = tokens.iter().filter(|token| token.is_text()).map(|token| match token {
            Token::Field { capture, .. } => *capture,
            _ => Capture::Nothing,
        });
        let mut rest: Vec<Vec<Token>> = parts.collect();
        let back = rest.pop().unwrap_or_default();
        let middle = captures.next().map(|first| Middle {
            first,
            separators: rest
                .into_iter()
                .zip(captures)
                .map(|(tokens, then)| Separator::new(tokens, then))
                .collect(),
        });
        Self { front, middle, back, length_min, rare }
    }

    /// The literal that a message begins with; empty when the pattern begins with a field.
    pub fn first_literal(&self) -> &[u8] {
        self.front.first().and_then(Token::literal).unwrap_or_default()
    }

    /// Whether a peer may have chosen a part of the message.
    pub fn has_text(&self) -> bool {
        self.middle.is_some()
    }

    /// Reads `text`; none when it is another message.
    pub fn read<'a>(&self, text: &'a [u8]) -> Option<Fields<'a>> {
        if text.len() < self.length_min {
            return None;
        }
        if !text.starts_with(self.first_literal())
            || self.rare.as_ref().is_some_and(|rare| rare.find(text).is_none())
        {
            return None;
        }
        let mut fields = Fields::default();
        let mut start = 0;
        for token in &self.front {
            start = forward(token, text, start, &mut fields)?;
        }
        let mut end = text.len();
        for token in self.back.iter().rev() {
            end = backward(token, text, start, end, &mut fields)?;
        }
        match &self.middle {
            None => (start == end).then_some(fields),
            Some(middle) => middle.read(text, start, end, &mut fields).map(|()| fields),
        }
    }

    /// How many bytes of `text` the front took, and what was wanted next; for people.
    pub fn explain(&self, text: &[u8]) -> (usize, String) {
        let mut fields = Fields::default();
        let mut start = 0;
        for token in &self.front {
            match forward(token, text, start, &mut fields) {
                Some(next) => start = next,
                None => return (common(token, text, start), format!("expected {}", describe(token))),
            }
        }
        let mut end = text.len();
        for token in self.back.iter().rev() {
            match backward(token, text, start, end, &mut fields) {
                Some(next) => end = next,
                None => return (start, format!("from the back expected {}", describe(token))),
            }
        }
        (start, "what stands between did not match".to_owned())
    }
}

/// How far a literal agrees.
fn common(token: &Token, text: &[u8], start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    let same = token.literal().map_or(0, |bytes| bytes.iter().zip(rest).take_while(|(a, b)| a == b).count());
    start + same
}

fn describe(token: &Token) -> String {
    match token {
        Token::Literal(bytes) | Token::Choice(_, bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Token::Field { capture, shape, .. } => format!("a field {capture:?} of shape {shape:?}"),
    }
}

impl Middle {
    fn read<'a>(&self, text: &'a [u8], start: usize, end: usize, fields: &mut Fields<'a>) -> Option<()> {
        if start > end {
            return None;
        }
        let inside = text.get(..end)?;
        let mut early = start;
        let mut sure = Some(start);
        let mut capture = self.first;
        for (index, separator) in self.separators.iter().enumerate() {
            let (found, found_end) = separator.first(inside, early)?;
            let fixed =
                self.latest(inside, start, index)? == found && !separator.overlaps(inside, found, found_end);
            if fixed {
                separator.take(text, found, fields)?;
            } else {
                fields.ambiguous |= separator.captures();
            }
            match sure.filter(|_| fixed) {
                Some(from) => fields.set(capture, text.get(from..found)?),
                None => fields.ambiguous |= capture != Capture::Nothing,
            }
            sure = fixed.then_some(found_end);
            capture = separator.then;
            early = found_end;
        }
        match sure {
            Some(from) => fields.set(capture, text.get(from..end)?),
            None => fields.ambiguous |= capture != Capture::Nothing,
        }
        Some(())
    }

    /// Where the separator at `index` begins when each stands as late as possible. There are few separators, mostly one.
    fn latest(&self, inside: &[u8], start: usize, index: usize) -> Option<usize> {
        let mut limit = inside.len();
        let mut at = limit;
        for separator in self.separators.get(index..)?.iter().rev() {
            at = separator.last(inside, start, limit)?;
            limit = at;
        }
        Some(at)
    }
}

impl Separator {
    fn new(tokens: Vec<Token>, then: Capture) -> Self {
        let literal = tokens.first().and_then(Token::literal).unwrap_or_default().to_vec();
        let (forward, backward) = (Finder::new(&literal).into_owned(), FinderRev::new(&literal).into_owned());
        Self { tokens, forward, backward, then }
    }

    /// Whether it holds a field that is kept.
    fn captures(&self) -> bool {
        self.tokens.iter().any(|token| match token {
            Token::Literal(_) => false,
            Token::Choice(capture, _) | Token::Field { capture, .. } => *capture != Capture::Nothing,
        })
    }

    /// Where it ends when it begins at `at`.
    fn end(&self, text: &[u8], at: usize) -> Option<usize> {
        let mut unused = Fields::default();
        let text = text.get(..text.len().min(at + SEPARATOR_BYTES_MAX))?;
        self.tokens.iter().try_fold(at, |at, token| forward(token, text, at, &mut unused))
    }

    fn first(&self, text: &[u8], from: usize) -> Option<(usize, usize)> {
        let mut from = from;
        loop {
            let at = from + self.forward.find(text.get(from..)?)?;
            if let Some(end) = self.end(text, at) {
                return Some((at, end));
            }
            from = at + 1;
        }
    }

    fn last(&self, text: &[u8], start: usize, limit: usize) -> Option<usize> {
        let mut to = limit;
        loop {
            let at = start + self.backward.rfind(text.get(start..to)?)?;
            if self.end(text, at).is_some_and(|end| end <= limit) {
                return Some(at);
            }
            // One byte less than what was found is the next that may hold another.
            to = at + self.backward.needle().len() - 1;
        }
    }

    /// Whether another one begins inside of that which was found.
    fn overlaps(&self, text: &[u8], at: usize, end: usize) -> bool {
        self.first(text, at + 1).is_some_and(|(other, _)| other < end)
    }

    fn take<'a>(&self, text: &'a [u8], at: usize, fields: &mut Fields<'a>) -> Option<usize> {
        self.tokens.iter().try_fold(at, |at, token| forward(token, text, at, fields))
    }
}

/// Reads `token` at `start`; gives where it ends.
fn forward<'a>(token: &Token, text: &'a [u8], start: usize, fields: &mut Fields<'a>) -> Option<usize> {
    let rest = text.get(start..)?;
    let length = match token {
        Token::Literal(bytes) | Token::Choice(_, bytes) => rest.starts_with(bytes).then_some(bytes.len())?,
        Token::Field { shape, bytes, optional, give_back, .. } => {
            let length = match shape {
                Shape::Quoted => quoted_forward(rest)?,
                Shape::Time(form) => form.measure(rest)?,
                _ => rest.iter().take_while(|byte| bytes.has(**byte)).count().checked_sub(*give_back)?,
            };
            accept(*shape, rest.get(..length)?, *optional)?;
            length
        }
    };
    fields.set_token(token, rest.get(..length)?);
    Some(start + length)
}

/// Reads `token` so that it ends at `end`, and not before `start`; gives where it begins.
fn backward<'a>(
    token: &Token,
    text: &'a [u8],
    start: usize,
    end: usize,
    fields: &mut Fields<'a>,
) -> Option<usize> {
    let rest = text.get(start..end)?;
    let length = match token {
        Token::Literal(bytes) | Token::Choice(_, bytes) => rest.ends_with(bytes).then_some(bytes.len())?,
        Token::Field { shape, bytes, optional, .. } => {
            let length = match shape {
                Shape::Quoted => quoted_backward(rest)?,
                Shape::Time(form) => form.width()?,
                _ => backward_length(rest, bytes),
            };
            let found = rest.get(rest.len().checked_sub(length)?..)?;
            if let Shape::Time(form) = shape {
                form.measure(found)?;
            }
            accept(*shape, found, *optional)?;
            length
        }
    };
    let begin = end - length;
    fields.set_token(token, text.get(begin..end)?);
    Some(begin)
}

fn backward_length(rest: &[u8], bytes: &ByteSet) -> usize {
    rest.iter().rev().take_while(|byte| bytes.has(**byte)).count()
}

/// Whether the bytes are what the shape promises.
fn accept(shape: Shape, found: &[u8], optional: bool) -> Option<()> {
    if found.is_empty() {
        return (optional || shape == Shape::Quoted).then_some(());
    }
    match shape {
        Shape::Address => super::super::address(found).map(|_| ()),
        Shape::Peer => super::peer(found).map(|_| ()),
        _ => Some(()),
    }
}

/// The length up to the first quote that is not escaped.
fn quoted_forward(rest: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (index, byte) in rest.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(index),
            _ => {}
        }
    }
    None
}

/// The length behind the last quote that is not escaped.
fn quoted_backward(rest: &[u8]) -> Option<usize> {
    let backslashes_before = |at: usize| {
        let before = rest.get(..at).unwrap_or_default();
        before.iter().rev().take_while(|byte| **byte == b'\\').count()
    };
    // The closing quote itself must not be escaped.
    if backslashes_before(rest.len()) % 2 == 1 {
        return None;
    }
    let mut end = rest.len();
    loop {
        let at = memchr::memrchr(b'"', rest.get(..end)?)?;
        if backslashes_before(at).is_multiple_of(2) {
            return Some(rest.len() - at - 1);
        }
        end = at;
    }
}
