//! The pattern language of rule files.
//!
//! A pattern describes a whole message, from its first byte to its last:
//!
//! ```text
//! [{user}] FAIL LOGIN: Client "{address}"{?, anon password "{text}"}
//! ```
//!
//! - Everything outside braces is literal; `{{` and `}}` stand for braces.
//! - `{capture}` or `{capture:shape}` is a field. Captures: `user`, `account`, `address`, `host`, `peer`, `port`,
//!   `method`, `key`, `tty`, `target`, `command`, `reason`, `request`, `status`, `repeats`, `service`, `pid`, `time`,
//!   and `text`, `word`, `number`, `quoted` for what is not kept. Shapes: `text`, `word`, `account`, `basic`, `number`, `host`, `address`,
//!   `peer`, `quoted`; a `?` behind the shape permits the empty text. `{time:FORM}` is a time, see [`super::stamp`].
//! - `{=one|two}` is one of several literals; `{capture=one|two}` keeps which; `{?literal}` may be missing.
//!
//! **Text** is the one shape that can hold anything: all that a remote person types must be text. The other shapes are *tight*: made of
//! certain bytes only, and never of the byte that ends the literal before them or begins the literal behind them, so that where they begin
//! and end is forced. Before the first text a pattern is therefore read from the front, behind the last text from
//! the back, each in one way only. Between two texts there may be several readings: see [`super::matcher`].
//! Alternatives are multiplied out into [`Variant`]s, so that a variant is a plain sequence.

use super::bytes::ByteSet;
use super::stamp::Form;

/// Longest pattern, prefix included.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// Most variants of one pattern: five options, or some alternatives.
pub const VARIANTS_MAX: usize = 64;

/// Where the text of a field goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capture {
    /// Nowhere.
    Nothing,
    /// `user`.
    User,
    /// `address`.
    Address,
    /// `address` and `port`.
    Peer,
    /// `port`.
    Port,
    /// `method`.
    Method,
    /// `key`.
    Key,
    /// `tty`.
    Tty,
    /// `target`.
    Target,
    /// `command`.
    Command,
    /// `reason`.
    Reason,
    /// `request`.
    Request,
    /// `status`.
    Status,
    /// `repeats`.
    Repeats,
    /// The service's name, where one program speaks for many.
    Service,
    /// The process id.
    Pid,
    /// The time.
    Time,
}

/// Number of captures.
pub const CAPTURES: usize = 17;

/// What a field is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything, also nothing.
    Text,
    /// Printable, without spaces.
    Word,
    /// The name of an account that exists.
    Account,
    /// The user of HTTP's basic authentication: anything but a colon, also nothing.
    Basic,
    /// Digits.
    Number,
    /// An address or a host's name.
    Host,
    /// An address.
    Address,
    /// An address, a colon and a port.
    Peer,
    /// What stands between double quotes, with `\"` for a quote.
    Quoted,
    /// A time.
    Time(Form),
}

/// A part of a variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// These bytes.
    Literal(Box<[u8]>),
    /// One of a pattern's alternatives, which is kept.
    Choice(Capture, Box<[u8]>),
    /// A field.
    Field {
        /// Where it goes.
        capture: Capture,
        /// What it is made of.
        shape: Shape,
        /// Of which bytes, with the neighbours taken out.
        bytes: ByteSet,
        /// It may be empty.
        optional: bool,
        /// How many of these bytes belong to the literal behind it: where that begins with bytes that the field could
        /// hold, the first one that it could not says where both end.
        give_back: usize,
    },
}

impl Token {
    /// Whether it can hold anything.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Field { shape: Shape::Text, .. })
    }

    /// What it keeps; an address with its port and one without are the same.
    fn capture(&self) -> Option<Capture> {
        match self {
            Self::Literal(_) => None,
            Self::Choice(capture, _) | Self::Field { capture, .. } => match capture {
                Capture::Nothing => None,
                Capture::Peer => Some(Capture::Address),
                capture => Some(*capture),
            },
        }
    }

    /// The bytes of a literal.
    pub fn literal(&self) -> Option<&[u8]> {
        match self {
            Self::Literal(bytes) | Self::Choice(_, bytes) => Some(bytes),
            Self::Field { .. } => None,
        }
    }

    fn first(&self) -> Option<u8> {
        self.literal().and_then(|bytes| bytes.first().copied())
    }

    fn last(&self) -> Option<u8> {
        self.literal().and_then(|bytes| bytes.last().copied())
    }
}

/// A pattern without alternatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its parts, in order.
    pub tokens: Vec<Token>,
}

/// Compiles the pattern of a whole message into its variants; the error says what to change.
pub fn compile(pattern: &str) -> Result<Vec<Variant>, String> {
    let variants = compile_value(pattern)?;
    let telling = |token: &Token| token.literal().is_some_and(|bytes| bytes.len() >= 3);
    if !variants.iter().all(|variant| variant.tokens.iter().any(telling)) {
        return Err("has no literal of three bytes or more, so it would match nearly everything".to_owned());
    }
    Ok(variants)
}

/// Compiles the pattern of one value of a structured message.
pub fn compile_value(pattern: &str) -> Result<Vec<Variant>, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("is {} bytes long; up to {PATTERN_BYTES_MAX} are accepted", pattern.len()));
    }
    let mut variants: Vec<Vec<Token>> = vec![Vec::new()];
    for part in split(pattern)? {
        variants = match part {
            Part::Token(token) => variants.into_iter().map(|tokens| add(tokens, token.clone())).collect(),
            Part::Choice(capture, choices) => multiply(&variants, |tokens| {
                choices.iter().map(|choice| add(tokens.clone(), choice_token(capture, choice))).collect()
            }),
            Part::Maybe(inner) => {
                let inner = compile_part(&inner)?;
                multiply(&variants, |tokens| {
                    let with = inner.iter().map(|more| more.iter().cloned().fold(tokens.clone(), add));
                    with.chain([tokens.clone()]).collect()
                })
            }
        };
        if variants.len() > VARIANTS_MAX {
            return Err(format!("has more than {VARIANTS_MAX} variants; use fewer {{?…}} and {{=…|…}}"));
        }
    }
    variants.into_iter().map(|tokens| tighten(tokens).map(|tokens| Variant { tokens })).collect()
}

/// What stands inside `{?…}`: without alternatives of its own.
fn compile_part(inner: &str) -> Result<Vec<Vec<Token>>, String> {
    let mut tokens = Vec::new();
    for part in split(inner)? {
        let Part::Token(token) = part else {
            return Err("has alternatives inside {?…}, which holds literals and fields only".to_owned());
        };
        tokens = add(tokens, token);
    }
    Ok(vec![tokens])
}

fn multiply(variants: &[Vec<Token>], each: impl Fn(&Vec<Token>) -> Vec<Vec<Token>>) -> Vec<Vec<Token>> {
    variants.iter().take(VARIANTS_MAX + 1).flat_map(each).take(VARIANTS_MAX + 1).collect()
}

fn choice_token(capture: Capture, choice: &str) -> Token {
    match capture {
        Capture::Nothing => Token::Literal(choice.as_bytes().into()),
        capture => Token::Choice(capture, choice.as_bytes().into()),
    }
}

/// Adds a token; literals that meet become one, and empty ones vanish.
fn add(mut tokens: Vec<Token>, token: Token) -> Vec<Token> {
    match (tokens.last_mut(), token) {
        (_, Token::Literal(bytes)) if bytes.is_empty() => {}
        (Some(Token::Literal(before)), Token::Literal(bytes)) => {
            *before = [&before[..], &bytes[..]].concat().into()
        }
        (_, token) => tokens.push(token),
    }
    tokens
}

/// A piece of the pattern's text.
enum Part {
    Token(Token),
    Choice(Capture, Vec<String>),
    Maybe(String),
}

fn split(pattern: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = pattern;
    while let Some(next) = rest.chars().next() {
        let tail = rest.get(next.len_utf8()..).unwrap_or_default();
        if (next == '{' || next == '}') && tail.starts_with(next) {
            literal.push(next);
            rest = tail.get(1..).unwrap_or_default();
        } else if next == '}' {
            return Err("has a } without a { before it; write }} for the character itself".to_owned());
        } else if next == '{' {
            let end = closing(tail).ok_or("has a { without its }; write {{ for the character itself")?;
            let inside = tail.get(..end).unwrap_or_default();
            parts.push(Part::Token(Token::Literal(std::mem::take(&mut literal).into_bytes().into())));
            parts.push(part(inside)?);
            rest = tail.get(end + 1..).unwrap_or_default();
        } else {
            literal.push(next);
            rest = tail;
        }
    }
    parts.push(Part::Token(Token::Literal(literal.into_bytes().into())));
    Ok(parts)
}

/// Where the brace that was opened before `text` closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1_u32;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

fn part(inside: &str) -> Result<Part, String> {
    if let Some(maybe) = inside.strip_prefix('?') {
        return Ok(Part::Maybe(maybe.to_owned()));
    }
    if let Some((name, choices)) = inside.split_once('=') {
        let capture = if name.is_empty() { Capture::Nothing } else { field(name)?.0 };
        let choices: Vec<String> = choices.split('|').map(str::to_owned).collect();
        return Ok(Part::Choice(capture, choices));
    }
    let (name, shape) = match inside.split_once(':') {
        Some((name, shape)) => (name, Some(shape)),
        None => (inside, None),
    };
    let (capture, default) = field(name)?;
    let (shape, optional) = match shape {
        None => (default, false),
        Some(form) if capture == Capture::Time => {
            let form = Form::of_name(form)
                .ok_or_else(|| format!("has an unknown time {form:?}; {}", Form::known()))?;
            (Shape::Time(form), false)
        }
        Some(shape) => (shape_of(shape.trim_end_matches('?'))?, shape.ends_with('?')),
    };
    if matches!(shape, Shape::Time(Form::Unknown)) {
        return Err(format!("has a time without a form; {}", Form::known()));
    }
    let optional = optional || shape == Shape::Basic;
    Ok(Part::Token(Token::Field { capture, shape, bytes: bytes_of(shape), optional, give_back: 0 }))
}

fn field(name: &str) -> Result<(Capture, Shape), String> {
    Ok(match name {
        "user" => (Capture::User, Shape::Text),
        "account" => (Capture::User, Shape::Account),
        "address" => (Capture::Address, Shape::Address),
        "host" => (Capture::Address, Shape::Host),
        "peer" => (Capture::Peer, Shape::Peer),
        "port" => (Capture::Port, Shape::Number),
        "method" => (Capture::Method, Shape::Word),
        "key" => (Capture::Key, Shape::Word),
        "tty" => (Capture::Tty, Shape::Word),
        "target" => (Capture::Target, Shape::Account),
        "command" => (Capture::Command, Shape::Text),
        "reason" => (Capture::Reason, Shape::Text),
        "request" => (Capture::Request, Shape::Quoted),
        "status" => (Capture::Status, Shape::Number),
        "repeats" => (Capture::Repeats, Shape::Number),
        "service" => (Capture::Service, Shape::Word),
        "pid" => (Capture::Pid, Shape::Number),
        "time" => (Capture::Time, Shape::Time(Form::Unknown)),
        "text" => (Capture::Nothing, Shape::Text),
        "word" => (Capture::Nothing, Shape::Word),
        "number" => (Capture::Nothing, Shape::Number),
        "quoted" => (Capture::Nothing, Shape::Quoted),
        other => {
            return Err(format!(
                "has an unknown field {other:?}; known are user, account, address, host, peer, port, method, key, tty, target, command, reason, request, status, repeats, service, pid, time, text, word, number and quoted"
            ));
        }
    })
}

fn shape_of(name: &str) -> Result<Shape, String> {
    Ok(match name {
        "text" => Shape::Text,
        "word" => Shape::Word,
        "account" => Shape::Account,
        "basic" => Shape::Basic,
        "number" => Shape::Number,
        "host" => Shape::Host,
        "address" => Shape::Address,
        "peer" => Shape::Peer,
        "quoted" => Shape::Quoted,
        other => {
            return Err(format!(
                "has an unknown shape {other:?}; known are text, word, account, basic, number, host, address, peer and quoted"
            ));
        }
    })
}

fn bytes_of(shape: Shape) -> ByteSet {
    match shape {
        Shape::Text => ByteSet::ALL,
        Shape::Word => ByteSet::of(|byte| byte > b' ' && byte != 0x7f),
        Shape::Account => {
            ByteSet::of(|byte| byte > b' ' && byte != 0x7f && !b":/\"'`<>()[]{},;=|?".contains(&byte))
        }
        Shape::Basic => ByteSet::of(|byte| byte != b':' && byte != b'\n'),
        Shape::Number => ByteSet::of(|byte| byte.is_ascii_digit()),
        Shape::Host | Shape::Address => {
            ByteSet::of(|byte| byte.is_ascii_alphanumeric() || b".:%_-".contains(&byte))
        }
        Shape::Peer => ByteSet::of(|byte| byte.is_ascii_alphanumeric() || b".:%_-[]".contains(&byte)),
        Shape::Quoted => ByteSet::of(|byte| byte != b'\n'),
        Shape::Time(_) => ByteSet::of(|byte| byte.is_ascii_alphanumeric() || b" :/+-.,TZ".contains(&byte)),
    }
}

/// Takes the neighbours out of tight fields, and refuses what could be read in two ways.
fn tighten(tokens: Vec<Token>) -> Result<Vec<Token>, String> {
    let neighbours: Vec<_> = (0..tokens.len())
        .map(|at| {
            let before = at.checked_sub(1).and_then(|at| tokens.get(at));
            (before.cloned(), tokens.get(at + 1).cloned())
        })
        .collect();
    let texts: Vec<usize> =
        (0..tokens.len()).filter(|at| tokens.get(*at).is_some_and(Token::is_text)).collect();
    let last_text = texts.last().copied();
    let mut out = Vec::with_capacity(tokens.len());
    for (at, (token, (before, after))) in tokens.into_iter().zip(neighbours).enumerate() {
        out.push(tighten_one(
            token,
            before.as_ref(),
            after.as_ref(),
            last_text.is_some_and(|text| at > text),
        )?);
    }
    if out.is_empty() {
        return Err("is empty".to_owned());
    }
    let mut captures: Vec<Capture> = out.iter().filter_map(Token::capture).collect();
    captures.sort_unstable();
    if captures.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(
            "keeps the same thing twice; write {word:address} for an address that is not kept".to_owned()
        );
    }
    Ok(out)
}

fn tighten_one(
    token: Token,
    before: Option<&Token>,
    after: Option<&Token>,
    behind_text: bool,
) -> Result<Token, String> {
    let Token::Field { capture, shape, mut bytes, optional, .. } = token else { return Ok(token) };
    let mut give_back = 0;
    if after.is_some_and(|after| after.literal().is_none()) {
        return Err("has two fields side by side; put a literal between them".to_owned());
    }
    match shape {
        Shape::Text => {}
        Shape::Quoted => {
            let quote = Some(b'"');
            if before.and_then(Token::last) != quote || after.and_then(Token::first) != quote {
                return Err("has a quoted field that does not stand between double quotes".to_owned());
            }
        }
        Shape::Time(form) => {
            if behind_text && form.width().is_none() {
                return Err(
                    "has a time of no fixed width behind a text field, where it cannot be read".to_owned()
                );
            }
        }
        Shape::Word | Shape::Account => {
            // A word without the one byte is still a word.
            let edges = [before.and_then(Token::last), after.and_then(Token::first)];
            bytes = edges.into_iter().flatten().fold(bytes, ByteSet::without);
        }
        _ => give_back = shared_bytes(shape, &bytes, before, after, behind_text)?,
    }
    Ok(Token::Field { capture, shape, bytes, optional, give_back })
}

/// How many bytes a field that could hold its neighbour's beginning gives back to it.
fn shared_bytes(
    shape: Shape,
    bytes: &ByteSet,
    before: Option<&Token>,
    after: Option<&Token>,
    behind_text: bool,
) -> Result<usize, String> {
    let refuse = |edge: u8| {
        format!("has a field of shape {shape:?} beside {:?}, which may be part of it", char::from(edge))
    };
    let (last, first) = (before.and_then(Token::last), after.and_then(Token::first));
    if behind_text && let Some(edge) = [last, first].into_iter().flatten().find(|edge| bytes.has(*edge)) {
        return Err(refuse(edge));
    }
    let Some(first) = first.filter(|first| bytes.has(*first)) else { return Ok(0) };
    let literal = after.and_then(Token::literal).unwrap_or_default();
    literal.iter().position(|byte| !bytes.has(*byte)).ok_or_else(|| refuse(first))
}
