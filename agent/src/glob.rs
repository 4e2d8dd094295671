//! Globs over paths, as shells know them.
//!
//! | written | matches |
//! |---|---|
//! | `*` | any bytes but a slash, also none |
//! | `?` | one byte that is no slash |
//! | `[a-z]`, `[!a-z]` | one byte of these, or one that is neither of these nor a slash |
//! | `{one,two}` | one of several, which may have globs in them |
//! | `\x` | the byte itself |
//! | `**/` at the beginning, `/**/` | any directories, also none |
//! | `/**` at the end | everything beneath |
//!
//! Two stars elsewhere are one. Matching takes time in proportion to both lengths and allocates nothing; a glob whose
//! beginning is plain text is decided by that text nearly always.
//!
//! Limits: [`BYTES_MAX`], [`CHOICES_MAX`].

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Longest glob.
pub const BYTES_MAX: usize = 8 * 1024;
/// Most ways to choose from the `{…}` of one glob.
pub const CHOICES_MAX: usize = 256;
/// Braces in braces.
const DEPTH_MAX: usize = 8;
/// What means something in a glob.
const SPECIAL: [char; 6] = ['*', '?', '[', ']', '{', '}'];

/// Why a text is no glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// See [`BYTES_MAX`].
    #[error("it is longer than {BYTES_MAX} bytes")]
    Long,
    /// A `[` without its `]`.
    #[error("a [ has no ] behind it; write [[] for the character itself")]
    OpenClass,
    /// `[b-a]`.
    #[error("a range in [] ends before it begins")]
    Range,
    /// What is not ASCII in `[…]`.
    #[error("[] may hold ASCII characters only; write {{ä,ö}} instead")]
    NotAscii,
    /// A `{` without its `}`, or the other way round.
    #[error("braces do not match; write [{{] or [}}] for the character itself")]
    Braces,
    /// See [`CHOICES_MAX`].
    #[error("its braces give more than {CHOICES_MAX} choices")]
    Choices,
    /// A backslash at the end.
    #[error("it ends with a backslash")]
    Backslash,
}

/// One glob.
#[derive(Clone, Debug)]
pub struct Glob {
    choices: Box<[Choice]>,
}

/// Several globs.
#[derive(Clone, Debug, Default)]
pub struct Globs(Box<[Choice]>);

/// A glob without braces.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    /// How it begins.
    prefix: Box<[u8]>,
    rest: Box<[Token]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`.
    Any,
    Class {
        negated: bool,
        ranges: Box<[(u8, u8)]>,
    },
    /// `*`.
    Star,
    /// `**/`: nothing, or all up to some slash.
    Directories,
    /// `**` at the end.
    Everything,
}

impl Glob {
    /// Reads a glob.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, GlobError> {
        if text.len() > BYTES_MAX {
            return Err(GlobError::Long);
        }
        let mut reader = Reader { rest: text.as_bytes(), depth: 0 };
        let flat = reader.sequence()?;
        if !reader.rest.is_empty() {
            return Err(GlobError::Braces);
        }
        Ok(Self { choices: flat.into_iter().map(Choice::new).collect() })
    }

    /// Whether all of `path` is as the glob says.
    pub fn is_match(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref().as_os_str().as_bytes();
        self.choices.iter().any(|choice| choice.matches(path))
    }
}

impl Globs {
    /// Reads several globs.
    ///
    /// # Errors
    /// What is wrong with the first that is none.
    pub fn new(texts: &[String]) -> Result<Self, GlobError> {
        let mut all = Vec::new();
        for text in texts {
            all.extend(Glob::new(text)?.choices);
        }
        Ok(Self(all.into()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them matches.
    pub fn is_match(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref().as_os_str().as_bytes();
        self.0.iter().any(|choice| choice.matches(path))
    }
}

/// A glob that matches this text and no other.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, next| {
        if SPECIAL.contains(&next) {
            escaped.extend(['[', next, ']']);
        } else if next == '\\' {
            escaped.push_str("\\\\");
        } else {
            escaped.push(next);
        }
        escaped
    })
}

/// What is written, before stars are told apart by their neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Written {
    Token(Token),
    Star,
}

struct Reader<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Every way to choose, up to the end or, within braces, up to the comma or brace that ends a choice.
    fn sequence(&mut self) -> Result<Vec<Vec<Written>>, GlobError> {
        let mut ways: Vec<Vec<Written>> = vec![Vec::new()];
        while let Some(next) = self.rest.first().copied() {
            if self.depth > 0 && matches!(next, b',' | b'}') {
                return Ok(ways);
            }
            self.next();
            let written = match next {
                b'*' => Written::Star,
                b'?' => Written::Token(Token::Any),
                b'[' => Written::Token(self.class()?),
                b'\\' => Written::Token(Token::Byte(self.next().ok_or(GlobError::Backslash)?)),
                b'}' => return Err(GlobError::Braces),
                b'{' => {
                    let choices = self.choices()?;
                    if ways.len() * choices.len() > CHOICES_MAX {
                        return Err(GlobError::Choices);
                    }
                    let joined = ways.iter().flat_map(|way| {
                        choices.iter().map(|choice| way.iter().chain(choice).cloned().collect())
                    });
                    ways = joined.collect();
                    continue;
                }
                byte => Written::Token(Token::Byte(byte)),
            };
            ways.iter_mut().for_each(|way| way.push(written.clone()));
        }
        if self.depth > 0 { Err(GlobError::Braces) } else { Ok(ways) }
    }

    /// What stands between braces, and the closing one.
    fn choices(&mut self) -> Result<Vec<Vec<Written>>, GlobError> {
        if self.depth == DEPTH_MAX {
            return Err(GlobError::Choices);
        }
        self.depth += 1;
        let mut choices = Vec::new();
        loop {
            choices.extend(self.sequence()?);
            if choices.len() > CHOICES_MAX {
                return Err(GlobError::Choices);
            }
            // A choice ends with a comma or a brace.
            if self.next() == Some(b'}') {
                self.depth -= 1;
                return Ok(choices);
            }
        }
    }

    /// What stands between brackets, and the closing one. The first may be a closing one itself.
    fn class(&mut self) -> Result<Token, GlobError> {
        let negated = matches!(self.rest.first(), Some(b'!' | b'^'));
        if negated {
            self.next();
        }
        let mut ranges = Vec::new();
        loop {
            let first = self.next().ok_or(GlobError::OpenClass)?;
            if first == b']' && !ranges.is_empty() {
                return Ok(Token::Class { negated, ranges: ranges.into() });
            }
            let last = match self.rest {
                [b'-', last, ..] if *last != b']' => {
                    let last = *last;
                    self.next();
                    self.next();
                    last
                }
                _ => first,
            };
            if !first.is_ascii() || !last.is_ascii() {
                return Err(GlobError::NotAscii);
            }
            if last < first {
                return Err(GlobError::Range);
            }
            ranges.push((first, last));
        }
    }
}

impl Choice {
    fn new(written: Vec<Written>) -> Self {
        let tokens = tell_stars(&written);
        let plain = tokens.iter().take_while(|token| matches!(token, Token::Byte(_))).count();
        let (prefix, rest) = tokens.split_at(plain);
        let bytes = prefix.iter().map(|token| if let Token::Byte(byte) = token { *byte } else { 0 });
        Self { prefix: bytes.collect(), rest: rest.into() }
    }

    fn matches(&self, path: &[u8]) -> bool {
        path.strip_prefix(&*self.prefix).is_some_and(|rest| matches(&self.rest, rest))
    }
}

/// Tells one star from two, and two that cross directories from two that do not.
fn tell_stars(written: &[Written]) -> Vec<Token> {
    let slash = Written::Token(Token::Byte(b'/'));
    let mut tokens: Vec<Token> = Vec::new();
    let mut rest = written;
    while let Some((first, behind)) = rest.split_first() {
        let begins = tokens.last().is_none_or(|last| matches!(last, Token::Byte(b'/') | Token::Directories));
        match (first, behind) {
            (Written::Star, [Written::Star]) if begins => {
                tokens.push(Token::Everything);
                break;
            }
            (Written::Star, [Written::Star, next, behind @ ..]) if begins && *next == slash => {
                if tokens.last() != Some(&Token::Directories) {
                    tokens.push(Token::Directories);
                }
                rest = behind;
                continue;
            }
            (Written::Star, _) => {
                if tokens.last() != Some(&Token::Star) {
                    tokens.push(Token::Star);
                }
            }
            (Written::Token(token), _) => tokens.push(token.clone()),
        }
        rest = behind;
    }
    tokens
}

/// What a token is that stands for one byte; none for those that stand for several.
fn accepts(token: &Token, byte: u8) -> Option<bool> {
    match token {
        Token::Byte(wanted) => Some(*wanted == byte),
        Token::Any => Some(byte != b'/'),
        Token::Class { negated, ranges } => {
            let listed = ranges.iter().any(|(first, last)| (*first..=*last).contains(&byte));
            Some(byte != b'/' && listed != *negated)
        }
        Token::Star | Token::Directories | Token::Everything => None,
    }
}

/// Takes the shortest for each star first. When the rest does not match, only the last star can help, and when that
/// is at a slash, only the last `**/`: whatever those before took more of, these could take as well.
fn matches(tokens: &[Token], path: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    // Where to go on when the rest does not match: the token behind, and what it was tried at.
    let mut star: Option<(usize, usize)> = None;
    let mut directories: Option<(usize, usize)> = None;
    loop {
        match (tokens.get(token), path.get(at)) {
            (None, None) | (Some(Token::Everything), _) => return true,
            (Some(Token::Star), _) => {
                token += 1;
                star = Some((token, at));
                continue;
            }
            (Some(Token::Directories), _) => {
                token += 1;
                (star, directories) = (None, Some((token, at)));
                continue;
            }
            (Some(wanted), Some(byte)) if accepts(wanted, *byte) == Some(true) => {
                (token, at) = (token + 1, at + 1);
                continue;
            }
            _ => {}
        }
        if let Some((behind, tried)) = star
            && path.get(tried).is_some_and(|byte| *byte != b'/')
        {
            (token, at) = (behind, tried + 1);
            star = Some((behind, at));
            continue;
        }
        let Some((behind, tried)) = directories else { return false };
        let Some(slash) = path.get(tried..).and_then(|rest| memchr::memchr(b'/', rest)) else { return false };
        (token, at) = (behind, tried + slash + 1);
        (star, directories) = (None, Some((behind, at)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(glob: &str, yes: &[&str], no: &[&str]) {
        let read = Glob::new(glob).unwrap();
        yes.iter().for_each(|path| assert!(read.is_match(path), "{glob} should match {path}"));
        no.iter().for_each(|path| assert!(!read.is_match(path), "{glob} should not match {path}"));
    }

    #[test]
    fn each_form_matches_what_it_says_and_nothing_else() {
        check("/etc/mtab", &["/etc/mtab"], &["/etc/mtab2", "/etc/mta", "/etc/mtab/x", ""]);
        check("/etc/*.conf", &["/etc/a.conf", "/etc/.conf"], &["/etc/a/b.conf", "/etc/a.conf2"]);
        check("/a?c", &["/abc"], &["/ac", "/abbc", "/a/c"]);
        check("/srv/**", &["/srv/a", "/srv/a/b"], &["/srv", "/srv2/a"]);
        check("/srv/**/tmp", &["/srv/tmp", "/srv/a/tmp", "/srv/a/b/tmp"], &["/srv/atmp", "/srv/a/tmp/b"]);
        check("**/*.swp", &["/a/.x.swp", "x.swp", "/x.swp"], &["/x.swp/y"]);
        check("**", &["", "/", "/a/b"], &[]);
        check("/a**b", &["/ab", "/axb"], &["/a/b"]);
        check("/**/a/**/b", &["/a/b", "/x/a/y/z/b", "/a/a/b"], &["/a", "/b", "/a/xb"]);
        check("/[a-c!]x", &["/ax", "/!x"], &["/dx", "//x"]);
        check("/[!a-c]x", &["/dx", "/-x"], &["/ax", "//x"]);
        check("/[]x]", &["/]", "/x"], &["/["]);
        check("/[a-]", &["/a", "/-"], &["/b"]);
        check("/{a,b{c,d*}}/e", &["/a/e", "/bc/e", "/bdd/e"], &["/b/e", "/bd/d/e", "/c/e"]);
        check(r"/\*\{", &["/*{"], &["/a{"]);
        check("/*a*b*c", &["/abc", "/xaxbxcc", "/aabbcbc"], &["/acb", "/abcd"]);
        assert!(Glob::new("/*").unwrap().is_match(std::ffi::OsStr::from_bytes(b"/\xff")));
    }

    #[test]
    fn what_is_no_glob_is_refused_with_the_reason() {
        for (text, why) in [
            ("/[", GlobError::OpenClass),
            ("/[]", GlobError::OpenClass),
            ("/[z-a]", GlobError::Range),
            ("/[ä]", GlobError::NotAscii),
            ("/{a", GlobError::Braces),
            ("/a}", GlobError::Braces),
            ("/{a,b}{c,d}{e,f}{g,h}{i,j}{k,l}{m,n}{o,p}{q,r}", GlobError::Choices),
            ("/{{{{{{{{{a}}}}}}}}}", GlobError::Choices),
            ("/a\\", GlobError::Backslash),
        ] {
            assert_eq!(Glob::new(text).unwrap_err(), why, "{text}");
        }
        assert_eq!(Glob::new(&"a".repeat(BYTES_MAX + 1)).unwrap_err(), GlobError::Long);
    }

    /// What a glob means, said in the plainest way.
    fn plainly(tokens: &[Token], path: &[u8]) -> bool {
        let Some((first, rest)) = tokens.split_first() else { return path.is_empty() };
        let tails = || (0..=path.len()).map(|at| path.split_at(at));
        match first {
            Token::Everything => true,
            Token::Star => {
                tails().take_while(|(took, _)| !took.contains(&b'/')).any(|(_, left)| plainly(rest, left))
            }
            Token::Directories => tails()
                .filter(|(took, _)| took.last().is_none_or(|last| *last == b'/'))
                .any(|(_, left)| plainly(rest, left)),
            one => path
                .split_first()
                .is_some_and(|(byte, left)| accepts(one, *byte) == Some(true) && plainly(rest, left)),
        }
    }

    proptest! {
        #[test]
        fn no_way_to_match_is_overlooked(glob in "[ab/*?]{0,10}", path in "[ab/]{0,10}") {
            for choice in Glob::new(&glob).unwrap().choices {
                let all: Vec<Token> =
                    choice.prefix.iter().map(|byte| Token::Byte(*byte)).chain(choice.rest.iter().cloned()).collect();
                prop_assert_eq!(choice.matches(path.as_bytes()), plainly(&all, path.as_bytes()), "{} {}", glob, path);
            }
        }

        #[test]
        fn an_escaped_text_matches_itself_alone(text in "[ab/*?{}\\[\\]\\\\!-]{0,12}", other in "[ab/*?{}\\[\\]\\\\!-]{0,12}") {
            let glob = Glob::new(&escape(&text)).unwrap();
            prop_assert!(glob.is_match(&text));
            prop_assert_eq!(glob.is_match(&other), text == other);
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), path in any::<Vec<u8>>()) {
            if let Ok(glob) = Glob::new(&text) {
                glob.is_match(std::ffi::OsStr::from_bytes(&path));
            }
        }
    }
}
