//! What a program that listens was started to do, by its name and its arguments: which script it runs, and whether it hands whoever
//! connects to a shell. Arguments are anybody's; they are read as the program itself reads them, and what is not understood says
//! nothing.

use std::borrow::Cow;

/// Shells by name.
const SHELLS: [&str; 10] = ["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "csh", "tcsh", "fish"];
/// Programs that carry bytes between a socket and whatever else they are told.
const RELAYS: [&str; 9] =
    ["nc", "ncat", "netcat", "nc.traditional", "nc.openbsd", "socat", "socat1", "cryptcat", "sbd"];
/// Names of interpreters; versions follow. With the letters of one-dash options that give code, and of those that take a value.
const INTERPRETERS: [(&str, &[u8], &[u8]); 9] = [
    ("python", b"c", b"mWXQ"),
    ("pypy", b"c", b"mWX"),
    ("perl", b"eE", b"MmIxFCDi"),
    ("ruby", b"e", b"rIEFxK"),
    ("node", b"ep", b"r"),
    ("php", b"rBRE", b"cdtSzf"),
    ("lua", b"e", b"l"),
    ("tclsh", b"", b""),
    ("java", b"", b""),
];
/// Options of a Java machine that take the next argument.
const JAVA_VALUES: [&[u8]; 7] =
    [b"-cp", b"-classpath", b"--class-path", b"-p", b"--module-path", b"--add-modules", b"--add-opens"];
/// Longest part of an argument that becomes part of a program's name.
const NAME_BYTES_MAX: usize = 256;

/// What a program hands whoever connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It is a shell itself.
    Shell,
    /// It is an interpreter that was given its code as an argument.
    Inline,
    /// It is an interpreter that reads its code from its input.
    Input,
    /// It is a relay that starts a program for whoever connects.
    Executes,
    /// It is a relay between whose ends a shell runs.
    Piped,
}

impl Manner {
    /// In a sentence, after what listens.
    pub fn words(self) -> &'static str {
        match self {
            Self::Shell => "it is a shell",
            Self::Inline => "an interpreter that was given its code on the command line",
            Self::Input => "an interpreter that reads its code from its input",
            Self::Executes => "it starts a program for whoever connects",
            Self::Piped => "its input or output is a shell's",
        }
    }

    /// In evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Inline => "inline-code",
            Self::Input => "code-from-input",
            Self::Executes => "executes",
            Self::Piped => "piped-to-shell",
        }
    }
}

/// What is run by an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code<'a> {
    /// A file.
    Script(&'a [u8]),
    /// A module by name.
    Module(&'a [u8]),
    /// What an option holds.
    Inline,
    /// What comes by the input.
    Input,
}

/// A program as it was started: executable, and arguments from the program's own name on.
#[derive(Clone, Copy, Debug)]
pub struct Started<'a> {
    executable: &'a [u8],
    arguments: &'a [u8],
}

impl<'a> Started<'a> {
    /// `arguments` are separated by zeros.
    pub fn new(executable: &'a [u8], arguments: &'a [u8]) -> Self {
        Self { executable, arguments }
    }

    /// What it is called: of a box of many tools the tool.
    pub fn name(&self) -> Cow<'a, str> {
        let name = base(self.executable);
        if name != b"busybox" && name != b"toybox" {
            return String::from_utf8_lossy(clip(name));
        }
        let mut all = self.all();
        let first = all.next().map(base).unwrap_or_default();
        let tool = if first == name { all.next().unwrap_or(name) } else { first };
        String::from_utf8_lossy(clip(tool))
    }

    /// What an interpreter runs; none where it is none.
    pub fn code(&self) -> Option<Code<'a>> {
        let name = self.name();
        if is_shell(&name) {
            return Some(self.code_of(b"c", b"oO"));
        }
        if name == "java" {
            return Some(self.java());
        }
        let interpreter = INTERPRETERS.iter().find(|(known, ..)| {
            let rest = name.strip_prefix(known);
            // `python3.11`, `php-fpm8.2` is another program.
            rest.is_some_and(|rest| {
                rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') || rest == "js"
            })
        });
        interpreter.map(|(_, inline, values)| self.code_of(inline, values))
    }

    /// Whether it is told to start a program for whoever connects, or runs what no file holds.
    pub fn manner(&self) -> Option<Manner> {
        let name = self.name();
        if is_shell(&name) {
            return Some(Manner::Shell);
        }
        if is_relay(&name) {
            return self.executes(&name).then_some(Manner::Executes);
        }
        match self.code()? {
            Code::Inline => Some(Manner::Inline),
            Code::Input => Some(Manner::Input),
            Code::Script(_) | Code::Module(_) => None,
        }
    }

    /// Whether it carries bytes between a socket and its input and output, or what else it is told.
    pub fn is_relay(&self) -> bool {
        is_relay(&self.name())
    }

    /// What tells it from other programs: the executable, and what an interpreter runs.
    pub fn identity(&self) -> String {
        let executable = String::from_utf8_lossy(clip(self.executable)).into_owned();
        match self.code() {
            Some(Code::Script(script)) => format!("{executable} {}", String::from_utf8_lossy(clip(script))),
            Some(Code::Module(module)) => {
                format!("{executable} -m {}", String::from_utf8_lossy(clip(module)))
            }
            Some(Code::Inline) => format!("{executable} (code on its command line)"),
            Some(Code::Input) => format!("{executable} (code by its input)"),
            None if base(self.executable) != self.name().as_bytes() => {
                format!("{executable} {}", self.name())
            }
            None => executable,
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.arguments.split(|byte| *byte == 0)
    }

    /// Arguments after the program's name, without the empty one that the last zero leaves.
    fn given(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let boxed = matches!(base(self.executable), b"busybox" | b"toybox");
        let first = self.all().next().map(base).unwrap_or_default();
        let names = if boxed && first == base(self.executable) { 2 } else { 1 };
        self.all().skip(names).filter(|argument| !argument.is_empty())
    }

    fn code_of(&self, inline: &[u8], values: &[u8]) -> Code<'a> {
        let mut given = self.given();
        while let Some(argument) = given.next() {
            let Some(letters) = argument.strip_prefix(b"-") else { return Code::Script(argument) };
            if letters.is_empty() {
                return Code::Input;
            }
            if let Some(word) = letters.strip_prefix(b"-") {
                let word = word.split(|byte| *byte == b'=').next().unwrap_or_default();
                if matches!(word, b"eval" | b"print" | b"run") {
                    return Code::Inline;
                }
                continue;
            }
            // Letters up to the first that takes a value, which is the rest, or the next argument.
            let valued = letters.iter().position(|letter| values.contains(letter));
            let flags = letters.get(..valued.unwrap_or(letters.len())).unwrap_or_default();
            if flags.iter().any(|letter| inline.contains(letter)) {
                return Code::Inline;
            }
            let Some(at) = valued else { continue };
            let rest = letters.get(at + 1..).unwrap_or_default();
            let takes_rest_only = matches!(letters.get(at), Some(b'C' | b'D' | b'i' | b'x' | b'M'));
            let value = if rest.is_empty() && !takes_rest_only { given.next() } else { Some(rest) };
            match (letters.get(at), value) {
                (Some(b'm'), Some(module)) if values.contains(&b'W') => return Code::Module(module),
                (Some(b'f'), Some(file)) => return Code::Script(file),
                // A web server for tests: it runs what a directory holds.
                (Some(b'S'), Some(address)) => return Code::Module(address),
                _ => {}
            }
        }
        Code::Input
    }

    /// A Java machine runs an archive or a class, never its input.
    fn java(&self) -> Code<'a> {
        let mut given = self.given();
        while let Some(argument) = given.next() {
            match argument {
                b"-jar" => return Code::Script(given.next().unwrap_or_default()),
                b"-m" | b"--module" => return Code::Module(given.next().unwrap_or_default()),
                _ if JAVA_VALUES.contains(&argument) => drop(given.next()),
                _ if argument.starts_with(b"-") || argument.starts_with(b"@") => {}
                class => return Code::Module(class),
            }
        }
        Code::Module(b"")
    }

    fn executes(&self, name: &str) -> bool {
        if name.starts_with("socat") {
            return self.given().any(|address| {
                let upper = address.to_ascii_uppercase();
                let begins = |word: &[u8]| {
                    upper.starts_with(word) || memchr::memmem::find(&upper, &[b"!!", word].concat()).is_some()
                };
                [b"EXEC:".as_slice(), b"SYSTEM:", b"SHELL:"].into_iter().any(begins)
            });
        }
        self.given().any(|argument| {
            let word = argument
                .strip_prefix(b"--")
                .map(|word| word.split(|byte| *byte == b'=').next().unwrap_or_default());
            match word {
                Some(word) => matches!(word, b"exec" | b"sh-exec" | b"lua-exec"),
                None => argument.strip_prefix(b"-").is_some_and(has_exec),
            }
        })
    }
}

/// Whether letters of one dash hold the one that has a program started, before one that takes the rest for its value.
fn has_exec(letters: &[u8]) -> bool {
    let until =
        letters.iter().position(|letter| b"pswiqgGoTxXIOmM".contains(letter)).unwrap_or(letters.len());
    letters.get(..until).unwrap_or_default().iter().any(|letter| matches!(letter, b'e' | b'c'))
}

/// Whether a program of that name is a shell.
pub fn is_shell(name: &str) -> bool {
    SHELLS.contains(&name)
}

fn is_relay(name: &str) -> bool {
    RELAYS.contains(&name)
}

/// The last part of a path.
pub fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn clip(bytes: &[u8]) -> &[u8] {
    bytes.get(..NAME_BYTES_MAX).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zeros(words: &str) -> Vec<u8> {
        words.split(' ').flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect()
    }

    fn check(executable: &str, words: &str, expected: Option<Manner>) {
        let arguments = zeros(words);
        let started = Started::new(executable.as_bytes(), &arguments);
        assert_eq!(started.manner(), expected, "{executable}: {words}");
    }

    #[test]
    fn who_hands_a_shell_to_whoever_connects_is_known() {
        use Manner::{Executes, Inline, Input, Shell};
        check("/usr/bin/bash", "bash", Some(Shell));
        check("/usr/bin/dash", "sh -c x", Some(Shell));
        check("/usr/bin/busybox", "sh", Some(Shell));
        check("/usr/bin/nc.traditional", "nc -l -p 4444 -e /bin/sh", Some(Executes));
        check("/usr/bin/nc.traditional", "nc -lvnp 4444 -c sh", Some(Executes));
        check("/usr/bin/nc.traditional", "nc -lep 4444 /bin/sh", Some(Executes));
        check("/usr/bin/busybox", "busybox nc -ll -p 4444 -e sh", Some(Executes));
        check("/usr/bin/busybox", "nc -ll -p 4444 -e sh", Some(Executes));
        check("/usr/bin/ncat", "ncat -l 4444 --sh-exec=bash", Some(Executes));
        check("/usr/bin/socat", "socat TCP-LISTEN:1,fork EXEC:/bin/sh", Some(Executes));
        check("/usr/bin/socat", "socat -d tcp-l:1 system:id", Some(Executes));
        check("/usr/bin/socat1", "socat TCP-L:1 -!!SHELL:sh", Some(Executes));
        check("/usr/bin/python3.11", "python3 -c import", Some(Inline));
        check("/usr/bin/python3.11", "python3 -Iuc import", Some(Inline));
        check("/usr/bin/python3.11", "python3", Some(Input));
        check("/usr/bin/python3.11", "python3 -u -", Some(Input));
        check("/usr/bin/perl", "perl -MIO::Socket -e x", Some(Inline));
        check("/usr/bin/perl", "perl -ne x", Some(Inline));
        check("/usr/bin/ruby3.1", "ruby -rsocket -e x", Some(Inline));
        check("/usr/bin/node", "node --eval x", Some(Inline));
        check("/usr/bin/php8.2", "php -r x", Some(Inline));
    }

    #[test]
    fn who_serves_from_a_file_is_not() {
        check("/usr/sbin/nginx", "nginx: master process", None);
        check("/usr/bin/nc.openbsd", "nc -l -p 4444", None);
        check("/usr/bin/nc.openbsd", "nc -lk 4444", None);
        check("/usr/bin/nc.openbsd", "nc -l -s10.0.0.1 -w1 4444", None);
        check("/usr/bin/socat", "socat TCP-LISTEN:1,fork UNIX-CONNECT:/run/exec:x", None);
        check("/usr/bin/python3.11", "python3 -m http.server 80", None);
        check("/usr/bin/python3.11", "python3 -mhttp.server", None);
        check("/usr/bin/python3.11", "/usr/bin/python3 -u /usr/bin/served -c /etc/served.conf", None);
        check("/usr/bin/perl", "perl -T -w /usr/bin/munin-node", None);
        check("/usr/bin/node", "node --require x server.js -e", None);
        check("/usr/bin/php8.2", "php -S 127.0.0.1:80 -t /srv", None);
        check("/usr/bin/php8.2", "php -f /srv/x.php -r", None);
        check("/usr/sbin/php-fpm8.2", "php-fpm: master process", None);
        check("/usr/lib/jvm/bin/java", "java -Xmx1g -cp a.jar:b.jar org.example.Main -e", None);
        check("/usr/lib/jvm/bin/java", "java", None);
    }

    #[test]
    fn programs_that_an_interpreter_runs_are_told_apart() {
        let identity =
            |executable: &str, words: &str| Started::new(executable.as_bytes(), &zeros(words)).identity();
        assert_eq!(identity("/usr/sbin/nginx", "nginx: worker process"), "/usr/sbin/nginx");
        assert_eq!(
            identity("/usr/bin/python3.11", "python3 -m http.server 80"),
            "/usr/bin/python3.11 -m http.server"
        );
        assert_eq!(
            identity("/usr/bin/python3.11", "python3 -s /srv/a.py x"),
            "/usr/bin/python3.11 /srv/a.py"
        );
        assert_eq!(identity("/usr/bin/java", "java -jar /srv/a.jar"), "/usr/bin/java /srv/a.jar");
        assert_eq!(identity("/usr/bin/busybox", "httpd -p 80"), "/usr/bin/busybox httpd");
    }

    proptest! {
        #[test]
        fn no_arguments_break_anything(executable in "(/usr/bin/)?(python3|perl|nc|socat|busybox|java|php|sh|node|\\PC{0,8})", arguments: Vec<u8>) {
            let started = Started::new(executable.as_bytes(), &arguments);
            let _ = (started.manner(), started.code(), started.name());
            prop_assert!(started.identity().len() <= 2 * 3 * NAME_BYTES_MAX + 64);
        }
    }
}
